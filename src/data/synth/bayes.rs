//! The best that any model can reach, from the true probabilities.

use rayon::prelude::*;

/// One row as a metric sees it: its score and how much of it is positive and negative. With drawn labels
/// these are y and 1 − y; with the true probability p and 1 − p they are the expectation of that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// What rows are ranked by.
    pub score: f64,
    /// Positive weight, at least 0.
    pub positive: f64,
    /// Negative weight, at least 0.
    pub negative: f64,
}

/// The area under the ROC curve: the probability that a positive row scores above a negative one, ties
/// counting half, over pairs of *different* rows.
///
/// With weights p and 1 − p this is the ratio of the expected number of rightly ordered pairs to the
/// expected number of pairs: the AUC of the true probability without the noise of one draw of labels.
/// `None` if there is no pair. Exact; sorts `rows` in place.
pub fn auc(rows: &mut [Judged]) -> Option<f64> {
    // A stable sort, so that sums over ties have one order whatever the number of threads.
    rows.par_sort_by(|a, b| a.score.total_cmp(&b.score));
    let (mut below, mut ordered, mut positives, mut with_itself) = (0.0, 0.0, 0.0, 0.0);
    for tie in rows.chunk_by(|a, b| a.score == b.score) {
        let positive: f64 = tie.iter().map(|r| r.positive).sum();
        let negative: f64 = tie.iter().map(|r| r.negative).sum();
        with_itself += tie.iter().map(|r| r.positive * r.negative).sum::<f64>();
        ordered += positive * (below + 0.5 * negative);
        below += negative;
        positives += positive;
    }
    let pairs = positives * below - with_itself;
    // The smallest real pair count is far above rounding of the sums.
    (pairs > 1e-9 * (1.0 + with_itself)).then(|| (ordered - 0.5 * with_itself) / pairs)
}

/// Mean −log-likelihood, in nats, of Bernoulli labels with these probabilities under the true model: the
/// weighted mean of the binary entropy. `None` if the weights sum to 0.
pub fn logloss(probability_and_weight: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let entropy = |p: f64| if p <= 0.0 || p >= 1.0 { 0.0 } else { -p * p.ln() - (1.0 - p) * (-p).ln_1p() };
    let (sum, total) = probability_and_weight.fold((0.0, 0.0), |(s, t), (p, w)| (s + w * entropy(p), t + w));
    (total > 0.0).then(|| sum / total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;
    use proptest::prelude::*;

    fn slow_auc(rows: &[Judged]) -> f64 {
        let (mut ordered, mut pairs) = (0.0, 0.0);
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let weight = if i == j { 0.0 } else { a.positive * b.negative };
                pairs += weight;
                ordered += weight
                    * if a.score > b.score {
                        1.0
                    } else if a.score == b.score {
                        0.5
                    } else {
                        0.0
                    };
            }
        }
        ordered / pairs
    }

    proptest! {
        #[test]
        fn auc_is_the_share_of_ordered_pairs(scores in prop::collection::vec((0..6_u32, 0.01..0.99_f64), 2..40)) {
            let mut rows: Vec<Judged> = scores
                .iter()
                .map(|&(s, p)| Judged { score: f64::from(s), positive: p, negative: 1.0 - p })
                .collect();
            let expected = slow_auc(&rows);
            prop_assert!((auc(&mut rows).unwrap() - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn expected_auc_is_the_mean_over_drawn_labels() {
        let p: Vec<f64> = (0..60).map(|i| random::unit(1, &[i])).collect();
        let judged = |label: &dyn Fn(usize) -> f64| -> Vec<Judged> {
            (0..60).map(|i| Judged { score: p[i], positive: label(i), negative: 1.0 - label(i) }).collect()
        };
        let expected = auc(&mut judged(&|i| p[i])).unwrap();
        let draws = 400;
        let drawn = (0..draws)
            .map(|d| auc(&mut judged(&|i| f64::from(u8::from(random::unit(2, &[d, i as u64]) < p[i])))).unwrap());
        let mean = drawn.sum::<f64>() / draws as f64;
        assert!((mean - expected).abs() < 0.006, "{mean} {expected}");
    }

    #[test]
    fn one_class_has_no_auc() {
        let row = |positive: f64| Judged { score: 0.3, positive, negative: 1.0 - positive };
        assert_eq!(auc(&mut [row(1.0), row(1.0)]), None);
        assert_eq!(auc(&mut [row(0.4)]), None);
        assert_eq!(auc(&mut []), None);
        assert_eq!(auc(&mut [row(1.0), row(0.0)]), Some(0.5));
    }

    #[test]
    fn logloss_is_the_weighted_entropy() {
        let got = logloss([(0.5, 1.0), (0.0, 1.0), (1.0, 2.0)].into_iter()).unwrap();
        assert!((got - std::f64::consts::LN_2 / 4.0).abs() < 1e-15);
        assert_eq!(logloss(std::iter::empty()), None);
    }
}
