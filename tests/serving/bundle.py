"""A bundle of `tandem export` as a serving team reads it: schema.json, the tables, ONNX Runtime."""

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import xxhash

MASK = (1 << 64) - 1


def mix(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def id_of(value):
    return xxhash.xxh3_64_intdigest(value.encode()) if isinstance(value, str) else int(value) & MASK


def ids_of(source, row):
    """The ids of one feature of one row, a dict."""
    if source["kind"] == "cross":
        h = mix(0)
        for column in source["columns"]:
            value = row.get(column)
            h = mix(h ^ mix(0x6E756C6C00000000 if value is None else id_of(value)))
        return [h]
    value = row.get(source["column"])
    if source["kind"] == "quantile":
        return [source["null_id"] if value is None else sum(b <= value for b in source["boundaries"])]
    values = value if isinstance(value, list) else [value]
    ids = [id_of(v) for v in values if v is not None]
    n = len(ids) if source["max_len"] is None else min(source["max_len"], len(ids))
    return ids[:n] if source["keep"] == "first" else ids[len(ids) - n:]


def number(transform, x):
    kind = transform["kind"]
    if kind == "standardize":
        return (x - transform["mean"]) / transform["std"]
    if kind == "log1p":
        return math.copysign(math.log1p(abs(x)), x)
    if kind == "min_max":
        low, high = transform["min"], transform["max"]
        return min(max((x - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    return x


class Bundle:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.schema = json.loads((self.folder / "schema.json").read_text())
        self.session = onnxruntime.InferenceSession(self.folder / self.schema["onnx"]["file"])
        self.table_of = {f["name"]: f["table"] for f in self.schema["ids"]}
        self.dims = {t["name"]: t["dim"] for t in self.schema["tables"]}
        self.tables = {t["name"]: self.read_table(t) for t in self.schema["tables"]}

    def read_table(self, table):
        rows = pq.read_table(self.folder / table["files"]["parquet"])
        vectors = np.concatenate(rows["vector"].combine_chunks().to_numpy(zero_copy_only=False)) if len(rows) else []
        vectors = np.asarray(vectors, np.float32).reshape(-1, table["dim"])
        return dict(zip(rows["id"].to_pylist(), vectors))

    def row(self, table, id):
        """The vector of an id: zeros where the table has none."""
        return self.tables[table].get(id, np.zeros(self.dims[table], np.float32))

    def inputs(self, rows):
        """The inputs of the ONNX model for some rows, a list of dicts."""
        s, n = self.schema, len(rows)
        ids = {f["name"]: [ids_of(f["source"], row) for row in rows] for f in s["ids"]}
        vectors = {name: [[self.row(self.table_of[name], i) for i in row] for row in ids[name]] for name in ids}
        inputs = {"pooled": np.zeros((n, sum(p["width"] for p in s["pooled"])), np.float32)}
        for part in s["pooled"]:
            for r, found in enumerate(vectors[part["feature"]]):
                # A side of a pair counts only where the other side has an id.
                if found and (not part.get("with") or ids[part["with"]][r]):
                    v = np.sum(found, axis=0) / (len(found) if part["pooling"] == "mean" else 1)
                    inputs["pooled"][r, part["start"]:part["start"] + part["width"]] = v
        for q in s["sequences"]:
            values, mask = np.zeros((n, q["max_len"], q["dim"]), np.float32), np.zeros((n, q["max_len"]), np.float32)
            for r, found in enumerate(vectors[q["feature"]]):
                for place, v in enumerate(found[-q["max_len"]:]):
                    values[r, place], mask[r, place] = v, 1
            inputs[q["values"]], inputs[q["mask"]] = values, mask
        inputs["dense"] = np.zeros((n, sum(d["width"] for d in s["dense"])), np.float32)
        for d in s["dense"]:
            for r, row in enumerate(rows):
                value, at = row.get(d["column"]), slice(d["start"], d["start"] + d["width"])
                is_list = isinstance(value, list)
                inputs["dense"][r, at] = d["null"] if value is None else value if is_list else number(d["transform"], value)
        if s.get("scenario"):
            numbers = {id: i for i, id in enumerate(s["scenario"]["ids"])}
            of = lambda v: len(numbers) if v is None else numbers.get(id_of(v), len(numbers))
            inputs["scenario"] = np.array([of(row.get(s["scenario"]["column"])) for row in rows], np.int64)
        return {i["name"]: inputs[i["name"]] for i in s["onnx"]["inputs"]}

    def predict_from_ids(self, rows):
        """Predictions by the model that holds the tables."""
        model, numbers, inputs = self.schema["onnx"]["self_contained"], self.inputs(rows), {}
        session = onnxruntime.InferenceSession(self.folder / model["file"])
        for declared in model["inputs"]:
            kind, _, feature = declared["name"].partition(".")
            if not feature:
                inputs[kind] = numbers[kind]
                continue
            source = next(f["source"] for f in self.schema["ids"] if f["name"] == feature)
            ids = [ids_of(source, row) for row in rows]
            width = declared["dims"][0] if declared["dims"][0] > 0 else max([1] + [len(row) for row in ids])
            if kind == "ids":
                padded = np.array([row + [0] * (width - len(row)) for row in ids], np.uint64)
                inputs[declared["name"]] = padded.view(np.int64)
            else:
                mask = [[1.0] * len(row) + [0.0] * (width - len(row)) for row in ids]
                inputs[declared["name"]] = np.array(mask, np.float32)
        names = [t["prediction"] for t in self.schema["tasks"]]
        return dict(zip(names, session.run(names, inputs)))

    def predict(self, rows):
        """Predictions of every task: `[rows, width]`."""
        names = [t["prediction"] for t in self.schema["tasks"]]
        return dict(zip(names, self.session.run(names, self.inputs(rows))))
