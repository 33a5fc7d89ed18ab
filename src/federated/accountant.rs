//! What noise is worth: (ε, δ)-differential privacy of clients, by Rényi differential privacy.
//!
//! A client that takes part or not changes what leaves it in a round by at most `clip`, so Gaussian noise of deviation z · clip makes
//! a round (α, α/(2z²))-RDP (Mironov, CSF 2017, corollary 3); rounds add up (proposition 1), every client being in every round; and
//! (α, ρ)-RDP is (ε, δ)-DP with
//!
//!   ε = ρ + ln((α − 1)/α) − (ln δ + ln α)/(α − 1)
//!
//! (Canonne, Kamath & Steinke, NeurIPS 2020, proposition 12), at the best of many orders α. Metrics and row counts, which leave a client
//! too, are not covered.

/// Orders α = 1 + 2^(k/8).
const ORDERS: std::ops::Range<i32> = -64..160;

/// ε of `rounds` rounds with noise of `noise` times the clipping norm, at this `delta`; infinite without noise.
pub fn epsilon(noise: f64, rounds: u64, delta: f64) -> f64 {
    if rounds == 0 {
        return 0.0;
    }
    let of_order = |k: i32| {
        let over = (f64::from(k) / 8.0).exp2();
        let order = 1.0 + over;
        rounds as f64 * order / (2.0 * noise * noise) + (over / order).ln() - (delta.ln() + order.ln()) / over
    };
    ORDERS.map(of_order).fold(f64::INFINITY, f64::min).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least ε of a Gaussian mechanism, exactly (Balle & Wang, ICML 2018, theorem 8): T rounds of noise z are one of z/√T.
    fn exact(noise: f64, rounds: u64, delta: f64) -> f64 {
        let mu = (rounds as f64).sqrt() / noise;
        let phi = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        let delta_of = |eps: f64| phi(mu / 2.0 - eps / mu) - eps.exp() * phi(-mu / 2.0 - eps / mu);
        let (mut low, mut high) = (0.0, 500.0);
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if delta_of(middle) > delta { low = middle } else { high = middle }
        }
        high
    }

    #[test]
    fn it_bounds_the_exact_guarantee_closely() {
        for noise in [0.8, 1.0, 2.0, 5.0, 20.0] {
            for rounds in [1, 10, 50] {
                for delta in [1e-3, 1e-5, 1e-8] {
                    let (bound, exact) = (epsilon(noise, rounds, delta), exact(noise, rounds, delta));
                    let case = format!("z {noise}, {rounds} rounds, δ {delta}: {bound} against {exact}");
                    assert!(bound >= exact && bound <= 1.25 * exact + 0.02, "{case}");
                }
            }
        }
    }

    #[test]
    fn it_is_tighter_than_the_textbook_conversion() {
        // ρ + 2√(ρ ln 1/δ) with ρ = T/(2z²) (Bun & Steinke, TCC 2016, proposition 1.3).
        let rho = 10.0 / (2.0 * 4.0f64.powi(2));
        let textbook = rho + 2.0 * (rho * 1e5f64.ln()).sqrt();
        assert!(epsilon(4.0, 10, 1e-5) < textbook);
    }

    #[test]
    fn known_values() {
        assert_eq!(epsilon(0.0, 3, 1e-5), f64::INFINITY);
        assert_eq!(epsilon(1.0, 0, 1e-5), 0.0);
        assert!(epsilon(1.0, 2, 1e-5) > epsilon(1.0, 1, 1e-5) && epsilon(2.0, 1, 1e-5) < epsilon(1.0, 1, 1e-5));
        assert!((exact(1.0, 1, 1e-5) - 4.3772).abs() < 1e-4 && (epsilon(1.0, 1, 1e-5) - 4.7290).abs() < 1e-3);
    }
}
