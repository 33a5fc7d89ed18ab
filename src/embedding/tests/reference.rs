//! Every optimizer, over many steps with duplicate ids in and across ranks, against float64 code that knows
//! nothing of ranks, buckets or messages.

use super::*;
use crate::embedding::init::table_seed;

const STEPS: u64 = 30;
const VOCABULARY: u64 = 20;
const KINDS: [(&str, &str); 6] = [
    ("rowwise_adagrad", "{kind: rowwise_adagrad, lr: 0.05, initial_accumulator: 0.1, l2: 0.01, clip_norm: 0.8}"),
    ("adagrad", "{kind: adagrad, lr: 0.05, initial_accumulator: 0.1, l2: 0.01, clip_norm: 0.8}"),
    ("adam", "{kind: adam, lr: 0.05, eps: 1.0e-4, l2: 0.01, clip_norm: 0.8}"),
    ("sgd", "{kind: sgd, lr: 0.05, l2: 0.01, clip_norm: 0.8}"),
    ("momentum", "{kind: sgd, lr: 0.05, momentum: 0.7, l2: 0.01, clip_norm: 0.8}"),
    ("ftrl", "{kind: ftrl, lr: 0.05, beta: 0.5, l1: 0.02, l2: 0.01, initial_accumulator: 0.1, clip_norm: 0.8}"),
];

/// A row of the reference: values and two vectors of state.
#[derive(Debug, Clone)]
struct Dense {
    w: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    t: i32,
}

impl Dense {
    fn new(kind: &str, table: usize, id: u64) -> Self {
        let (name, dim) = [("user", 3), ("item", 2)][table];
        let mut row = vec![0.0; dim];
        Init::default_for(dim).fill(table_seed(SEED, name), id, &mut row);
        let w: Vec<f64> = row.into_iter().map(f64::from).collect();
        let (a, b) = match kind {
            "rowwise_adagrad" | "adagrad" => (vec![0.1; dim], vec![]),
            "ftrl" => {
                let curvature = (0.5 + 0.1f64.sqrt()) / 0.05 + 0.01;
                (w.iter().map(|w| -w * curvature - 0.02 * w.signum()).collect(), vec![0.1; dim])
            }
            _ => (vec![0.0; dim], vec![0.0; dim]),
        };
        Self { w, a, b, t: 0 }
    }

    fn update(&mut self, kind: &str, grad: &[f64], factor: f64) {
        let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        let clip = (0.8 / norm).min(1.0);
        let lr = 0.05 * factor;
        let n = grad.len();
        let g: Vec<f64> = (0..n).map(|i| clip * grad[i] + 0.01 * self.w[i]).collect();
        self.t += 1;
        let mean_square = g.iter().map(|g| g * g).sum::<f64>() / n as f64;
        for i in 0..n {
            match kind {
                "rowwise_adagrad" => {
                    self.a[i] += mean_square;
                    self.w[i] -= lr * g[i] / (self.a[i].sqrt() + 1e-8);
                }
                "adagrad" => {
                    self.a[i] += g[i] * g[i];
                    self.w[i] -= lr * g[i] / (self.a[i].sqrt() + 1e-8);
                }
                "adam" => {
                    self.a[i] = 0.9 * self.a[i] + 0.1 * g[i];
                    self.b[i] = 0.999 * self.b[i] + 0.001 * g[i] * g[i];
                    let m = self.a[i] / (1.0 - 0.9f64.powi(self.t));
                    let v = self.b[i] / (1.0 - 0.999f64.powi(self.t));
                    self.w[i] -= lr * m / (v.sqrt() + 1e-4);
                }
                "sgd" => self.w[i] -= lr * g[i],
                "momentum" => {
                    self.a[i] = 0.7 * self.a[i] + g[i];
                    self.w[i] -= lr * self.a[i];
                }
                "ftrl" => {
                    let g = clip * grad[i];
                    let next = self.b[i] + g * g;
                    self.a[i] += factor * g - (next.sqrt() - self.b[i].sqrt()) / 0.05 * self.w[i];
                    self.b[i] = next;
                    let curvature = (0.5 + next.sqrt()) / 0.05 + 0.01;
                    let z = self.a[i];
                    self.w[i] = if z.abs() <= 0.02 { 0.0 } else { -(z - 0.02 * z.signum()) / curvature };
                }
                _ => unreachable!(),
            }
        }
    }
}

