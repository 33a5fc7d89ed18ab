#!/usr/bin/env python3
"""What a task costs and reaches that comes after the others: on Census-Income, `college` after `income` and `never_married`.

usage: benches/new_task.py [--tandem BIN] [--out DIR] [--seeds N] [--set KEY=VALUE]... [VARIANT]...

Trains each of VARIANTS over several seeds on one rank and prints test AUC and CPU seconds of training (all threads, evaluation
included), mean ± sd, as a Markdown table. The checkpoint that is best on valid is tested; nothing is chosen on the test split. A
run that was made before (its folder under --out ends with a test) is not made again."""
import argparse
import os
import pathlib
import subprocess

from results import over_seeds, test_event

JOBS = pathlib.Path(__file__).parent.parent / "jobs"
OLD = JOBS / "census_mpt.yaml"
NEW = JOBS / "census_mpt_new_task.yaml"
TASKS = ["income", "never_married", "college"]

ANEW = ["init_from=null", "freeze={}"]
ALONE = ["tasks=[{name: college, label: education, positive: [Some college but no degree,"
         " Associates degree-occup /vocational, Associates degree-academic program, Bachelors degree(BA AB BS),"
         " Masters degree(MA MS MEng MEd MSW MBA), Prof school degree (MD DDS DVM LLB JD), Doctorate degree(PhD EdD)]}]"]


def model(text):
    return ANEW + [f"model={{{text}}}"]


# Folder, what the table calls it, job, overrides.
VARIANTS = [
    ("stage1", "MPT-Rec, stage 1", OLD, []),
    ("stage2", "MPT-Rec, stage 2 after it", NEW, None),
    ("alone", "the new task by itself, anew", NEW, ALONE + model("kind: shared_bottom, bottom: [256, 128], tower: [64, 32]")),
    ("full", "MPT-Rec, all three tasks anew", NEW, model("kind: mpt, expert: [256, 128], tower: [64, 32], l2: 3.0e-5")),
    ("plain", "the same without adversary and generic loss", NEW,
     model("kind: mpt, expert: [256, 128], tower: [64, 32], l2: 3.0e-5, adversary: 0, generic: 0")),
    ("single", "`single_task`, all three", NEW, model("kind: single_task, bottom: [256, 128], tower: [64, 32]")),
    ("bottom", "`shared_bottom`, all three", NEW, model("kind: shared_bottom, bottom: [256, 128], tower: [64, 32]")),
    ("mmoe", "`mmoe`, all three", NEW, model("kind: mmoe, experts: 3, expert: [256, 128], tower: [64, 32]")),
    ("ple", "`ple`, all three", NEW,
     model("kind: ple, shared_experts: 1, task_experts: 1, levels: [[256], [128]], tower: [64, 32]")),
]


def train(options, name, job, seed, overrides):
    """Trains a job with one seed, unless that was done before; its test metrics by task, and its CPU seconds."""
    run = options.out / f"{name}-{seed}"
    cost = run / "cpu_seconds"
    if test_event(run) is None or not cost.exists():
        command = [options.tandem, "train", str(job), "--quiet", "--run-dir", str(run), "--set", f"seed={seed}"]
        for override in overrides + options.set:
            command += ["--set", override]
        child = subprocess.Popen(command)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise SystemExit(f"{' '.join(command)} failed")
        cost.write_text(str(usage.ru_utime + usage.ru_stime))
    return test_event(run)["tasks"], float(cost.read_text())


def row(options, seeds, name, title, job, overrides):
    def of(seed):
        began = [f"init_from={options.out / f'stage1-{seed}'}"]
        return train(options, name, job, seed, began if overrides is None else overrides)

    results = [of(seed) for seed in seeds]
    cells = []
    for task in TASKS:
        values = [tasks[task]["auc"] for tasks, _ in results if task in tasks]
        cells.append(over_seeds(values) if values else "")
    seconds = [cost for _, cost in results]
    print(f"| {title} | " + " | ".join(cells) + f" | {sum(seconds) / len(seconds):.0f} |", flush=True)


def main():
    names = [name for name, *_ in VARIANTS]
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("variants", nargs="*", choices=[[], *names], metavar="VARIANT")
    arguments.add_argument("--tandem", default="target/release/tandem")
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/new_task"))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = arguments.parse_args()
    print("| model | " + " | ".join(TASKS) + " | CPU s |\n|---|" + "---|" * (len(TASKS) + 1))
    for variant in VARIANTS:
        if variant[0] in (options.variants or names):
            row(options, range(1, options.seeds + 1), *variant)


if __name__ == "__main__":
    main()
