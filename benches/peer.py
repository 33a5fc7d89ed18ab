#!/usr/bin/env python3
"""Times tandem against TorchRec on the same log, model, batch and cores, in turn, and prints medians and ratios.

usage: benches/peer.py [--rounds N] [--work DIR] [--bench DIR] [--tandem BIN] [--only CASE]...

The peer's job and the log's maker are in --bench (default ../shared/bench). The peer is installed from PyPI into a virtual
environment under --work (default runs/peer, about 3 GB), and the log is written there; both are kept for the next time.

Both sides read the log from Parquet, with one thread a rank, and have two numbers. *Steps*: rows a second of steps 41 to
240, as the peer prints them; tandem's are taken from when those steps appear in its metrics. *Whole*: the rows of the run
divided by the seconds from the start of its processes to their end; tandem trains 256 steps and saves a checkpoint, the
peer 240 and saves nothing."""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--rounds", type=int, default=5)
arguments.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/peer"))
arguments.add_argument("--bench", type=pathlib.Path, default=pathlib.Path("../shared/bench"))
arguments.add_argument("--tandem", default="target/release/tandem")
arguments.add_argument("--only", action="append", default=[], metavar="CASE")
options = arguments.parse_args()

WORK = options.work.resolve()
PYTHON = WORK / "venv/bin/python"
LOG = WORK / "ctr1m"
WARM, STEPS, BATCH = 40, 200, 4096

# name: ranks, tandem's options, the peer's options (None: tandem alone)
CASES = {
    "f32": (2, [], []),
    "f32 mgda": (2, ["balance.kind=mgda"], ["--balance", "mgda"]),
    "bf16": (2, ["precision=bf16"], ["--bf16"]),
    "bf16 mgda": (2, ["precision=bf16", "balance.kind=mgda"], ["--bf16", "--balance", "mgda"]),
    "f32, 1 rank": (1, [], None),
    "f32 uncertainty": (2, ["balance.kind=uncertainty"], None),
}
# What the medians of two of tandem's own cases are compared for.
RATIOS = [
    ("speed on 2 ranks / (2 x speed on 1 rank)", "f32", "f32, 1 rank", 0.5),
    ("time of an exact MGDA step / plain step", "f32", "f32 mgda", 1.0),
    ("time of an uncertainty step / plain step", "f32", "f32 uncertainty", 1.0),
]


def prepare():
    """Installs the peer and writes the log, unless they are there."""
    run = lambda *command: subprocess.run(command, check=True, stdout=sys.stderr)
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", str(WORK / "venv"))
        run(str(PYTHON), "-m", "pip", "install", "-q", "torch==2.14.1", "torchrec==1.9.2", "pyarrow", "scikit-learn")
        # torchrec asks for the build with CUDA.
        run(str(PYTHON), "-m", "pip", "uninstall", "-qy", "fbgemm-gpu")
        run(str(PYTHON), "-m", "pip", "install", "-q", "--no-deps", "fbgemm-gpu-cpu==1.9.0")
    if not LOG.exists():
        run(str(PYTHON), str(options.bench / "make_log.py"), str(LOG), str(1 << 20), "8", "7")


def tandem(ranks, overrides):
    """Rows a second: of the steps, and of the whole run."""
    folder = WORK / "run"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    command = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    command += [options.tandem, "train", "jobs/bench_ctr.yaml", "--quiet", "--run-dir", str(folder)]
    for override in [f"data.train={LOG}", "threads=1", f"train.log_every={WARM}", *overrides]:
        command += ["--set", override]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    start = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reached = {}
    while process.poll() is None:
        for event in events(folder):
            if event["event"] == "step":
                reached.setdefault(event["step"], time.monotonic())
        time.sleep(0.02)
    if process.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")
    whole = time.monotonic() - start
    rows = next(event["rows"] for event in events(folder) if event["event"] == "start")
    return STEPS * BATCH / (reached[WARM + STEPS] - reached[WARM]), rows / whole


def events(folder):
    """The complete lines of a run's metrics."""
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    return [json.loads(line) for line in lines]


def torchrec(ranks, flags):
    """Rows a second: of the steps, as the peer prints them, and of the whole run."""
    command = [str(WORK / "venv/bin/torchrun"), "--nproc_per_node", str(ranks), str(options.bench / "torchrec_job.py")]
    command += [f"{LOG}/*.parquet", str(STEPS), str(BATCH), *flags]
    start = time.monotonic()
    printed = subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    whole = time.monotonic() - start
    found = re.search(r"(\d+) samples/s", printed.stdout)
    if found is None:
        sys.exit(f"the peer printed no speed:\n{printed.stdout}{printed.stderr}")
    return float(found.group(1)), (WARM + STEPS) * BATCH / whole


def row(cells):
    print("| " + " | ".join(cells) + " |")


prepare()
cases = {name: case for name, case in CASES.items() if not options.only or name in options.only}
# By case, then by round: the steps' speed and that of the whole run.
ours = {name: [] for name in cases}
theirs = {name: [] for name in cases}
for round in range(options.rounds):
    for name, (ranks, overrides, flags) in cases.items():
        ours[name].append(tandem(ranks, overrides))
        if flags is not None:
            theirs[name].append(torchrec(ranks, flags))
        print(f"round {round + 1}: {name}: {ours[name][-1]} {theirs[name][-1:]}", file=sys.stderr, flush=True)

for which, title in enumerate(["Steps", "Whole"]):
    row([title, "tandem, rows/s", "TorchRec, rows/s", "ratio, median", "lowest", "highest"])
    row(["---"] * 6)
    for name in cases:
        mine, peers = [[speed[which] for speed in side[name]] for side in (ours, theirs)]
        cells = [name, f"{statistics.median(mine):,.0f}"]
        if peers:
            ratios = [a / b for a, b in zip(mine, peers)]
            cells += [f"{statistics.median(peers):,.0f}", f"{statistics.median(ratios):.2f}"]
            cells += [f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
        row(cells + [""] * (6 - len(cells)))
    for what, above, below, factor in RATIOS:
        if above in cases and below in cases:
            ratios = [factor * a[which] / b[which] for a, b in zip(ours[above], ours[below])]
            print(f"{what}: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    print()
