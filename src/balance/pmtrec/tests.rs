//! PMTRec by hand, and the properties that any reading of it must have.

use super::*;
use crate::balance::testing::{assert_close, method, of_gram, try_method};
use proptest::prelude::*;

/// Combined rows of one table, with the dense weights, for gradients by task and then by row.
fn rows_of(method: &mut dyn Balancer, gradients: &[Vec<Vec<f64>>], progress: f64) -> (Vec<f64>, Vec<f64>) {
    let (rows, weights, _) = with_left_alone(method, gradients, progress);
    (rows, weights)
}

/// [`rows_of`], with the numbers of the rows that are left alone.
fn with_left_alone(
    method: &mut dyn Balancer,
    gradients: &[Vec<Vec<f64>>],
    progress: f64,
) -> (Vec<f64>, Vec<f64>, Vec<usize>) {
    let tasks = gradients.len();
    let mut values: Vec<f32> = gradients.iter().flatten().flatten().map(|&g| g as f32).collect();
    let (gram, losses, present) = (vec![0.0; tasks * tasks], vec![1.0; tasks], vec![true; tasks]);
    let signal = Signal { step: (progress * 1000.0) as u64, total_steps: 1000, ..of_gram(&gram, &losses, &present) };
    let mut left_alone = Vec::new();
    let mut tables = [Rows { dim: gradients[0][0].len(), values: &mut values, left_alone: &mut left_alone }];
    let weights = method.on_rows().unwrap().combine(&signal, &mut tables, &|_| Ok(())).unwrap();
    (values.into_iter().map(f64::from).collect(), weights, left_alone)
}

fn once(job: &str, gradients: &[Vec<Vec<f64>>], progress: f64) -> Vec<f64> {
    rows_of(method(job, gradients.len()).as_mut(), gradients, progress).0
}

#[test]
fn a_row_by_hand() {
    // One row: n = (2, 1), which are the means too: a = (1, 1), p = (1, 1), g̃₂ = 2·g₂.
    let gradients = [vec![vec![2.0, 0.0]], vec![vec![0.0, 1.0]]];
    assert_close(&once("{kind: pmtrec}", &gradients, 0.0), &[2.0, 2.0], 1e-6);
    // Half way: q = (½ + ½, ½).
    assert_close(&once("{kind: pmtrec}", &gradients, 0.5), &[2.0, 1.0], 1e-6);
    assert_close(&once("{kind: pmtrec, focus: cosine, focus_until: 0.5}", &gradients, 0.25), &[2.0, 1.0], 1e-6);
    // Literal softmax of the norms: 2·(e², e)/(e² + e).
    let first = 2.0 / (1.0 + (-1f64).exp());
    let literal = once("{kind: pmtrec, scale: none, rescale: false}", &gradients, 0.0);
    assert_close(&literal, &[2.0 * first, 2.0 - first], 1e-6);
    // Orthogonal gradients: the gate closes.
    assert_close(&once("{kind: pmtrec, focus: cosine_gate}", &gradients, 0.9), &[2.0, 0.0], 1e-6);
}

#[test]
fn rows_of_one_task_keep_their_gradient_until_they_fade() {
    let gradients = [vec![vec![3.0], vec![0.0]], vec![vec![0.0], vec![5.0]]];
    let job = "{kind: pmtrec, rescale: false}";
    assert_close(&once(job, &gradients, 0.0), &[3.0, 5.0], 1e-6);
    assert_close(&once(job, &gradients, 0.5), &[3.0, 2.5], 1e-6);
    assert_close(&once("{kind: pmtrec, rescale: false, focus_fade_aux: false}", &gradients, 1.0), &[3.0, 5.0], 1e-6);
}

#[test]
fn rows_that_have_faded_are_left_alone() {
    // Rows of both tasks, of the auxiliary one, of none, and of the main one.
    let gradients =
        [vec![vec![3.0], vec![0.0], vec![0.0], vec![1.0]], vec![vec![1.0], vec![5.0], vec![0.0], vec![0.0]]];
    let left_alone = |job: &str, progress| with_left_alone(method(job, 2).as_mut(), &gradients, progress).2;
    assert!(left_alone("{kind: pmtrec}", 0.9).is_empty());
    assert_eq!(left_alone("{kind: pmtrec}", 1.0), [1]);
    assert_eq!(left_alone("{kind: pmtrec, focus: constant}", 0.0), [1]);
    assert!(left_alone("{kind: pmtrec, focus: constant, lambda_max: 0.9}", 0.0).is_empty());
    assert!(left_alone("{kind: pmtrec, focus: constant, focus_fade_aux: false}", 0.0).is_empty());
    // What is left is the main task's gradient, to the last bit.
    let (rows, ..) = with_left_alone(method("{kind: pmtrec, focus: constant}", 2).as_mut(), &gradients, 0.0);
    assert_eq!(rows, [3.0, 0.0, 0.0, 1.0]);
}

