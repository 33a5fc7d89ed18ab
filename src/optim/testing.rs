//! What the tests of every optimizer share.

use super::build;
use crate::random;

/// One parameter from `start` through the gradients; returns its value after each update.
pub(super) fn run(job: &str, start: f32, grads: &[f32]) -> Vec<f32> {
    let optimizer = build(&mut serde_yaml::from_str(job).unwrap()).unwrap();
    let mut slots = vec![vec![0.0]; optimizer.slot_names().len()];
    let mut p = [start];
    let mut after = Vec::new();
    for (i, &g) in grads.iter().enumerate() {
        optimizer.update(&mut p, &[g], &mut slots, optimizer.lr(), i as u64 + 1);
        after.push(p[0]);
    }
    after
}

/// Runs 50 updates of 67 parameters (no multiple of a vector's width) with a varying rate, as one slice and
/// as two, beside a scalar float64 `reference(p, g, state, lr, t) -> p`.
pub(super) fn assert_follows(job: &str, reference: impl Fn(f64, f64, &mut [f64; 2], f64, i32) -> f64) {
    const N: usize = 67;
    let optimizer = build(&mut serde_yaml::from_str(job).unwrap()).unwrap();
    let draw = |key: &[u64]| (random::unit(5, key) * 4.0 - 2.0) as f32;
    let start: Vec<f32> = (0..N as u64).map(|i| draw(&[0, i])).collect();
    let zeros = |n: usize| vec![vec![0.0f32; n]; optimizer.slot_names().len()];

    let (mut whole, mut whole_slots) = (start.clone(), zeros(N));
    let (mut head, mut head_slots) = (start[..20].to_vec(), zeros(20));
    let (mut tail, mut tail_slots) = (start[20..].to_vec(), zeros(N - 20));
    let mut exact: Vec<f64> = start.iter().map(|&p| f64::from(p)).collect();
    let mut state = vec![[0.0; 2]; N];
    for t in 1..=50u64 {
        let grads: Vec<f32> = (0..N as u64).map(|i| draw(&[t, i])).collect();
        let lr = optimizer.lr() / (1.0 + t as f64 / 20.0);
        optimizer.update(&mut whole, &grads, &mut whole_slots, lr, t);
        optimizer.update(&mut head, &grads[..20], &mut head_slots, lr, t);
        optimizer.update(&mut tail, &grads[20..], &mut tail_slots, lr, t);
        for i in 0..N {
            exact[i] = reference(exact[i], f64::from(grads[i]), &mut state[i], lr, t as i32);
        }
    }
    for (got, want) in whole.iter().zip(&exact) {
        assert!((f64::from(*got) - want).abs() < 2e-5 * (1.0 + want.abs()), "{job}: {got} is not {want}");
    }
    assert_eq!([head, tail].concat(), whole, "a slice alone must give the same bits as the whole");
}
