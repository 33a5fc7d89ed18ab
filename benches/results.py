#!/usr/bin/env python3
"""Trains jobs over several seeds and prints what they reach on the test split, mean ± sd, as a Markdown table.

usage: benches/results.py [--tandem BIN] [--ranks N] [--out DIR] [--seeds N] [--set KEY=VALUE]... JOB...
       benches/results.py [...] --retrieval

With --retrieval: rankings of ml1m_mf and ml1m_pmtrec, one row for each way to combine the tasks (VARIANTS), instead of the
AUC of jobs. The checkpoint that is best on valid is the one that is tested; nothing is chosen on the test split. A seed that
was trained before (its folder under --out ends with a test) is not trained again."""
import argparse
import json
import os
import pathlib
import statistics
import subprocess

MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]

RANKINGS = ["recall@10", "recall@20", "ndcg@10", "ndcg@20"]

# The main task's part of ml1m_mf.
ALONE = [
    "features=[{name: user_id, kind: categorical, dim: 64, table: user},"
    " {name: item_id, kind: categorical, dim: 64, table: item}]",
    "tasks=[{name: rec, kind: bpr, pair: [user_id, item_id], where: label_like}]",
]


def sparse(lr, l2):
    """Overrides of the rows' learning rate and L2."""
    return [f"optimizer.sparse.lr={lr}", f"optimizer.sparse.l2={l2}"]


# Folder, what the table calls it, job, overrides. Learning rates and L2 are those that were best on valid with seed 1.
VARIANTS = [
    ("alone", "user–item alone", "ml1m_mf", ALONE + sparse("3.0e-3", "1.0e-5")),
    ("sum", "with both relations, plain sum", "ml1m_mf", sparse("1.0e-3", "1.0e-4")),
    ("pmtrec", "`pmtrec`", "ml1m_pmtrec", []),
    ("mgda", "`mgda` over rows", "ml1m_mf", ["balance={kind: mgda, scope: shared+rows}"] + sparse("3.0e-3", "1.0e-4")),
    ("upgrad", "`upgrad` over rows", "ml1m_mf", ["balance={kind: upgrad, scope: shared+rows}"] + sparse("3.0e-3", "1.0e-4")),
]


def test_event(run):
    """The evaluation of the test split at the end of a run, if it got there."""
    log = run / "metrics.jsonl"
    if not log.exists():
        return None
    events = [json.loads(line) for line in log.read_text().splitlines()]
    tests = [e for e in events if e["event"] == "eval" and e["split"] == "test"]
    return tests[-1] if tests else None


def train(options, name, job, seed, overrides):
    """Trains a job with one seed, unless that was done before; its test metrics by task."""
    run = options.out / f"{name}-{seed}"
    if test_event(run) is None:
        command = [options.tandem, "train", str(job), "--quiet", "--resume", "--run-dir", str(run), "--set", f"seed={seed}"]
        for override in overrides + options.set:
            command += ["--set", override]
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
        if options.ranks > 1:
            command = MPIRUN + ["-n", str(options.ranks)] + command
        subprocess.run(command, check=True, env=os.environ | root)
    return test_event(run)["tasks"]


def over_seeds(values):
    """Mean ± sd of a metric over seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


def print_areas(options, seeds):
    """One row for each binary task of each job."""
    print("| job | task | test AUC, mean ± sd | seeds |\n|---|---|---|---|")
    for job in options.jobs:
        reports = [train(options, job.stem, job, seed, []) for seed in seeds]
        for task in reports[0]:
            values = [report[task]["auc"] for report in reports]
            print(f"| {job.stem} | {task} | {over_seeds(values)} | {len(values)} |", flush=True)


def print_rankings(options, seeds):
    """One row for each variant: the rankings of the main task."""
    jobs = pathlib.Path(__file__).parent.parent / "jobs"
    print("| variant | " + " | ".join(RANKINGS) + " |\n|---|" + "---|" * len(RANKINGS))
    for name, title, job, overrides in VARIANTS:
        reports = [train(options, f"retrieval-{name}", jobs / f"{job}.yaml", seed, overrides) for seed in seeds]
        cells = [over_seeds([report["rec"][metric] for report in reports]) for metric in RANKINGS]
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("jobs", nargs="*", type=pathlib.Path)
    arguments.add_argument("--retrieval", action="store_true")
    arguments.add_argument("--tandem", default="target/release/tandem")
    arguments.add_argument("--ranks", type=int, default=2)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/results"))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = arguments.parse_args()
    if bool(options.jobs) == options.retrieval:
        arguments.error("give jobs, or --retrieval")
    seeds = range(1, options.seeds + 1)
    if options.retrieval:
        print_rankings(options, seeds)
    else:
        print_areas(options, seeds)


if __name__ == "__main__":
    main()
