#!/usr/bin/env python3
"""Trains every balancing method on synthetic logs of known conflict and on public data, and writes one table of it.

usage: benches/balancing.py [--tandem BIN] [--sets "A;B"] [--methods "A;B"] [--seeds N] [--rounds N] [--write FILE] [--part NAME]

Each run is tested once, at its checkpoint of the best mean valid AUC. All methods of a set have the same model, batch, epochs and
learning rates, which were chosen on the valid split with `uniform`; the methods' own options are the defaults. Seed s of a
synthetic set trains with seed s on a log that was drawn with seed s.

What a step costs is timed apart, in short runs on one thread that alternate with runs of `uniform`.

Every run's result is a line under --work, and a run whose line is there, with the same settings, is not done again: stopped, the
script goes on where it was. The tables are printed as Markdown, or put between the markers of the document that --write names. A set
with tables of its own is trained and written by --part. Of some sets only the methods that SETS lists are trained, unless
--methods names others."""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
names = lambda text: text.split(";")  # names have commas in them
arguments.add_argument("--tandem", default="target/release/tandem")
arguments.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/balancing"))
arguments.add_argument("--sets", type=names, help="default: all of the part, or all that are in no part")
arguments.add_argument("--methods", type=names, help="default: all")
arguments.add_argument("--as-is", action="store_true", help="train and time nothing: show the methods whose seeds are all done")
arguments.add_argument("--only-time", action="store_true", help="time the steps and stop")
arguments.add_argument("--seeds", type=int, default=5)
arguments.add_argument("--rounds", type=int, default=3, help="of timing")
arguments.add_argument("--write", type=pathlib.Path, metavar="FILE", help="replace the tables in this document")
arguments.add_argument("--part", metavar="NAME", help="sets with tables of their own: trains them, and writes those")
options = arguments.parse_args()

SMALL_MMOE = "model={kind: mmoe, experts: 4, expert: [32], tower: [16]}"
# One thread and no repeated checkpoints, so that small runs are quick; no GAUC, which the tables do not show.
ALWAYS = ["threads=1", "checkpoint.keep=1", "checkpoint.buckets=16"]
SYNTH = ["--rows", "100000", "--split", "60,10,30", "--row-group-rows", "4096", "--independent"]
SYNTH += ["--numeric", "8", "--cardinalities", "20,100,1000"]
# Eight units for three tasks: what one task takes of them the others lack.
SYNTH_SETTINGS = ["model={kind: shared_bottom, bottom: [8], tower: []}", "train.global_batch=512", "train.epochs=8"]
SYNTH_SETTINGS += ["optimizer.dense.lr=0.02", "optimizer.sparse.lr=0.02", "optimizer.schedule={kind: cosine}"]
SYNTH_SETTINGS += [f"tasks.{task}.gauc=null" for task in ("click", "cart", "buy")]
CENSUS_SETTINGS = ["data.train=census_income/train/part-00000.parquet"]
CENSUS_SETTINGS += [SMALL_MMOE, "train.global_batch=1024", "train.epochs=5", "optimizer.schedule={kind: cosine}"]
CENSUS_SETTINGS += ["optimizer.dense.lr=0.02", "optimizer.sparse.lr=0.02"]
ML1M_SETTINGS = ["data.train=ml1m/train/part-00003.parquet", SMALL_MMOE, "train.epochs=2"]
ML1M_SETTINGS += [f"tasks.{task}.gauc=null" for task in ("like", "love", "dislike")]
# The first 400 steps, of 819,200 of the log's 3 million rows, and half of the rows of valid and test.
TAOBAO_SETTINGS = [SMALL_MMOE, "train.max_steps=400", "train.eval.every=100 steps"]
TAOBAO_SETTINGS += ["data.valid=taobao_mb/valid/part-00000.parquet", "data.test=taobao_mb/test/part-00000.parquet"]
TAOBAO_SETTINGS += [f"tasks.{task}.gauc=null" for task in ("click", "cart", "buy")]
# Sets with tables of their own in the document.
PARTS = {"logs": ["ml1m", "taobao"]}

