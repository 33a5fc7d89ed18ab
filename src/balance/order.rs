//! The random order in which a task meets the others.

use super::Signal;
use crate::random;

/// The other tasks in the random order of task `i` at this step: positions in `present`, the numbers of the tasks
/// that take part. Drawn by task, so an absent task does not change the order of the rest; `method` keeps two
/// methods apart.
pub(super) fn of_others(signal: &Signal, present: &[usize], i: usize, method: &str) -> Vec<usize> {
    let salt = random::text(method);
    let draw = |j: usize| random::hash(signal.seed, &[salt, signal.step, present[i] as u64, present[j] as u64]);
    let mut order: Vec<usize> = (0..present.len()).filter(|&j| j != i).collect();
    order.sort_by_key(|&j| draw(j));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::of_losses;

    #[test]
    fn the_order_is_random_by_step_and_the_same_for_the_same_step() {
        let order = |step, present: &[usize]| {
            of_others(&Signal { step, seed: 3, ..of_losses(&[0.0; 6], &[true; 6]) }, present, 2, "pcgrad")
        };
        let orders: Vec<_> = (0..20).map(|step| order(step, &[0, 1, 2, 3, 4, 5])).collect();
        assert!(orders.iter().any(|o| *o != orders[0]));
        assert_eq!(orders[7], order(7, &[0, 1, 2, 3, 4, 5]));
        let without_4: Vec<usize> = orders[7].iter().copied().filter(|&j| j != 4).collect();
        let names = [0, 1, 2, 3, 5];
        let short: Vec<usize> = order(7, &names).into_iter().map(|j| names[j]).collect();
        assert_eq!(short, without_4);
    }
}
