"""The tables of a bundle in DuckDB.

usage: check_duckdb.py BUNDLE
"""

import json
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq

folder = Path(sys.argv[1])
for table in json.loads((folder / "schema.json").read_text())["tables"]:
    file = folder / table["files"]["parquet"]
    kinds = dict(duckdb.sql(f"SELECT column_name, column_type FROM (DESCRIBE FROM '{file}')").fetchall())
    assert kinds == {"id": "UBIGINT", "vector": "FLOAT[]"}, kinds
    rows, distinct, shortest, longest = duckdb.sql(
        f"SELECT count(*), count(DISTINCT id), min(len(vector)), max(len(vector)) FROM '{file}'"
    ).fetchall()[0]
    assert rows == distinct == table["rows"] > 0, (table, rows, distinct)
    assert shortest == longest == table["dim"], (table, shortest, longest)
    norms = duckdb.sql(f"SELECT sqrt(list_inner_product(vector, vector)) FROM '{file}' ORDER BY id").fetchall()
    rows = pq.read_table(file).sort_by("id")
    expected = np.linalg.norm(np.array(rows["vector"].to_pylist()), axis=1)
    assert np.allclose([norm for (norm,) in norms], expected, atol=1e-5), table
    print(f"{table['name']}: {len(norms)} rows")
