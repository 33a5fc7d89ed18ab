"""Vectors out of a Redis server, scored by ONNX Runtime, against what `tandem predict` wrote.

usage: check_redis.py BUNDLE SOCKET PREDICTIONS
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import redis
from bundle import Bundle
from check_bundles import TOLERANCE, difference

folder, socket, predictions = sys.argv[1:]


class FromRedis(Bundle):
    """A bundle whose vectors are asked of the server."""

    client = redis.Redis(unix_socket_path=socket)

    def read_table(self, table):
        return None

    def row(self, table, id):
        stored = self.client.get(f"{self.schema['job']}:{table}:{id}")
        return np.zeros(self.dims[table], np.float32) if stored is None else np.frombuffer(stored, "<f4")


bundle = FromRedis(folder)
rows = [row for part in sorted(Path(predictions).glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
assert bundle.client.dbsize() == sum(t["rows"] for t in bundle.schema["tables"]) > 0
for name, found in bundle.predict(rows).items():
    worst = difference(found, np.concatenate([np.ravel(row[name]) for row in rows]))
    assert worst <= TOLERANCE, f"{name} differs by {worst}"
print(f"{len(rows)} rows agree, {bundle.client.dbsize()} keys")
