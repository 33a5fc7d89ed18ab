//! Losses with their gradients, in their numerically stable forms, outside the graph.
//!
//! The caller divides by the *global* number (or weight) of labelled rows, which a rank does not know while it
//! builds its graph. So a loss takes the logits as numbers and returns its sum and the gradient, which
//! [`super::backward_from`] feeds to the graph.

use serde::{Deserialize, Serialize};

/// Loss of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Binary cross-entropy on a logit x with label y in [0, 1]: max(x, 0) − x·y + ln(1 + exp(−|x|)).
    BinaryCrossEntropy,
    /// (x − y)².
    SquaredError,
    /// Softmax cross-entropy of n logits with a class in 0..n as label: ln Σ_c exp(x_c) − x_y.
    CrossEntropy,
    /// Bayesian personalised ranking (Rendle et al., UAI 2009) of n margins x_j of a pair over drawn ones:
    /// −(1/n) Σ_j ln σ(x_j). The label is not read.
    Bpr,
}

impl Loss {
    /// Returns Σ_rows weight · loss and writes `inv_norm` · weight · ∂loss/∂logit into `gradient`.
    ///
    /// `logits` and `gradient` are `rows × outputs` with `outputs = logits.len() / labels.len()`. A row of weight
    /// 0 adds exactly 0 whatever its logit and label, even NaN. A class label outside 0..outputs makes the
    /// result NaN: decoding has to refuse it, with the row's address.
    pub fn with_gradient(
        self,
        logits: &[f32],
        labels: &[f32],
        weights: &[f32],
        inv_norm: f64,
        gradient: &mut [f32],
    ) -> f64 {
        assert_eq!(labels.len(), weights.len(), "a label and a weight per row");
        assert_eq!(logits.len(), gradient.len(), "a gradient per logit");
        let outputs = logits.len() / labels.len().max(1);
        assert_eq!(logits.len(), outputs * labels.len(), "the same number of logits per row");
        let mut total = 0.0;
        for (row, (&label, &weight)) in labels.iter().zip(weights).enumerate() {
            let at = row * outputs..(row + 1) * outputs;
            let gradient = &mut gradient[at.clone()];
            if weight == 0.0 {
                gradient.fill(0.0);
                continue;
            }
            let weight = f64::from(weight);
            total += weight * self.row(&logits[at], f64::from(label), weight * inv_norm, gradient);
        }
        total
    }

    /// Loss of one row; writes `scale` times its gradient.
    fn row(self, logits: &[f32], label: f64, scale: f64, gradient: &mut [f32]) -> f64 {
        match self {
            Self::CrossEntropy => cross_entropy(logits, label, scale, gradient),
            Self::BinaryCrossEntropy => element_wise(logits, scale, gradient, |x| binary_cross_entropy(x, label)),
            Self::Bpr => {
                // −ln σ(x) is the cross-entropy of label 1.
                let share = 1.0 / logits.len() as f64;
                share * element_wise(logits, scale * share, gradient, |x| binary_cross_entropy(x, 1.0))
            }
            Self::SquaredError => {
                element_wise(logits, scale, gradient, |x| ((x - label) * (x - label), 2.0 * (x - label)))
            }
        }
    }
}

/// The loss of logit x, and its slope.
fn binary_cross_entropy(x: f64, label: f64) -> (f64, f64) {
    // exp of a number that is not positive: no overflow.
    let small = (-x.abs()).exp();
    let probability = if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) };
    (x.max(0.0) - x * label + small.ln_1p(), probability - label)
}

fn element_wise(logits: &[f32], scale: f64, gradient: &mut [f32], f: impl Fn(f64) -> (f64, f64)) -> f64 {
    let mut loss = 0.0;
    for (&x, gradient) in logits.iter().zip(gradient) {
        let (value, slope) = f(f64::from(x));
        loss += value;
        *gradient = (scale * slope) as f32;
    }
    loss
}

