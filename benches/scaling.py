#!/usr/bin/env python3
"""Predicts steps, traffic, memory and checkpoints of many ranks from constants of one, and checks the prediction of steps by
simulation; prints Markdown, or puts it between the markers of the document that --write names.

usage: benches/scaling.py [--write FILE]

`cargo bench --bench scaling` measures the constants (the steps and distinct ids of one rank) and runs the exchanges of up to 256 ranks,
which are threads, on a virtual clock. What cannot be measured on one machine, the network and the disks, is assumed, and said."""
import argparse
import json
import math
import pathlib
import subprocess

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--write", type=pathlib.Path, metavar="FILE", help="replace the tables in this document")
options = arguments.parse_args()

# Assumed: seconds a message, seconds a byte.
NETWORKS = {"25 Gbit/s Ethernet": (20e-6, 1 / 2.5e9), "200 Gbit/s InfiniBand": (2e-6, 1 / 20e9)}
# Assumed of the shared disks: bytes a second that one rank writes, and all together.
RANK_WRITES, DISKS_WRITE = 0.5e9, 20e9
# Measured: bytes of memory and of a checkpoint for a row of 16 floats with row-wise Adagrad (docs/performance.md;
# tests of the format: id 8, values 64, state 4, count 4, last step 4), and seconds that a row takes longer from a table
# far larger than the cache than from a small one (docs/performance.md, growth: 46.0 ms instead of 15.4 for 106,496 ids).
MEMORY_A_ROW, FILE_A_ROW, MISS_S = 92.4, 84, (46.0 - 15.4) / 106496 / 1e3
# Rows of each rank in the tables of predictions.
SHARE = 512
CHECKED = [2, 4, 8, 16, 32, 64, 128, 256]
PREDICTED = [8, 16, 32, 64, 128, 256, 512, 1024]
TABLE_ROWS = [10**7, 10**8, 10**9, 10**10, 10**11]