# name: angle of the synthetic logs or None, the job if there is no angle, settings
SETS = {
    "30°": (30, None, SYNTH_SETTINGS),
    "90°": (90, None, SYNTH_SETTINGS),
    "120°": (120, None, SYNTH_SETTINGS),
    "90°, ×10": (90, None, [*SYNTH_SETTINGS, "tasks.click.weight=10"]),
    "census": (None, "jobs/census_mmoe.yaml", CENSUS_SETTINGS),
    "ml1m": (None, "jobs/ml1m_mmoe.yaml", ML1M_SETTINGS),
    "taobao": (None, "jobs/taobao_mmoe.yaml", TAOBAO_SETTINGS),
}

LOSSES = ["uncertainty", "dwa", "rlw", "gls", "imtl_l", "stch", "famo"]
GRAM = ["gradnorm", "mgda", "pcgrad", "gradvac", "cagrad", "imtl_g", "nash_mtl", "fairgrad", "aligned_mtl", "upgrad", "dual_proj"]
GRAM += ["config", "gradcraft", "pcd"]
ON_REPRESENTATION = {f"{kind}, representation": f"{{kind: {kind}, scope: representation}}" for kind in ("mgda", "cagrad", "upgrad")}
# name: (family, the job's `balance`; None: each task trained alone)
METHODS = {
    "uniform": ("none", "{kind: uniform}"),
    "alone": ("none", None),
    **{kind: ("losses", f"{{kind: {kind}}}") for kind in LOSSES},
    **{kind: ("Gram", f"{{kind: {kind}}}") for kind in GRAM},
    "crmogm of upgrad": ("Gram", "{kind: crmogm, of: {kind: upgrad}}"),
    **{name: ("representation", balance) for name, balance in ON_REPRESENTATION.items()},
    "gradnorm, last layer": ("representation", "{kind: gradnorm, scope: last_layer}"),
    "graddrop": ("representation", "{kind: graddrop}"),
    **{kind: ("kept", f"{{kind: {kind}}}") for kind in ("db_mtl", "moco", "excess_mtl")},
    "metabalance": ("tensors", "{kind: metabalance}"),
    **{kind: ("thirds", f"{{kind: {kind}}}") for kind in ("sdmgrad", "modo")},
}

# What is timed beside the methods.
COMPARING = "uniform with train.log_conflict: every_step"

apart = sum(PARTS.values(), [])
default = PARTS.get(options.part) or [name for name in SETS if name not in apart]
sets = [name for name in SETS if name in (options.sets or default)]
methods = [name for name in METHODS if options.methods is None or name in options.methods]
if len(sets) < len(options.sets or []) or len(methods) < len(options.methods or []):
    sys.exit(f"the sets are {', '.join(SETS)}; the methods are {', '.join(METHODS)}")
if options.part is not None and options.part not in PARTS:
    sys.exit(f"the parts are {', '.join(PARTS)}")


class Results:
    """Lines of JSON, found again by what they are results of."""

    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.path, self.known = path, {json.dumps(line["of"]): line for line in map(json.loads, lines)}

    def get(self, of, compute):
        key = json.dumps(of)
        if key not in self.known:
            self.known[key] = {"of": of, **compute()}
            with self.path.open("a") as file:
                file.write(json.dumps(self.known[key]) + "\n")
        return self.known[key]


def events(job, settings):
    """What a run logs; raises RuntimeError with its error if it fails."""
    folder = options.work / f"run-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [options.tandem, "train", str(job), "--quiet", "--run-dir", str(folder)]
    for setting in ALWAYS + settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(folder)
    return logged


