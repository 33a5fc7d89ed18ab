"""Bundles in ONNX Runtime: their golden rows, and the rows that `tandem predict` scored.

usage: check_bundles.py FOLDER…      each with `bundle/` and, where rows were predicted, `predictions/`
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bundle import Bundle

TOLERANCE = 1e-5


def difference(a, b):
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1.0), initial=0.0))


def check(folder):
    bundle = Bundle(folder / "bundle")
    golden = pq.read_table(folder / "bundle" / "golden.parquet").to_pylist()
    assert len(golden) > 100, len(golden)
    inputs = bundle.inputs(golden)
    for name, found in inputs.items():
        if found.dtype == np.float32:
            worst = difference(found, np.concatenate([row[f"tandem.{name}"] for row in golden]))
            assert worst <= TOLERANCE, f"{folder}: input {name} differs by {worst}"
    compare(folder, bundle, golden, "tandem.")
    if "self_contained" in bundle.schema["onnx"]:
        compare(folder, bundle, golden, "tandem.", bundle.predict_from_ids)
    # One row alone is a batch too.
    compare(folder, bundle, golden[:1], "tandem.")
    parts = sorted((folder / "predictions").glob("*.parquet"))
    for part in parts:
        compare(folder, bundle, pq.read_table(part).to_pylist(), "")
    print(f"{folder.name}: {len(golden)} golden rows and {len(parts)} files agree")


def compare(folder, bundle, rows, prefix, predict=None):
    for name, found in (predict or bundle.predict)(rows).items():
        expected = np.concatenate([np.ravel(row[prefix + name]) for row in rows])
        worst = difference(found, expected)
        assert worst <= TOLERANCE, f"{folder}: {name} differs by {worst}"


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        check(Path(folder))