def bench(*args):
    command = ["cargo", "bench", "--quiet", "--no-default-features", "--bench", "scaling", "--", *map(str, args)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def fit(points):
    """The line through (x, y) with the least squares of relative errors."""
    weight = sum(1 / y**2 for _, y in points)
    x_mean = sum(x / y**2 for x, y in points) / weight
    y_mean = sum(1 / y for _, y in points) / weight
    slope = sum((x - x_mean) * (y - y_mean) / y**2 for x, y in points) / sum((x - x_mean) ** 2 / y**2 for x, y in points)
    return y_mean - slope * x_mean, slope


class Model:
    """A step of R ranks."""

    def __init__(self, constants):
        *steps, sizes = constants
        self.parameters, self.dim, self.tables = sizes["parameters"], sizes["dim"], sizes["tables"]
        self.step_s, self.row_s = fit([(step["rows"], step["ms"] / 1e3) for step in steps])
        self.distinct = [(step["rows"], step["distinct_ids"]) for step in steps]

    def ids(self, rows):
        """Distinct ids of a rank's rows: measured, between two measurements by a power of the rows."""
        for (r0, d0), (r1, d1) in zip(self.distinct, self.distinct[1:]):
            if rows <= r1:
                return d0 * (rows / r0) ** (math.log(d1 / d0) / math.log(r1 / r0))
        return self.distinct[-1][1]

    def sent(self, ranks, ids):
        """Bytes that a rank sends in a step: ids, rows, and their gradients; the dense gradient and the parameters."""
        away = (ranks - 1) / ranks
        return away * (ids * (8 + 2 * 4 * self.dim) + 2 * 4 * self.parameters)

    def step(self, ranks, rows, ids, network, calls, miss_s=0.0):
        alpha, beta = network
        exchanges, gathers = calls
        compute = self.step_s + self.row_s * rows + miss_s * ids
        latency = alpha * (exchanges * (ranks - 1) + gathers * math.ceil(math.log2(ranks)))
        return compute, latency, beta * self.sent(ranks, ids)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def checked(model):
    """Prediction against simulation, on the slower network, where more is seen."""
    network = NETWORKS["25 Gbit/s Ethernet"]
    simulated = bench("simulate", *network, model.step_s, model.row_s, *CHECKED)
    calls = simulated[0]["exchanges"], simulated[0]["gathers"]
    rows = []
    for found in simulated:
        ranks, share = found["ranks"], found["rows"]
        ids = model.ids(share)
        ms = 1e3 * sum(model.step(ranks, share, ids, network, calls))
        sent = model.sent(ranks, ids)
        bytes_ratio, ms_ratio = found["sent_most"] / sent, found["ms"] / ms
        shown = f"{found['exchanges']:.0f} + {found['gathers']:.0f}"
        rows.append([ranks, share, shown, f"{sent / 1e6:.2f}", f"{found['sent_most'] / 1e6:.2f}", f"{bytes_ratio:.2f}",
                     f"{ms:.2f}", f"{found['ms']:.2f}", f"{ms_ratio:.2f}"])
    head = ["ranks", "rows a rank", "exchanges + gathers", "MB sent, predicted", "simulated (most of a rank)", "ratio",
            "ms a step, predicted", "simulated", "ratio"]
    return calls, table(head, rows)


def steps(model, calls):
    head = ["ranks", "global batch", "MB sent a rank"]
    head += [f"{name}: ms a step = computing + latency + bytes, rows a second" for name in NETWORKS]
    rows = []
    for ranks in PREDICTED:
        ids = model.tables * SHARE  # all distinct: large tables, and the most that can travel
        line = [ranks, f"{ranks * SHARE:,}", f"{model.sent(ranks, ids) / 1e6:.1f}"]
        for network in NETWORKS.values():
            parts = [1e3 * part for part in model.step(ranks, SHARE, ids, network, calls, MISS_S)]
            total = sum(parts)
            split = " + ".join(f"{part:.1f}" for part in parts)
            line.append(f"{total:.1f} = {split}; {ranks * SHARE / total / 1e3:.2f} M")
        rows.append(line)
    return table(head, rows)


def memory(model):
    del model
    cell = lambda rows, ranks: f"{rows * MEMORY_A_ROW / ranks / 2**30:.2f}"
    return table(["rows of all tables", *(f"{ranks} ranks" for ranks in PREDICTED)],
                 [[f"1e{round(math.log10(rows))}", *(cell(rows, ranks) for ranks in PREDICTED)] for rows in TABLE_ROWS])


def checkpoints():
    def seconds(rows, ranks):
        size = rows * FILE_A_ROW
        return max(size / ranks / RANK_WRITES, size / DISKS_WRITE)
    return table(["rows of all tables", "GB", *(f"{ranks} ranks" for ranks in PREDICTED)],
                 [[f"1e{round(math.log10(rows))}", f"{rows * FILE_A_ROW / 1e9:.1f}",
                   *(f"{seconds(rows, ranks):.1f}" for ranks in PREDICTED)] for rows in TABLE_ROWS])


def main():
    constants = bench("constants")
    model = Model(constants)
    measured = table(["rows a step", "ms", "fit, ms", "distinct ids"],
                     [[c["rows"], f"{c['ms']:.2f}", f"{1e3 * (model.step_s + model.row_s * c['rows']):.2f}",
                       f"{c['distinct_ids']:.0f}"] for c in constants[:-1]])
    measured += (f"\n\nA step takes {1e3 * model.step_s:.2f} ms and {1e6 * model.row_s:.2f} µs a row; the model has "
                 f"{model.parameters:,} dense parameters and {model.tables} tables of dimension {model.dim}.")
    calls, check = checked(model)
    parts = {"constants": measured, "check": check, "steps": steps(model, calls), "memory": memory(model),
             "checkpoints": checkpoints()}
    for name, text in parts.items():
        if options.write:
            document = options.write.read_text()
            before, rest = document.split(f"<!-- {name} -->\n", 1)
            after = rest.split("<!-- end -->", 1)[1]
            options.write.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- end -->{after}")
        else:
            print(text, end="\n\n")


main()