def log(angle, seed):
    """The folder of a synthetic log, written unless it is there."""
    folder = options.work / f"log-{angle}-{seed}"
    if not (folder / "synth.json").exists():
        command = [options.tandem, "synth", str(folder), *SYNTH, "--angle", str(angle), "--seed", str(seed), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def cosines(steps):
    """Mean over the logged steps of the lowest and of the mean cosine between two tasks' gradients."""
    pairs = [[c for i, row in enumerate(step["cosines"]) for c in row[:i]] for step in steps]
    return [statistics.mean(map(min, pairs)), statistics.mean(map(statistics.mean, pairs))] if pairs else None


def one(job, settings):
    logged = events(job, settings)
    test = [event for event in logged if event["event"] == "eval" and event["split"] == "test"][-1]
    steps = [event for event in logged if event["event"] == "step" and "cosines" in event]
    return {"auc": {task: values["auc"] for task, values in test["tasks"].items()}, "cosines": cosines(steps)}


def key(name, method, seed):
    return [name, method, METHODS[method][1], seed, SETS[name][2]]


def trained(name, method, seed):
    """Test AUC by task of one run; of each task's own run where tasks are trained alone."""
    angle, job, settings = SETS[name]
    job = job or log(angle, seed) / "job.yaml"
    settings = [*settings, f"seed={seed}"]
    balance = METHODS[method][1]
    if balance is not None:
        return one(job, [*settings, f"balance={balance}"])
    tasks = runs.get(key(name, "uniform", seed), lambda: trained(name, "uniform", seed))["auc"]
    aucs = {}
    for i, task in enumerate(tasks):
        weights = [int(i == other) for other in range(len(tasks))]
        alone = one(job, [*settings, f"balance={{kind: static, weights: {weights}}}", f"train.eval.best.task={task}"])
        aucs[task] = alone["auc"][task]
    return {"auc": aucs, "cosines": None}


def results(name, method):
    """Results by seed; of a method that failed with a seed, none of that seed. None if they are not there and may not be made."""

    def attempt(seed):
        try:
            return trained(name, method, seed)
        except RuntimeError as error:
            print(f"{name}, {method}, seed {seed}: {error}", file=sys.stderr)
            return {"error": str(error)}

    seeds = range(1, options.seeds + 1)
    if options.as_is and any(json.dumps(key(name, method, seed)) not in runs.known for seed in seeds):
        return None
    found = {seed: runs.get(key(name, method, seed), lambda: attempt(seed)) for seed in seeds}
    return {seed: result for seed, result in found.items() if "error" not in result}


def seconds_a_step(balance, compared="never"):
    """Of the fastest four steps in a row of a short run, which other work on the machine disturbs least. Timed is a model of the
    usual size, of three tasks. `compared` is when gradients are compared that the method does not need."""
    settings = ["model={kind: mmoe, experts: 4, expert: [256, 128], tower: [64]}", "train.global_batch=2048", "train.log_every=4"]
    settings += ["train.max_steps=24", "train.eval.every=never", "checkpoint.every=never", "data.test=null"]
    settings += [f"train.log_conflict={compared}", f"balance={balance}"]
    steps = [event for event in events(log(90, 1) / "job.yaml", settings) if event["event"] == "step"]
    return 2048 / max(step["samples_per_s"] for step in steps[2:])


def cost(method):
    """Time of a step over that of a `uniform` step beside it, by round."""

    def pair():
        asked = [METHODS["uniform"][1], "every_step"] if method == COMPARING else [METHODS[method][1]]
        return {"uniform": seconds_a_step(METHODS["uniform"][1]), "method": seconds_a_step(*asked)}

    if method != COMPARING and METHODS[method][1] is None:
        return []
    rounds = [[method, round] for round in range(1, options.rounds + 1)]
    pairs = [costs.get(of, pair) for of in rounds if not options.as_is or json.dumps(of) in costs.known]
    return [pair["method"] / pair["uniform"] for pair in pairs]


def mean_sd(values, unit=1.0, form="{:.4f}"):
    spread = statistics.stdev(values) / unit if len(values) > 1 else float("nan")
    return f"{form.format(statistics.mean(values) / unit)} ± {form.replace('+', '').format(spread)}"


def mean_auc(result):
    return statistics.mean(result["auc"].values())


def difference(name, method):
    """Mean AUC less that of `uniform` with the same seed, in units of 0.0001, marked by how far it stands out."""
    base, found = table[name]["uniform"], table[name].get(method)
    if found is None:
        return ""
    values = [mean_auc(result) - mean_auc(base[seed]) for seed, result in found.items() if seed in base]
    if len(values) < options.seeds:
        return f"{options.seeds - len(values)} of {options.seeds} failed"
    text, mean = mean_sd(values, 1e-4, "{:+.1f}"), abs(statistics.mean(values))
    spread = statistics.stdev(values) if len(values) > 1 else float("inf")
    return f"**{text}**" if mean > 2 * spread else f"({text})" if mean <= spread else text


def summary():
    timing = options.part is None
    columns = ["method", "family", *table, *(["step / uniform step"] if timing else [])]
    yield f"| {' | '.join(columns)} |\n|" + "---|" * len(columns)
    base = " | ".join(mean_sd(list(map(mean_auc, table[name]["uniform"].values()))) for name in table)
    yield f"| `uniform`, mean test AUC | | {base} |{' 1 |' if timing else ''}"
    for method in methods[1:]:
        if not any(found.get(method) for found in table.values()):
            continue
        label = "each task alone" if method == "alone" else f"`{method}`"
        cells = [label, METHODS[method][0], *(difference(name, method) for name in table)]
        if timing:
            ratios = cost(method)
            timed = f"{statistics.median(ratios):.2f}" if ratios else ""
            cells.append(timed + (f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""))
        yield f"| {' | '.join(cells)} |"


def about_sets():
    """Best attainable AUC of the synthetic logs, and how the tasks' gradients stand to each other while `upgrad` trains."""
    yield "| set | best attainable mean AUC | `uniform` | `upgrad`: mean cosine | lowest of a step's cosines, mean |\n|---|---|---|---|---|"
    for name in table:
        angle, best = SETS[name][0], ""
        if angle is not None:
            truth = [json.loads((log(angle, seed) / "synth.json").read_text())["tasks"] for seed in range(1, options.seeds + 1)]
            best = mean_sd([statistics.mean(task["bayes_auc"] for task in tasks) for tasks in truth])
        seen = [result["cosines"] for result in (table[name].get("upgrad") or {}).values()]
        means = " | ".join(mean_sd([s[i] for s in seen], form="{:.2f}") for i in (1, 0)) if seen else " | "
        yield f"| {name} | {best} | {mean_sd(list(map(mean_auc, table[name]['uniform'].values())))} | {means} |"


def by_task(name):
    tasks = next(iter(table[name]["uniform"].values()))["auc"]
    yield f"\n**{name}**\n\n| method | {' | '.join(tasks)} |\n|---|" + "---|" * len(tasks)
    for method, found in table[name].items():
        if found:
            yield f"| `{method}` | " + " | ".join(mean_sd([r["auc"][task] for r in found.values()]) for task in tasks) + " |"


def put(part, text):
    """Replaces what stands between the part's markers."""
    document, marker = options.write.read_text(), " ".join(filter(None, [part, options.part]))
    before, rest = document.split(f"<!-- {marker} -->\n", 1)
    options.write.write_text(f"{before}<!-- {marker} -->\n{text}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}")


runs, costs = Results(options.work / "results.jsonl"), Results(options.work / "cost.jsonl")
if "uniform" not in methods:
    methods = ["uniform", *methods]
if options.only_time:
    for method in [*methods[1:], COMPARING]:
        print(method, [round(ratio, 2) for ratio in cost(method)])
    sys.exit()
table = {name: {method: results(name, method) for method in methods} for name in sets}
table = {name: found for name, found in table.items() if found["uniform"]}
parts = {"summary": summary(), "sets": about_sets(), "tasks": (line for name in table for line in by_task(name))}
for part, lines in parts.items():
    text = "\n".join(lines)
    put(part, text) if options.write else print(text, end="\n\n")
