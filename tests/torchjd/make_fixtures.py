#!/usr/bin/env python3
"""Writes gramians.json: what TorchJD's weightings and scalarizations give for drawn Gram matrices and losses.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make_fixtures.py gramians.json

`tests/torchjd.rs` gives the same input to tandem's methods and compares. Everything is float64. Where TorchJD draws
random numbers, it is handed tandem's own draws (`Draws`), so that the same order or the same weights are compared.

The file: `grams`, each with its family, its number of tasks and the row-major matrix; `entries`, each a tandem job and
runs of one method: the Gram matrices of consecutive steps and TorchJD's weights at each (for ConFIG, which has no
weights, the products of its update with the gradients); `unsolved`, the same where TorchJD's weights do not solve the method's
equation, which `optimality.rs` shows; `losses`, the same for methods that need losses only.
"""

import json
import math
import sys
import warnings

import numpy as np
import torch
import torchjd
import xxhash
from torchjd import aggregation as agg
from torchjd import scalarization as scal
from torchjd._linalg import QuadprogProjector
from torchjd.aggregation import _pcd

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
warnings.filterwarnings("ignore")

SEED = 7
MASK = (1 << 64) - 1


def mix(z):
    """tandem's random::mix (SplitMix64)."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def draw(*key):
    """tandem's random::hash."""
    h = mix(SEED)
    for k in key:
        h = mix(h ^ mix(k))
    return h


class Draws:
    """Stands in for torch.randperm and torch.randn, with tandem's draws for one method at one step."""

    def __init__(self, method, step, tasks):
        self.method, self.step, self.tasks = xxhash.xxh3_64_intdigest(method.encode()), step, tasks
        self.calls = 0

    def __enter__(self):
        self.saved = torch.randperm, torch.randn
        torch.randperm, torch.randn = self.randperm, self.randn
        return self

    def __exit__(self, *_):
        torch.randperm, torch.randn = self.saved

    def randperm(self, n):
        """Called once per task, for all tasks (PCGrad, which skips its own) or for the others (GradVac)."""
        i, self.calls = self.calls, self.calls + 1
        others = [j for j in range(self.tasks) if j != i]
        order = sorted(others, key=lambda j: draw(self.method, self.step, i, j))
        if n == self.tasks:
            return torch.tensor(order + [i])
        return torch.tensor([others.index(j) for j in order])

    def randn(self, n, **_):
        unit = lambda *key: (draw(*key) >> 11) / (1 << 53)
        normal = lambda k: math.sqrt(-2 * math.log(1 - unit(self.method, self.step, k, 0))) * math.cos(
            2 * math.pi * unit(self.method, self.step, k, 1)
        )
        return torch.tensor([normal(k) for k in range(n)])


