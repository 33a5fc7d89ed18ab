#!/usr/bin/env python3
"""Compares the metrics of `tandem eval --json` with scikit-learn on the same predictions.

    tandem predict RUN --data 'log/test/*.parquet' --out predictions
    tandem eval    RUN --data 'log/test/*.parquet' --json > eval.json
    check_metrics.py predictions eval.json --group user_id

`predictions` is a folder of Parquet files (or one file) with the label columns and, for every task T, `pred_T`:
a probability, a list of probabilities (a multiclass task), or a number (a task named by --regression).
`eval.json` has `{"tasks": {T: {"auc": ..., ...}}}`. Exits with 1 if a metric is missing or further from
scikit-learn's than 1e-6 (for AUC and GAUC: or than the bound that tandem states).
"""

import argparse
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, roc_auc_score

TOLERANCE = 1e-6
# Predictions are f32 probabilities, in which close logits can tie: each such pair is half of one in a million here.
TIES = 2e-6


def auc(label, score):
    """Area under the ROC curve; None with one class only."""
    return float(roc_auc_score(label, score)) if len(np.unique(label)) == 2 else None


def gauc(label, score, group):
    """AUC within each group, averaged by rows over the groups that have both classes; None if none has."""
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(group[order][1:] != group[order][:-1]) + 1
    total, rows = 0.0, 0
    for members in np.split(order, cuts):
        value = auc(label[members], score[members])
        if value is not None:
            total += value * len(members)
            rows += len(members)
    return total / rows if rows else None


def normalized_entropy(label, score):
    """Logloss over the entropy of the base rate (He et al. 2014); None with one class only."""
    rate = label.mean()
    if rate in (0.0, 1.0):
        return None
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    return float(log_loss(label, score, labels=[0, 1]) / entropy)


def calibration(label, score):
    """Predicted over observed positives; None without positives."""
    return float(score.sum() / label.sum()) if label.sum() > 0 else None


def of_binary(label, score, group):
    """What scikit-learn says about a binary task."""
    metrics = {
        "auc": auc(label, score),
        "logloss": float(log_loss(label, score, labels=[0, 1])),
        "normalized_entropy": normalized_entropy(label, score),
        "calibration": calibration(label, score),
        "rows": len(label),
        "positives": int(label.sum()),
    }
    if group is not None:
        metrics["gauc"] = gauc(label, score, group)
    return metrics


def of_regression(label, predicted):
    """What scikit-learn says about a regression."""
    squared = float(mean_squared_error(label, predicted))
    return {
        "mae": float(mean_absolute_error(label, predicted)),
        "rmse": squared**0.5,
        "mse": squared,
        "rows": len(label),
    }


def of_multiclass(label, probabilities):
    """What scikit-learn says about a multiclass task."""
    classes = range(probabilities.shape[1])
    return {
        "accuracy": float(accuracy_score(label, probabilities.argmax(axis=1))),
        "logloss": float(log_loss(label, probabilities, labels=classes)),
        "rows": len(label),
    }


def codes(column):
    """Group keys of any type as integers: equal keys, equal integers."""
    return np.unique(column.to_numpy(zero_copy_only=False), return_inverse=True)[1]


def predictions(column):
    """A column of numbers, or of lists of numbers, as an array."""
    if pa.types.is_nested(column.type):
        return np.stack(column.to_numpy()).astype(np.float64)
    return column.to_pandas().to_numpy(dtype=np.float64)


def expected_metrics(table, task, args):
    """What scikit-learn says about the rows that carry the task's label."""
    label = table[args.label.get(task, task)].to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
    predicted = predictions(table[f"pred_{task}"])
    keep = ~np.isnan(label)
    if task in args.where:
        keep &= table[args.where[task]].to_pandas().fillna(0).to_numpy().astype(bool)
    label, predicted = label[keep], predicted[keep]
    if task in args.regression:
        return of_regression(label, predicted)
    if predicted.ndim == 2:
        return of_multiclass(label, predicted)
    return of_binary(label, predicted, codes(table[args.group].combine_chunks())[keep] if args.group else None)


def differs(name, got, expected, bound):
    """A message if a reported metric is not the expected one, else None."""
    if got is None or expected is None:
        return None if got is None and expected is None else f"{name} is {got}, scikit-learn says {expected}"
    allowed = max(TOLERANCE + (TIES if "auc" in name else 0.0), bound or 0.0)
    if abs(got - expected) <= allowed:
        return None
    return f"{name} is {got!r}, scikit-learn says {expected!r}: off by {abs(got - expected):.3g}, allowed {allowed:.3g}"


def check(task, reported, expected):
    """Messages about one task."""
    problems = []
    for name, value in expected.items():
        if name not in reported:
            problems.append(f"{name} is missing")
            continue
        bound = reported.get(f"{name}_bound") if name in ("auc", "gauc") else None
        problem = differs(name, reported[name], value, bound)
        problems += [problem] if problem else []
        print(f"{task:12} {name:20} {reported[name]!s:>24} {value!s:>24} {'DIFFERS' if problem else 'ok'}")
    return [f"{task}: {problem}" for problem in problems]


def pairs(given):
    """`task=column` options as a mapping."""
    return dict(pair.split("=", 1) for pair in given)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", help="folder of Parquet files with labels and pred_<task>")
    parser.add_argument("eval", help="output of tandem eval --json")
    parser.add_argument("--group", help="column of GAUC's groups")
    parser.add_argument("--label", action="append", default=[], metavar="TASK=COLUMN", help="default: the task's name")
    parser.add_argument("--where", action="append", default=[], metavar="TASK=COLUMN", help="only rows where it is true")
    parser.add_argument("--regression", action="append", default=[], metavar="TASK", help="a task that predicts numbers")
    args = parser.parse_args()
    args.label, args.where = pairs(args.label), pairs(args.where)

    with open(args.eval) as file:
        reported = json.load(file)["tasks"]
    table = pyarrow.dataset.dataset(args.predictions, format="parquet").to_table()
    predicted = {name.removeprefix("pred_") for name in table.column_names if name.startswith("pred_")}
    problems = [f"{task}: in one of predictions and evaluation only" for task in predicted ^ reported.keys()]
    if not predicted:
        problems.append("the predictions have no column pred_<task>")
    for task in sorted(predicted & reported.keys()):
        problems += check(task, reported[task], expected_metrics(table, task, args))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
