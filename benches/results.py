#!/usr/bin/env python3
"""Trains jobs over several seeds and prints test AUC, mean ± sd, as a Markdown table.

usage: benches/results.py [--tandem BIN] [--ranks N] [--out DIR] [--seeds N] [--set KEY=VALUE]... JOB...

The checkpoint with the best mean valid AUC is the one that is tested; nothing is chosen on the test split. A seed that
was trained before (its folder under --out ends with a test) is not trained again."""
import argparse
import json
import os
import pathlib
import statistics
import subprocess

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("jobs", nargs="+", type=pathlib.Path)
arguments.add_argument("--tandem", default="target/release/tandem")
arguments.add_argument("--ranks", type=int, default=2)
arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/results"))
arguments.add_argument("--seeds", type=int, default=5)
arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
options = arguments.parse_args()

MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]


def test_event(run):
    """The evaluation of the test split at the end of a run, if it got there."""
    log = run / "metrics.jsonl"
    if not log.exists():
        return None
    events = [json.loads(line) for line in log.read_text().splitlines()]
    tests = [e for e in events if e["event"] == "eval" and e["split"] == "test"]
    return tests[-1] if tests else None


def train(job, seed):
    run = options.out / f"{job.stem}-{seed}"
    if test_event(run) is None:
        command = [options.tandem, "train", str(job), "--quiet", "--resume", "--run-dir", str(run), "--set", f"seed={seed}"]
        for override in options.set:
            command += ["--set", override]
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
        if options.ranks > 1:
            command = MPIRUN + ["-n", str(options.ranks)] + command
        subprocess.run(command, check=True, env=os.environ | root)
    return test_event(run)


print("| job | task | test AUC, mean ± sd | seeds |\n|---|---|---|---|")
for job in options.jobs:
    events = [train(job, seed) for seed in range(1, options.seeds + 1)]
    for task in events[0]["tasks"]:
        values = [event["tasks"][task]["auc"] for event in events]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"| {job.stem} | {task} | {statistics.mean(values):.4f} ± {spread:.4f} | {len(values)} |", flush=True)
