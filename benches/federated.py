#!/usr/bin/env python3
"""Trains jobs/ml1m_pf_msmtrec.yaml by every federated method, and as one job on all rows, over several seeds; prints the test AUC of
each task, the mean over the clients (each counting alike), mean ± sd over seeds, as a Markdown table.

usage: benches/federated.py [--tandem BIN] [--ranks N] [--out DIR] [--seeds N] [--set KEY=VALUE]... [VARIANT...]

The round, or half epoch, that is best on valid is the one that is tested. A seed that was trained before is not trained again."""
import argparse
import pathlib
import statistics

from results import over_seeds, test_event, train

MMOE = "model={kind: mmoe, experts: 4, expert: [64, 32], tower: [16], norm: batch}"

# What the table calls it, and overrides. All have the same learning rates; the baselines train the same mixture without a template.
VARIANTS = {
    "centralised": ["federated=null", MMOE, "train.epochs=3", "train.eval.every=0.5 epochs", "train.global_batch=2048"],
    "local": ["federated.method=local", MMOE],
    "fedavg": ["federated.method=fedavg", MMOE],
    "fedprox": ["federated.method=fedprox", MMOE],
    "fedbn": ["federated.method=fedbn", MMOE],
    "ditto": ["federated.method=ditto", MMOE],
    "fedhca2": ["federated.method=fedhca2", MMOE],
    "pf_msmtrec": [],
}


def of_clients(run):
    """The mean over the clients of each task's test AUC."""
    event = test_event(run)
    if "clients" in event:
        clients = list(event["clients"].values())
    else:
        clients = [client["tasks"] for client in event["scenarios"] if client["scenario"] is not None]
    return {task: statistics.mean(client[task]["auc"] for client in clients) for task in clients[0]}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("variants", nargs="*", choices=[[], *VARIANTS], metavar="VARIANT")
    arguments.add_argument("--tandem", default="target/release/tandem")
    arguments.add_argument("--ranks", type=int, default=1)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/federated"))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = arguments.parse_args()
    job = pathlib.Path(__file__).parent.parent / "jobs" / "ml1m_pf_msmtrec.yaml"
    head = None
    for name in options.variants or VARIANTS:
        runs = []
        for seed in range(1, options.seeds + 1):
            train(options, name, job, seed, VARIANTS[name])
            runs.append(of_clients(options.out / f"{name}-{seed}"))
        if head is None:
            head = list(runs[0])
            print("| method | " + " | ".join(head) + " | mean |\n|---|" + "---|" * (len(head) + 1))
        cells = [over_seeds([run[task] for run in runs]) for task in head]
        cells.append(over_seeds([statistics.mean(run.values()) for run in runs]))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
