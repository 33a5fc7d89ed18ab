//! The equations that define the methods' weights, on every stored Gram matrix: badly scaled and dependent gradients
//! too, where TorchJD solves them roughly or not at all and is no reference. A residual needs no other solution to be
//! compared with, and tells whose solution it is that is off.
//!
//! All are in unit gradients u_k, where the scale of the tasks drops out: y_k = w_k‖g_k‖, p_k = ⟨u_k, Σ y_l u_l⟩, and size
//! Σ |y_k|. Rounding of p is then 1e-16 of the size, also where gradients differ by 24 orders of magnitude.

use super::{Entry, Fixture, Gram, fixture, run};
use tandem::balance::{Signal, gram};

/// One method's weights for one Gram matrix.
struct Solution {
    norms: Vec<f64>,
    cosines: Vec<f64>,
    y: Vec<f64>,
    p: Vec<f64>,
    size: f64,
}

impl Solution {
    fn new(gram: &Gram, weights: &[f64]) -> Self {
        let norms = gram::norms(&gram.gram, gram.tasks);
        let cosines = gram::cosines(&gram.gram, gram.tasks);
        let y: Vec<f64> = weights.iter().zip(&norms).map(|(w, norm)| w * norm).collect();
        let p = times(&cosines, &y);
        let size = y.iter().map(|y| y.abs()).sum();
        Self { norms, cosines, y, p, size }
    }

    /// ‖Σ w_k g_k‖².
    fn squared(&self) -> f64 {
        self.y.iter().zip(&self.p).map(|(y, p)| y * p).sum::<f64>().max(0.0)
    }

    /// w_k.
    fn weight(&self, k: usize) -> f64 {
        self.y[k] / self.norms[k]
    }

    fn each(&self, of: impl Fn(usize) -> f64) -> f64 {
        (0..self.y.len())
            .map(|k| of(k).abs())
            .fold(0.0, |most: f64, x| if most.is_nan() || x <= most { most } else { x })
    }
}

fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

/// MGDA: ⟨g_k, d⟩ ≥ ‖d‖² for all tasks, and equal for those with a weight (Karush, Kuhn and Tucker).
fn mgda(s: &Solution) -> f64 {
    let squared = s.squared();
    let heaviest = s.y.iter().copied().fold(0.0, f64::max);
    s.each(|k| {
        let gap = (s.p[k] - squared / s.norms[k]) / s.size;
        if s.y[k] > 1e-9 * heaviest { gap } else { gap.min(0.0) }
    })
}

/// CAGrad: the duality gap between the worst task's improvement, which d reaches, and the bound that its δ = Σ λ_k g_k proves
/// with w = λ/Σλ: g_wᵀg₀ + c‖g₀‖·‖g_w‖.
fn cagrad(s: &Solution, c: f64) -> f64 {
    let bound = bound(s, c);
    // Task by task along its own unit gradient: over the scale of another task a rounding would be a gap.
    (0..s.y.len()).map(|k| (bound / s.norms[k] - s.p[k]) / s.size).fold(0.0, f64::max)
}

/// What CAGrad's dual minimises over the simplex, at w = λ/Σλ.
fn bound(s: &Solution, c: f64) -> f64 {
    let mean = 1.0 / s.y.len() as f64;
    let of_mean: Vec<f64> = s.norms.iter().map(|norm| norm * mean).collect();
    let along_mean = times(&s.cosines, &of_mean);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let radius = c * dot(&of_mean, &along_mean).sqrt();
    let lambda: Vec<f64> = (0..s.y.len()).map(|k| (s.weight(k) - mean).max(0.0)).collect();
    let total: f64 = lambda.iter().sum();
    let v: Vec<f64> = lambda.iter().zip(&s.norms).map(|(l, norm)| l / total * norm).collect();
    let length = dot(&v, &times(&s.cosines, &v)).max(0.0).sqrt();
    dot(&v, &along_mean) + radius * length
}

/// IMTL-G: equal projections on all unit gradients.
fn imtl_g(s: &Solution) -> f64 {
    s.each(|k| (s.p[k] - s.p[0]) / s.size)
}

/// ConFIG: equal cosines with all gradients, and the length Σ⟨g_k, d/‖d‖⟩.
fn config(s: &Solution) -> f64 {
    let length = s.squared().sqrt();
    let sum: f64 = s.norms.iter().zip(&s.p).map(|(norm, p)| norm * p / length).sum();
    imtl_g(s).max((length - sum).abs() / s.size)
}