fn cross_entropy(logits: &[f32], label: f64, scale: f64, gradient: &mut [f32]) -> f64 {
    let class = label as usize;
    let Some(&chosen) = logits.get(class).filter(|_| class as f64 == label) else {
        gradient.fill(f32::NAN);
        return f64::NAN;
    };
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    for (c, (&x, gradient)) in logits.iter().zip(gradient).enumerate() {
        let probability = (f64::from(x) - max).exp() / sum;
        let target = if c == class { 1.0 } else { 0.0 };
        *gradient = (scale * (probability - target)) as f32;
    }
    max + sum.ln() - f64::from(chosen)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, numbers, random};
    use super::*;

    /// Labels that suit the loss.
    fn labels(loss: Loss, rows: usize, outputs: usize) -> Vec<f32> {
        (0..rows)
            .map(|row| match loss {
                Loss::BinaryCrossEntropy => (row % 2) as f32,
                Loss::SquaredError => row as f32 * 0.3 - 1.0,
                Loss::CrossEntropy => (row % outputs) as f32,
                Loss::Bpr => 1.0,
            })
            .collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let cases = [
            (Loss::BinaryCrossEntropy, 1),
            (Loss::SquaredError, 1),
            (Loss::CrossEntropy, 4),
            (Loss::Bpr, 1),
            (Loss::Bpr, 3),
        ];
        for (loss, outputs) in cases {
            for rows in [1, 5] {
                let logits: Vec<f32> = numbers(&random(&[rows, outputs], 1)).iter().map(|&v| 3.0 * v as f32).collect();
                let (labels, weights) = (labels(loss, rows, outputs), vec![0.5, 2.0, 0.0, 1.0, 3.0]);
                let value = |logits: &[f32]| {
                    loss.with_gradient(logits, &labels, &weights[..rows], 0.25, &mut vec![0.0; logits.len()]) * 0.25
                };
                let mut gradient = vec![0.0; logits.len()];
                loss.with_gradient(&logits, &labels, &weights[..rows], 0.25, &mut gradient);
                for i in 0..logits.len() {
                    let moved = |step: f32| {
                        let mut logits = logits.clone();
                        logits[i] += step;
                        (value(&logits), f64::from(logits[i]))
                    };
                    let ((high, x1), (low, x0)) = (moved(1e-2), moved(-1e-2));
                    assert_close(&[f64::from(gradient[i])], &[(high - low) / (x1 - x0)], 1e-3, "slope");
                }
            }
        }
    }

    #[test]
    fn values_match_the_definitions() {
        let mut g = [0.0];
        let bce = Loss::BinaryCrossEntropy.with_gradient(&[0.7], &[1.0], &[2.0], 1.0, &mut g);
        assert_close(&[bce], &[2.0 * (1.0 + (-0.7f64).exp()).ln()], 1e-7, "binary cross-entropy");
        let mse = Loss::SquaredError.with_gradient(&[0.5], &[2.0], &[1.0], 1.0, &mut g);
        assert_eq!((mse, g), (2.25, [-3.0]));
        let bpr = Loss::Bpr.with_gradient(&[0.7, -0.2], &[1.0], &[2.0], 1.0, &mut [0.0; 2]);
        assert_close(&[bpr], &[(1.0 + (-0.7f64).exp()).ln() + (1.0 + 0.2f64.exp()).ln()], 1e-7, "pairwise");
        let mut g = [0.0; 3];
        let ce = Loss::CrossEntropy.with_gradient(&[0.0, 1.0, 2.0], &[1.0], &[1.0], 1.0, &mut g);
        let sum = 1.0 + 1f64.exp() + 2f64.exp();
        assert_close(&[ce], &[sum.ln() - 1.0], 1e-9, "cross-entropy");
        assert!(g.iter().sum::<f32>().abs() < 1e-6);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let mut g = [0.0; 2];
        for (x, label, expected) in [(1e4, 0.0, 1e4), (-1e4, 1.0, 1e4), (1e4, 1.0, 0.0), (-1e4, 0.0, 0.0)] {
            let loss = Loss::BinaryCrossEntropy.with_gradient(&[x], &[label], &[1.0], 1.0, &mut g[..1]);
            assert_eq!(loss, expected);
        }
        let loss = Loss::CrossEntropy.with_gradient(&[1e4, -1e4], &[1.0], &[1.0], 1.0, &mut g);
        assert_eq!((loss, g), (2e4, [1.0, -1.0]));
    }

    #[test]
    fn rows_without_a_label_add_exactly_nothing() {
        for (loss, outputs) in
            [(Loss::BinaryCrossEntropy, 1), (Loss::SquaredError, 1), (Loss::CrossEntropy, 3), (Loss::Bpr, 2)]
        {
            let mut gradient = vec![9.0; outputs];
            let logits = vec![f32::NAN; outputs];
            assert_eq!(loss.with_gradient(&logits, &[f32::NAN], &[0.0], 1.0, &mut gradient), 0.0);
            assert_eq!(gradient, vec![0.0; outputs]);
        }
        assert_eq!(Loss::SquaredError.with_gradient(&[], &[], &[], 1.0, &mut []), 0.0);
    }

    #[test]
    fn a_class_that_does_not_exist_is_not_a_number() {
        for label in [3.0, -1.0, 0.5, f32::NAN] {
            let mut gradient = [0.0; 3];
            let loss = Loss::CrossEntropy.with_gradient(&[0.0; 3], &[label], &[1.0], 1.0, &mut gradient);
            assert!(loss.is_nan() && gradient[0].is_nan(), "{label}");
        }
    }
}
