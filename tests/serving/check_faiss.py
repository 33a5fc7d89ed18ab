"""A table in FAISS: its neighbours against those of `tandem inspect`, and the recall of an HNSW index.

usage: check_faiss.py BUNDLE QUERY_TABLE TABLE < neighbours
The input has one JSON object a line: {"id": …, "neighbours": [{"id": …, "score": …}, …]}.
"""

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

folder, query_table, table = sys.argv[1:]
schema = json.loads((Path(folder) / "schema.json").read_text())


def read(name):
    file = next(t["files"]["parquet"] for t in schema["tables"] if t["name"] == name)
    rows = pq.read_table(Path(folder) / file)
    return np.array(rows["id"].to_pylist(), np.uint64), np.array(rows["vector"].to_pylist(), np.float32)


ids, vectors = read(table)
query_ids, query_vectors = read(query_table)
query_of = dict(zip(query_ids.tolist(), query_vectors))
flat = faiss.IndexFlatIP(vectors.shape[1])
flat.add(vectors)
hnsw = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
hnsw.hnsw.efConstruction, hnsw.hnsw.efSearch = 100, 64
hnsw.add(vectors)

asked = [json.loads(line) for line in sys.stdin]
assert len(asked) >= 5, len(asked)
hits = 0
for query in asked:
    expected = query["neighbours"]
    vector = query_of[query["id"]][None]
    scores, places = flat.search(vector, len(expected))
    assert np.allclose(scores[0], [n["score"] for n in expected], atol=1e-5), (query, scores)
    # Where scores are equal the order is free.
    distinct = len(np.unique(np.round(scores[0], 5))) == len(expected)
    assert not distinct or ids[places[0]].tolist() == [n["id"] for n in expected], (query, ids[places[0]])
    _, near = hnsw.search(vector, len(expected))
    hits += len(set(near[0]) & set(places[0]))
recall = hits / sum(len(query["neighbours"]) for query in asked)
print(f"{len(asked)} queries agree with FAISS's flat index; recall of HNSW: {recall:.3f}")
assert recall > 0.5, recall