#[test]
fn the_dense_weights_are_the_mean_over_touched_rows() {
    let gradients = [vec![vec![1.0], vec![1.0]], vec![vec![1.0], vec![0.0]]];
    let (_, weights) = rows_of(method("{kind: pmtrec}", 2).as_mut(), &gradients, 0.5);
    // Row 1: p = (1, 1), q = (1, ½). Row 2: q = (1, 0) with one task.
    assert_close(&weights, &[1.0, 0.5], 1e-9);
}

#[test]
fn the_scale_of_a_loss_does_not_matter_once_the_average_has_settled() {
    let rows = |c: f64| [vec![vec![1.0, 2.0], vec![0.5, 0.0]], vec![vec![0.3 * c, 0.0], vec![-c, 0.1 * c]]];
    let settled = |c: f64| {
        let mut method = method("{kind: pmtrec}", 2);
        (0..5).map(|_| rows_of(method.as_mut(), &rows(c), 0.2).0).last().unwrap()
    };
    assert_close(&settled(1.0), &settled(4096.0), 1e-5);
}

#[test]
fn options_out_of_range_are_errors() {
    for wrong in ["main: other", "tau: 0", "rho: 1", "lambda_max: 1.5", "focus_until: 0", "scope: shared"] {
        assert!(try_method(&format!("{{kind: pmtrec, {wrong}}}"), 2).is_err(), "{wrong}");
    }
}

fn gradients() -> impl Strategy<Value = Vec<Vec<Vec<f64>>>> {
    let row = prop_oneof![Just(vec![0.0; 3]), prop::collection::vec(-1.0f64..1.0, 3)];
    (1usize..5).prop_flat_map(move |rows| prop::collection::vec(prop::collection::vec(row.clone(), rows), 3))
}

fn sum_of(gradients: &[Vec<Vec<f64>>]) -> Vec<f64> {
    let mut sum = vec![0.0; gradients[0].len() * 3];
    for task in gradients {
        sum.iter_mut().zip(task.iter().flatten()).for_each(|(s, g)| *s += g);
    }
    sum
}

proptest! {
    #![proptest_config(crate::balance::testing::fixed())]

    #[test]
    fn a_high_temperature_without_rescaling_is_the_plain_sum(gradients in gradients()) {
        let combined = once("{kind: pmtrec, tau: 1e9, rescale: false, focus: none}", &gradients, 0.7);
        assert_close(&combined, &sum_of(&gradients), 1e-5);
    }

    #[test]
    fn at_the_end_only_the_main_task_is_left(gradients in gradients()) {
        let combined = once("{kind: pmtrec, main: task 1}", &gradients, 1.0);
        let main: Vec<f64> = gradients[1].iter().flatten().copied().collect();
        assert_close(&combined, &main, 1e-5);
    }

    /// Rows on several ranks come out as on one: the sums are all that ranks share.
    #[test]
    fn rows_split_over_ranks_give_the_same(gradients in gradients()) {
        let whole = once("{kind: pmtrec}", &gradients, 0.3);
        let count = gradients[0].len();
        let part = |keep: &dyn Fn(usize) -> bool| -> Vec<Vec<Vec<f64>>> {
            let of = |task: &Vec<Vec<f64>>| (0..count).filter(|&i| keep(i)).map(|i| task[i].clone()).collect();
            gradients.iter().map(of).collect()
        };
        let parts = [part(&|i| i % 2 == 0), part(&|i| i % 2 == 1)];
        if parts[1][0].is_empty() {
            return Ok(());
        }
        // What the other rank adds to a sum, call by call: first the norms, then the weights (unused here).
        let totals = |rows: &[Vec<Vec<f64>>]| -> Vec<f64> {
            let norm = |row: &Vec<f64>| row.iter().map(|&x| f64::from(x as f32).powi(2)).sum::<f64>().sqrt();
            let sums = rows.iter().map(|task| task.iter().map(norm).sum::<f64>());
            let counts = rows.iter().map(|task| task.iter().filter(|row| norm(row) > 0.0).count() as f64);
            sums.chain(counts).collect()
        };
        for (mine, other) in [(0, 1), (1, 0)] {
            let mut balancer = method("{kind: pmtrec}", 3);
            let others = totals(&parts[other]);
            let calls = std::cell::Cell::new(0);
            let mut values: Vec<f32> = parts[mine].iter().flatten().flatten().map(|&g| g as f32).collect();
            let signal = Signal { step: 300, total_steps: 1000, ..of_gram(&[0.0; 9], &[1.0; 3], &[true; 3]) };
            let sum = |totals: &mut [f64]| {
                calls.set(calls.get() + 1);
                if calls.get() == 1 {
                    totals.iter_mut().zip(&others).for_each(|(a, b)| *a += b);
                }
                Ok(())
            };
            balancer.on_rows().unwrap().combine(&signal, &mut [Rows { dim: 3, values: &mut values, left_alone: &mut Vec::new() }], &sum).unwrap();
            let rows: Vec<f64> =
                (0..count).filter(|i| i % 2 == mine).flat_map(|i| whole[i * 3..i * 3 + 3].to_vec()).collect();
            assert_close(&values.into_iter().map(f64::from).collect::<Vec<_>>(), &rows, 1e-6);
        }
    }
}