/// The whole run in float64. With `parts` of 1 each row is updated once a step; else once for each part of
/// the batch that holds it: the mistake of an owner that does not sum what several ranks send.
fn run(kind: &str, parts: usize) -> BTreeMap<(usize, u64), Dense> {
    let mut rows: BTreeMap<(usize, u64), Dense> = BTreeMap::new();
    for step in 0..STEPS {
        let mut grads: BTreeMap<(usize, u64, usize), Vec<f64>> = BTreeMap::new();
        for (feature, bag) in bags().iter().enumerate() {
            let ids = batch(step, feature as u64, VOCABULARY);
            for (row, ids) in ids.iter().enumerate() {
                let part = row * parts / ROWS;
                for &id in ids {
                    rows.entry((bag.table, id)).or_insert_with(|| Dense::new(kind, bag.table, id));
                }
                accumulate(&rows, &mut grads, bag, (step, feature as u64, row), ids, part);
            }
        }
        for ((table, id, _), grad) in grads {
            rows.get_mut(&(table, id)).unwrap().update(kind, &grad, factor(step));
        }
    }
    rows
}

fn accumulate(
    rows: &BTreeMap<(usize, u64), Dense>,
    grads: &mut BTreeMap<(usize, u64, usize), Vec<f64>>,
    bag: &BagSpec,
    (step, feature, row): (u64, u64, usize),
    ids: &[u64],
    part: usize,
) {
    let dim = [3, 2][bag.table];
    let used = if bag.kind == SEQUENCE { &ids[ids.len().saturating_sub(3)..] } else { ids };
    let scale = if bag.kind == MEAN { 1.0 / ids.len().max(1) as f64 } else { 1.0 };
    for (place, &id) in used.iter().enumerate() {
        let grad = grads.entry((bag.table, id, part)).or_insert_with(|| vec![0.0; dim]);
        for (i, grad) in grad.iter_mut().enumerate() {
            *grad += if bag.kind == SEQUENCE {
                gradient(step, feature, row, place * dim + i, rows[&(bag.table, id)].w[i])
            } else {
                let value: f64 = ids.iter().map(|&id| rows[&(bag.table, id)].w[i]).sum::<f64>() * scale;
                scale * gradient(step, feature, row, i, value)
            };
        }
    }
}

/// The largest difference between the tables of `size` ranks and the reference.
fn difference(kind: &str, sparse: &str, size: usize, parts: usize) -> f64 {
    let reference = run(kind, parts);
    let trained = collect(&train(size, "{}", sparse, 0..STEPS, VOCABULARY));
    let used: Vec<_> = trained.keys().collect();
    assert_eq!(used, reference.keys().collect::<Vec<_>>());
    let pairs = trained.values().zip(reference.values());
    pairs
        .flat_map(|(row, dense)| row.values.iter().zip(&dense.w).map(|(&a, &b)| (f64::from(a) - b).abs()))
        .fold(0.0, f64::max)
}

#[test]
fn every_optimizer_agrees_with_the_reference_at_any_number_of_ranks() {
    for (kind, sparse) in KINDS {
        for size in 1..=4 {
            let difference = difference(kind, sparse, size, 1);
            assert!(difference < 2e-5, "{kind} on {size} ranks: {difference}");
        }
    }
}

#[test]
fn an_owner_that_does_not_sum_duplicates_would_be_found_out() {
    for (kind, sparse) in KINDS {
        let difference = difference(kind, sparse, 3, 3);
        assert!(difference > 1e-2, "{kind}: {difference}");
    }
}

#[test]
fn counts_and_last_steps_do_not_know_the_ranks() {
    let rows = |size| collect(&train(size, "{}", KINDS[0].1, 0..STEPS, VOCABULARY));
    let one = rows(1);
    let seen: u32 = (0..STEPS)
        .flat_map(|step| [0, 2].map(|f| batch(step, f, VOCABULARY)))
        .flatten()
        .flatten()
        .filter(|&id| id == 7)
        .count() as u32;
    assert_eq!(one[&(0, 7)].count, seen);
    for size in 2..=4 {
        let many = rows(size);
        assert!(one.iter().zip(&many).all(|((k, a), (l, b))| {
            (k, a.count, a.last_step) == (l, b.count, b.last_step)
                && a.values.iter().zip(&b.values).all(|(x, y)| (x - y).abs() < 1e-5)
        }));
        assert_eq!(one.len(), many.len());
    }
}
