//! Adam for one learned number per task, as some loss-weighting methods have.

/// Numbers of state per task: the parameter, Adam's m and v, and the number of its updates. A task that is absent
/// from a batch is not updated, so each has its own number of updates.
pub(super) const WIDTH: usize = 4;

/// The state of `tasks` parameters that start at `value`.
pub(super) fn start(value: f64, tasks: usize) -> Vec<f64> {
    (0..tasks).flat_map(|_| [value, 0.0, 0.0, 0.0]).collect()
}

/// One update (β 0.9 and 0.999, ε 1e-8) of `[parameter, m, v, updates]`.
pub(super) fn update(state: &mut [f64], gradient: f64, lr: f64) {
    let [s, m, v, t] = state else { return };
    *t += 1.0;
    *m = 0.9 * *m + 0.1 * gradient;
    *v = 0.999 * *v + 0.001 * gradient * gradient;
    let (m_hat, v_hat) = (*m / (1.0 - libm::pow(0.9, *t)), *v / (1.0 - libm::pow(0.999, *t)));
    *s -= lr * m_hat / (v_hat.sqrt() + 1e-8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_updates_by_hand() {
        let mut state = start(1.0, 1);
        update(&mut state, 2.0, 0.1);
        // The first step is lr times the sign.
        assert!((state[0] - 0.9).abs() < 1e-9, "{state:?}");
        update(&mut state, -1.0, 0.1);
        // m = 0.08/0.19, v = 0.004996/0.001999 after correction.
        let want = 0.9 - 0.1 * (0.08 / 0.19) / (0.004996f64 / 0.001999).sqrt();
        assert!((state[0] - want).abs() < 1e-8 && state[3] == 2.0, "{state:?}");
    }
}