/// Nash-MTL: each task gains α_k(Gα)_k = 1; the ridge stands on the diagonal of the cosines.
fn nash_mtl(s: &Solution, ridge: f64) -> f64 {
    s.each(|k| s.y[k] * (s.p[k] + ridge * s.y[k]) - 1.0)
}

/// FairGrad: (Gw)_k = w_k^(−1/α), which along the unit gradient is p_k = w_k^(−1/α)/‖g_k‖.
fn fairgrad(s: &Solution, alpha: f64) -> f64 {
    s.each(|k| (s.p[k] - s.weight(k).powf(-1.0 / alpha) / s.norms[k]) / s.size)
}

/// DualProj: the shortest of all w ≥ 1/K lengthens no loss, ⟨g_k, d⟩ ≥ 0, and leaves 1/K only where that is 0.
fn dual_proj(s: &Solution) -> f64 {
    let least = 1.0 / s.y.len() as f64;
    let added = |k: usize| s.y[k] - least * s.norms[k];
    let complementary = s.each(|k| added(k) / s.size * (s.p[k] / s.size));
    s.each(|k| s.p[k].min(0.0) / s.size).max(s.each(|k| added(k).min(0.0) / s.size)).max(complementary)
}

/// UPGrad: a mean of such projections, of which each alone is no conflict.
fn upgrad(s: &Solution) -> f64 {
    s.each(|k| s.p[k].min(0.0) / s.size)
}

const INDEPENDENT: &[&str] = &["generic", "conflicting", "aligned", "scaled", "wild"];
const ALL: &[&str] = &["generic", "conflicting", "aligned", "scaled", "wild", "deficient"];
const DEPENDENT: &[&str] = &["deficient"];

type Residual = fn(&Solution) -> f64;

/// Job, families, residual, and how large it may be. Where a method adds a ridge of 1e-12 to tell solutions apart, that
/// is its residual.
const METHODS: &[(&str, &[&str], Residual, f64)] = &[
    ("{kind: mgda}", ALL, mgda, 1e-10),
    ("{kind: cagrad, c: 0.4, rescale: 0}", INDEPENDENT, |s| cagrad(s, 0.4), 1e-10),
    ("{kind: cagrad, c: 0.9, rescale: 0}", INDEPENDENT, |s| cagrad(s, 0.9), 1e-10),
    ("{kind: imtl_g}", INDEPENDENT, imtl_g, 1e-10),
    ("{kind: config}", INDEPENDENT, config, 1e-10),
    ("{kind: nash_mtl, max_norm: 0, ridge: 0}", INDEPENDENT, |s| nash_mtl(s, 0.0), 1e-9),
    ("{kind: nash_mtl, max_norm: 0}", DEPENDENT, |s| nash_mtl(s, 1e-6), 1e-8),
    ("{kind: fairgrad, alpha: 0.5, ridge: 0}", INDEPENDENT, |s| fairgrad(s, 0.5), 1e-6),
    ("{kind: fairgrad, alpha: 1, ridge: 0}", INDEPENDENT, |s| fairgrad(s, 1.0), 1e-9),
    ("{kind: fairgrad, alpha: 2, ridge: 0}", INDEPENDENT, |s| fairgrad(s, 2.0), 1e-6),
    ("{kind: dual_proj}", ALL, dual_proj, 1e-10),
    ("{kind: upgrad}", ALL, upgrad, 1e-10),
];

/// The largest residual by family.
fn worst<'a>(residuals: impl Iterator<Item = (&'a str, f64)>) -> Vec<(&'a str, f64)> {
    let mut worst: Vec<(&str, f64)> = Vec::new();
    for (family, residual) in residuals {
        match worst.iter_mut().find(|(known, _)| *known == family) {
            Some((_, most)) if most.is_nan() || residual <= *most => {}
            Some((_, most)) => *most = residual,
            None => worst.push((family, residual)),
        }
    }
    worst
}

fn ours(job: &str, gram: &Gram) -> Solution {
    let (losses, present) = (vec![1.0; gram.tasks], vec![true; gram.tasks]);
    let signal = Signal {
        losses: &losses,
        present: &present,
        gram: &gram.gram,
        step: 0,
        steps_per_epoch: 1000,
        total_steps: 1000,
        seed: 7,
    };
    Solution::new(gram, &run(job, std::iter::once(signal), gram.tasks)[0])
}

