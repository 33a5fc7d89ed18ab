//! Adam for the few numbers that a balancing method learns.

/// Numbers of state per parameter: its value, Adam's m and v, and the number of its updates.
pub(super) const WIDTH: usize = 4;

/// One Adam update (Kingma & Ba 2015; β 0.9 and 0.999, eps 1e-8) of `[parameter, m, v, t]`.
pub(super) fn update(state: &mut [f64], gradient: f64, lr: f64) {
    let [parameter, m, v, t] = state else { return };
    *t += 1.0;
    *m = 0.9 * *m + 0.1 * gradient;
    *v = 0.999 * *v + 0.001 * gradient * gradient;
    let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powf(*t)), *v / (1.0 - 0.999f64.powf(*t)));
    *parameter -= lr * m_hat / (v_hat.sqrt() + 1e-8);
}

/// `tasks` parameters that start at `value`.
pub(super) fn start(tasks: usize, value: f64) -> Vec<f64> {
    (0..tasks).flat_map(|_| [value, 0.0, 0.0, 0.0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_as_long_as_the_rate_and_a_minimum_is_found() {
        let mut state = start(1, 1.0);
        update(&mut state, 123.0, 0.1);
        assert!((state[0] - 0.9).abs() < 1e-9);
        for _ in 0..2000 {
            let gradient = 2.0 * (state[0] + 3.0);
            update(&mut state, gradient, 0.05);
        }
        assert!((state[0] + 3.0).abs() < 1e-3, "{state:?}");
    }
}
