#!/usr/bin/env python3
"""Times tandem's decoding of Parquet against pyarrow's, in turn, and prints medians and ratios.

usage: benches/decode.py [--rounds N] [--work DIR] [JOB...]

Both read the same columns of the same training files. On one thread pyarrow (installed from PyPI under --work, default
runs/decode) reads row group after row group into numpy arrays: numbers and ids as they are, strings as codes of a dictionary,
lists as values and offsets. tandem makes batches: strings hashed, sequences cut, numbers transformed; in the order of the
files on one thread and on two, as evaluation reads them, and on one thread shuffled over 64 lanes, as each of training's two
does. Without JOB, jobs/bench_ctr.yaml on a synthetic log, and those jobs on public data whose files are there."""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("jobs", nargs="*", type=pathlib.Path)
arguments.add_argument("--rounds", type=int, default=7)
arguments.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/decode"))
arguments.add_argument("--tandem", default="target/release/tandem")
arguments.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
options = arguments.parse_args()

PYTHON = options.work / "venv/bin/python"
LOG = options.work / "log"
PUBLIC = ["census", "ml1m", "taobao"]


def peer():
    """Reads what standard input names, and prints the seconds it took."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    asked = json.load(sys.stdin)
    start = time.perf_counter()
    for path in asked["files"]:
        strings = [field.name for field in pq.read_schema(path) if pa.types.is_string(field.type)]
        file = pq.ParquetFile(path, read_dictionary=[name for name in strings if name in asked["columns"]])
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=asked["columns"], use_threads=False)
            arrays = [array for column in table.columns for chunk in column.chunks for array in numpy_arrays(pa, chunk)]
            assert arrays
    print(time.perf_counter() - start)


def numpy_arrays(pa, chunk):
    if pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        return [chunk.offsets.to_numpy()] + numpy_arrays(pa, chunk.flatten())
    if pa.types.is_dictionary(chunk.type):
        return [chunk.indices.to_numpy(zero_copy_only=False)]
    return [chunk.to_numpy(zero_copy_only=False)]


def prepare():
    """Installs pyarrow, builds the benchmark and writes the log; the path of the benchmark."""
    run = lambda *command: subprocess.run(command, check=True, stdout=sys.stderr)
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", str(options.work / "venv"))
        run(str(PYTHON), "-m", "pip", "install", "-q", "pyarrow", "numpy")
    if not LOG.exists():
        spread = ",".join(str(round(10 ** (1 + i / 6.25))) for i in range(26))
        run(options.tandem, "synth", str(LOG), "--rows", "1300000", "--numeric", "13", "--cardinalities", spread)
    command = ["cargo", "bench", "--bench", "decode", "--no-run", "--message-format", "json"]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    artifacts = [json.loads(line) for line in built if '"executable":"' in line]
    return next(artifact["executable"] for artifact in artifacts if artifact["target"]["name"] == "decode")


def compare(bench, job, overrides):
    rates = {"in_order_s": [], "two_threads_s": [], "shuffled_s": [], "pyarrow": []}
    for round in range(options.rounds + 1):
        printed = subprocess.run([bench, str(job), *overrides], check=True, capture_output=True, text=True).stdout
        report = json.loads(printed)
        command = [str(PYTHON), __file__, "--peer"]
        seconds = subprocess.run(command, check=True, capture_output=True, text=True, input=printed).stdout
        # The first round only brings the files into memory.
        if round > 0:
            for name, values in rates.items():
                values.append(report["rows"] / float(report.get(name, seconds)))
    cells = [job.stem, len(report["columns"]), *(f"{statistics.median(values):,.0f}" for values in rates.values())]
    for ours in ["in_order_s", "two_threads_s", "shuffled_s"]:
        ratios = [a / b for a, b in zip(rates[ours], rates["pyarrow"])]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if options.peer:
    peer()
    sys.exit()
bench = prepare()
cases = [(job, []) for job in options.jobs]
if not cases:
    cases = [(pathlib.Path("jobs/bench_ctr.yaml"), [f"data.train={LOG}/train"])]
    public = [pathlib.Path(f"jobs/{name}_mmoe.yaml") for name in PUBLIC]
    cases += [(job, []) for job in public if pathlib.Path("../shared/data").exists()]
OURS = ["in order", "in order, 2 threads", "shuffled"]
print("| job | columns |", *(f"{way}, rows/s |" for way in OURS + ["pyarrow"]), *(f"{way} / pyarrow |" for way in OURS))
print("|---|---|" + "---|" * (2 * len(OURS) + 1))
for job, overrides in cases:
    compare(bench, job, overrides)