def jacobians():
    """(family, J) of all cases."""
    rng = np.random.default_rng(2024)
    for index in range(220):
        tasks = 2 + index % 7
        family = ("generic", "conflicting", "aligned", "deficient", "scaled", "wild")[index // 7 % 6]
        rows = rng.normal(size=(tasks, 3 * tasks))
        common = rng.normal(size=3 * tasks)
        if family == "conflicting":
            signs = np.where(np.arange(tasks) % 2 == 0, 1.0, -1.0)
            rows += signs[:, None] * common
        elif family == "aligned":
            rows = common + 0.7 * rows
        elif family == "deficient":
            rows = rng.normal(size=(tasks, max(1, tasks // 2))) @ rng.normal(size=(max(1, tasks // 2), 3 * tasks))
        elif family == "scaled":
            rows *= 10.0 ** rng.uniform(-1, 1, size=(tasks, 1))
        elif family == "wild":
            rows *= 10.0 ** rng.uniform(-12, 12, size=(tasks, 1))
        yield family, rows


FULL_RANK = ("generic", "conflicting", "aligned", "scaled")
REGULAR = FULL_RANK + ("deficient",)
INDEPENDENT = FULL_RANK + ("wild",)
ALL = REGULAR + ("wild",)


def single_methods():
    """(name, job, families, weighting of one Gram matrix) of the methods without memory."""
    mean, total = agg.MeanWeighting(), agg.SumWeighting()
    yield "mean", "{kind: uniform, reduction: mean}", ALL, lambda: mean
    yield "sum", "{kind: uniform}", ALL, lambda: total
    default = QuadprogProjector(norm_eps=0.0)
    exact = QuadprogProjector(norm_eps=0.0, reg_eps=1e-14)
    yield "upgrad", "{kind: upgrad, ridge: 1.0e-4}", ALL, lambda: agg.UPGradWeighting(projector=default)
    yield "upgrad_exact", "{kind: upgrad}", FULL_RANK, lambda: agg.UPGradWeighting(projector=exact)
    yield "dual_proj", "{kind: dual_proj, ridge: 1.0e-4}", ALL, lambda: agg.DualProjWeighting(projector=default)
    yield "dual_proj_exact", "{kind: dual_proj}", FULL_RANK, lambda: agg.DualProjWeighting(projector=exact)
    yield "mgda", "{kind: mgda}", REGULAR, lambda: agg.MGDAWeighting()
    for c in (0.4, 0.9):
        job = f"{{kind: cagrad, c: {c}, rescale: 0}}"
        yield f"cagrad_{c}", job, FULL_RANK, lambda c=c: agg.CAGradWeighting(c=c, norm_eps=1e-9)
    yield "imtl_g", "{kind: imtl_g}", FULL_RANK, lambda: agg.IMTLGWeighting()
    for scale in ("min", "median", "rmse"):
        job = f"{{kind: aligned_mtl, scale: {scale}}}"
        yield f"aligned_mtl_{scale}", job, ALL, lambda scale=scale: agg.AlignedMTLWeighting(scale_mode=scale)
    for alpha in (0.5, 1.0, 2.0):
        job = f"{{kind: fairgrad, alpha: {alpha}, ridge: 0}}"
        yield f"fairgrad_{alpha}", job, FULL_RANK, lambda alpha=alpha: agg.FairGradWeighting(alpha=alpha, max_iters=10000)


def preferred_methods():
    """The same with a preference, for four tasks."""
    preference = torch.tensor([0.1, 0.2, 0.3, 0.9])
    text = "preference: [0.1, 0.2, 0.3, 0.9]"
    projector = QuadprogProjector(norm_eps=0.0)
    yield "upgrad_preference", f"{{kind: upgrad, ridge: 1.0e-4, {text}}}", agg.UPGradWeighting(preference, projector)
    yield "dual_proj_preference", f"{{kind: dual_proj, ridge: 1.0e-4, {text}}}", agg.DualProjWeighting(preference, projector)
    yield "aligned_mtl_preference", f"{{kind: aligned_mtl, {text}}}", agg.AlignedMTLWeighting(preference)
    yield "static", "{kind: static, weights: [0.1, 0.2, 0.3, 0.9]}", agg.ConstantWeighting(preference)


def stateful_methods():
    """(name, job, draws of, new weighting) of the methods with a memory."""
    for beta in (0.5, 0.1):
        yield f"gradvac_{beta}", f"{{kind: gradvac, beta: {beta}}}", "gradvac", lambda beta=beta: agg.GradVacWeighting(beta, 0.0)
    for tau, beta in ((0.02, 0.999), (0.1, 0.9)):
        job = f"{{kind: pcd, tau: {tau}, beta: {beta}}}"
        yield f"pcd_{tau}", job, "pcd", lambda tau=tau, beta=beta: agg.PCDWeighting(tau, beta)
    inner = lambda: agg.UPGradWeighting(projector=QuadprogProjector(norm_eps=0.0))
    job = "{kind: crmogm, alpha: 0.8, of: {kind: upgrad, ridge: 1.0e-4}}"
    yield "crmogm", job, "crmogm", lambda: agg.CRMOGMWeighting(inner(), alpha=0.8)


SOLVE_QP = _pcd._solve_qp


def solve_by_unit_gradients(gram, taus, **options):
    """TorchJD's solver of PCD on secondary gradients of length 1: the same problem, in which no length is too short."""
    lengths = gram.diagonal().sqrt().clamp_min(1e-300)
    scaled = lengths.clone()
    scaled[0] = 1.0
    weights = SOLVE_QP(gram / torch.outer(scaled, scaled), taus * lengths[1:], tol=1e-12, **options)
    return weights / scaled


def numbers(tensor):
    return [float(f"{x:.13g}") for x in tensor.tolist()]


def gram_entries(cases):
    entries = {}

    def add(name, job, steps, weights):
        entries.setdefault(name, {"name": name, "job": job, "runs": []})["runs"].append({"steps": steps, "weights": weights})

    for index, (family, rows) in enumerate(cases):
        gram, tasks = rows @ rows.T, len(rows)
        for name, job, families, weighting in single_methods():
            if family in families and meaningful(name, rows):
                add(name, job, [index], [numbers(weighting()(gram))])
        if tasks == 4 and family in REGULAR:
            for name, job, weighting in preferred_methods():
                if meaningful(name, rows):
                    add(name, job, [index], [numbers(weighting(gram))])
        with Draws("pcgrad", 0, tasks):
            add("pcgrad", "{kind: pcgrad}", [index], [numbers(agg.PCGradWeighting()(gram))])
        with Draws("rlw", 0, tasks):
            add("rlw", "{kind: rlw}", [index], [numbers(agg.RandomWeighting()(rows))])
        # ConFIG takes J and has no weights: the products of its update with the gradients.
        if family in INDEPENDENT:
            add("config", "{kind: config}", [index], [numbers(rows @ agg.ConFIG()(rows))])
        if family in FULL_RANK and bargained(rows):
            for norm in (0.0, 1.0):
                nash = agg.NashMTL(n_tasks=tasks, max_norm=norm, optim_niter=100).weighting
                job = f"{{kind: nash_mtl, max_norm: {norm}, ridge: 0}}"
                add(f"nash_mtl_{norm}", job, [index], [numbers(nash(rows))])
    for tasks in range(2, 7):
        alike_in_size = [index for index, (family, rows) in enumerate(cases) if len(rows) == tasks and family in FULL_RANK]
        wild = [index for index, (family, rows) in enumerate(cases) if len(rows) == tasks and family == "wild"]
        full = len(alike_in_size) // 6 * 6
        sequences = [alike_in_size[first : first + 6] for first in range(0, full, 6)]
        for steps in [*sequences, wild]:
            for name, job, method, new in stateful_methods():
                # What a gradient shorter than 1e-9 of the longest asks for is below the tolerance of TorchJD's solver, which may then leave its
                # constraint broken: the updates would differ by up to 0.28 of the primary gradient.
                _pcd._solve_qp = solve_by_unit_gradients if steps is wild else SOLVE_QP
                weighting, weights = new(), []
                for step, index in enumerate(steps):
                    rows = cases[index][1]
                    with Draws(method, step, tasks):
                        weights.append(numbers(weighting(rows @ rows.T)))
                add(name, job, steps, weights)
        for steps in sequences:
            nash = agg.NashMTL(n_tasks=tasks, max_norm=1.0, update_weights_every=3, optim_niter=100).weighting
            weights = [numbers(nash(cases[index][1])) for index in steps]
            # TorchJD starts from its last solution, which can lead its iteration elsewhere.
            if all(alike(weights[at], cases[steps[at]][1]) for at in (0, 3)):
                add("nash_mtl_every", "{kind: nash_mtl, update_every: 3, ridge: 0}", steps, weights)
    return list(entries.values())


UNSOLVED = ("mgda", "cagrad_0.4", "imtl_g", "fairgrad_0.5", "fairgrad_1.0", "fairgrad_2.0")


def unsolved_entries(cases):
    """TorchJD's weights where its solvers fail, for the residuals of its own equations: badly scaled gradients, and of
    Nash-MTL what `bargained` leaves out."""
    entries = {}

    def add(name, job, index, weights):
        if torch.isfinite(weights).all():
            entry = entries.setdefault(name, {"name": name, "job": job, "runs": []})
            entry["runs"].append({"steps": [index], "weights": [numbers(weights)]})

    for index, (family, rows) in enumerate(cases):
        for name, job, _, weighting in single_methods():
            if family == "wild" and name in UNSOLVED:
                add(name, job, index, weighting()(rows @ rows.T))
        if family in INDEPENDENT and not bargained(rows):
            nash = agg.NashMTL(n_tasks=len(rows), max_norm=0.0, optim_niter=100).weighting
            add("nash_mtl_0.0", "{kind: nash_mtl, max_norm: 0, ridge: 0}", index, nash(rows))
    return list(entries.values())


def meaningful(name, rows):
    """False where TorchJD's own result hangs on the rounding of a rank: an eigenvalue near its cut of K·2e-16."""
    if not name.startswith("aligned_mtl"):
        return True
    values = torch.linalg.eigvalsh(rows @ rows.T)
    share = values / values.max()
    cut = len(rows) * torch.finfo(rows.dtype).eps
    return not ((share > cut) & (share < 1e-10)).any()


def bargained(rows):
    """Whether TorchJD's Nash-MTL, whose iteration may end anywhere, solves its own equation: α_k(Gα)_k = 1."""
    alpha = agg.NashMTL(n_tasks=len(rows), max_norm=0.0, optim_niter=100).weighting(rows)
    return bool(((alpha * (rows @ rows.T @ alpha) - 1).abs() < 1e-5).all())


def alike(alpha, rows):
    """Whether shortened weights still give each task the same gain α_k(Gα)_k."""
    alpha = torch.tensor(alpha)
    gains = alpha * (rows @ rows.T @ alpha)
    return bool(((gains / gains.mean() - 1).abs() < 1e-5).all())


def loss_entries():
    rng = np.random.default_rng(11)
    for tasks in (2, 3, 5):
        # Losses that fall, each at its own rate, with noise.
        rate, scale = rng.uniform(0.02, 0.2, tasks), 10.0 ** rng.uniform(-1, 1, tasks)
        steps = np.arange(24)[:, None]
        losses = torch.tensor(scale * np.exp(-rate * steps) * rng.uniform(0.8, 1.2, (24, tasks)))
        yield entry("gls", "{kind: gls}", 6, losses, scal.GeometricMean())
        dwa = scal.DWA(temperature=1.5)
        yield entry("dwa", "{kind: dwa, temperature: 1.5}", 6, losses, dwa, after_epoch=dwa.step)
        for name, job, module in (
            ("imtl_l", "{kind: imtl_l, lr: 0.05}", scal.IMTLL(tasks)),
            ("uncertainty", "{kind: uncertainty, init: 0, lr: 0.05}", scal.UW(tasks)),
        ):
            yield entry(name, job, 6, losses, module, torch.optim.Adam(module.parameters(), lr=0.05))
        # TorchJD's STCH is linear in its values; LibMTL's, which tandem follows, is it on log(L/nadir), times K. The
        # nadir is the mean of the second epoch.
        nadir = losses[6:12].mean(dim=0)
        stch = scal.STCH(mu=0.7, weights=torch.ones(tasks))
        warm = lambda values: tasks * stch(torch.log(values / nadir))
        value = {"step": 0}

        def schedule(values):
            value["step"] += 1
            return torch.log(values).sum() if value["step"] <= 12 else warm(values)

        yield entry("stch", "{kind: stch, mu: 0.7, warmup: 2 epochs}", 6, losses, schedule)


def entry(name, job, steps_per_epoch, losses, scalarizer, optimizer=None, after_epoch=None):
    """The derivative of the scalarization by the losses at each step; learned parameters move with the optimizer."""
    weights = []
    for step, row in enumerate(losses):
        row = row.clone().requires_grad_()
        if optimizer:
            optimizer.zero_grad()
        scalarizer(row).backward()
        weights.append(numbers(row.grad))
        if optimizer:
            optimizer.step()
        if after_epoch and (step + 1) % steps_per_epoch == 0:
            after_epoch()
    return {"name": name, "job": job, "steps_per_epoch": steps_per_epoch, "losses": losses.tolist(), "weights": weights}


def main():
    cases = [(family, torch.tensor(rows)) for family, rows in jacobians()]
    grams = [
        {"family": family, "tasks": len(rows), "gram": (rows @ rows.T).flatten().tolist()} for family, rows in cases
    ]
    file = {"torchjd": "0.18.0", "seed": SEED, "grams": grams, "entries": gram_entries(cases)}
    file |= {"unsolved": unsolved_entries(cases), "losses": list(loss_entries())}
    with open(sys.argv[1], "w") as out:
        json.dump(file, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