#[test]
fn weights_solve_their_own_equations_on_every_gram_matrix() {
    let Fixture { grams, .. } = fixture();
    let mut failures = Vec::new();
    for (job, families, residual, limit) in METHODS {
        let of = grams.iter().filter(|gram| families.contains(&gram.family.as_str()));
        let residuals = of.map(|gram| (gram.family.as_str(), residual(&ours(job, gram)).abs()));
        for (family, worst) in worst(residuals) {
            println!("{job}, {family}: {worst:.1e} (limit {limit:.0e})");
            if worst.is_nan() || worst > *limit {
                failures.push(format!("{job}, {family}: {worst:e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Why these are compared with a wide tolerance: TorchJD's own weights solve the method's equation only to more than
/// `theirs`, which tandem's do to the limit above.
#[test]
fn where_tolerances_are_wide_torchjd_is_off() {
    let Fixture { grams, entries, .. } = fixture();
    let cases: [(&str, Residual, f64); 4] = [
        ("mgda", mgda, 1e-3),
        ("cagrad_0.4", |s| cagrad(s, 0.4), 1e-5),
        ("cagrad_0.9", |s| cagrad(s, 0.9), 1e-5),
        ("nash_mtl_0.0", |s| nash_mtl(s, 0.0), 1e-7),
    ];
    for (name, residual, theirs) in cases {
        let entry = entries.iter().find(|entry| entry.name == name).unwrap();
        let worst = worst(residuals_of_torchjd(entry, &grams, residual));
        println!("TorchJD's {name}: {worst:?}");
        assert!(worst.iter().any(|(_, worst)| *worst > theirs), "{name} is solved by TorchJD too: {worst:?}");
    }
}

/// Why badly scaled gradients are not compared for these: there are matrices whose equation TorchJD does not solve to 1e-3 of
/// the size, for most methods nearly all. Nash-MTL's cases are all that the comparison leaves out.
#[test]
fn where_nothing_is_compared_torchjd_has_no_solution() {
    let Fixture { grams, unsolved, .. } = fixture();
    let residuals: [(&str, Residual); 7] = [
        ("mgda", mgda),
        ("cagrad_0.4", |s| cagrad(s, 0.4)),
        ("imtl_g", imtl_g),
        ("nash_mtl_0.0", |s| nash_mtl(s, 0.0)),
        ("fairgrad_0.5", |s| fairgrad(s, 0.5)),
        ("fairgrad_1.0", |s| fairgrad(s, 1.0)),
        ("fairgrad_2.0", |s| fairgrad(s, 2.0)),
    ];
    assert_eq!(unsolved.len(), residuals.len());
    for (name, residual) in residuals {
        let entry = unsolved.iter().find(|entry| entry.name == name).unwrap();
        let off = |limit: f64| {
            residuals_of_torchjd(entry, &grams, residual).filter(|(_, r)| r.is_nan() || *r > limit).count()
        };
        let runs = entry.runs.len();
        println!("TorchJD's {name}: {} of {runs} off by more than 1e-3, {} by 1e-5", off(1e-3), off(1e-5));
        assert!(runs >= 35 && off(1e-3) > 0, "{name}: {} of {runs}", off(1e-3));
        // Nash-MTL's were left out for this alone.
        assert!(name != "nash_mtl_0.0" || off(1e-5 * (1.0 - 1e-6)) == runs, "{name}");
    }
}

fn residuals_of_torchjd<'a>(
    entry: &'a Entry,
    grams: &'a [Gram],
    residual: Residual,
) -> impl Iterator<Item = (&'a str, f64)> {
    entry.runs.iter().map(move |run| {
        let gram = &grams[run.steps[0]];
        (gram.family.as_str(), residual(&Solution::new(gram, &run.weights[0])).abs())
    })
}

/// CAGrad's weights are far more uncertain than its objective, which TorchJD's solver stops by: to its 1e-8 the objective is
/// met, and the square root of that is how far the weights may be off.
#[test]
fn torchjds_cagrad_has_the_least_objective_to_its_solvers_tolerance() {
    let Fixture { grams, entries, .. } = fixture();
    for c in [0.4, 0.9] {
        let entry = entries.iter().find(|entry| entry.name == format!("cagrad_{c}")).unwrap();
        let excess = entry.runs.iter().map(|run| {
            let gram = &grams[run.steps[0]];
            let (own, theirs) = (ours(&entry.job, gram), Solution::new(gram, &run.weights[0]));
            let (least, reached) = (bound(&own, c), bound(&theirs, c));
            // Over the objective's own scale in TorchJD, the trace of G.
            let unit = gram.gram.iter().step_by(gram.tasks + 1).sum::<f64>();
            (gram.family.as_str(), (reached - least) / unit)
        });
        let worst = worst(excess);
        println!("TorchJD's objective over the least, c = {c}: {worst:?}");
        assert!(worst.iter().all(|(_, excess)| *excess < 1e-7), "{worst:?}");
    }
}
