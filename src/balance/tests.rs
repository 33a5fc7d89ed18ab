//! What every method must do, whatever its formula.

use super::testing::{combine, gram_of, method, names, of_gram, scaled_rows, weights_of};
use super::*;
use proptest::prelude::*;

/// Methods without random order whose update is a continuous function of the Gram matrix. (`imtl_g`, `config` and
/// `aligned_mtl` are not where the rank changes: their own tests take independent gradients.)
const PLAIN: [&str; 8] = [
    "{kind: uniform}",
    "{kind: mgda}",
    "{kind: cagrad}",
    "{kind: nash_mtl}",
    "{kind: fairgrad}",
    "{kind: upgrad}",
    "{kind: dual_proj}",
    "{kind: crmogm, of: {kind: mgda}}",
];

/// Methods whose weights do not change when all gradients are multiplied by one number.
const SCALE_FREE: [&str; 11] = [
    "{kind: mgda}",
    "{kind: pcgrad}",
    "{kind: cagrad}",
    "{kind: imtl_g}",
    "{kind: aligned_mtl}",
    "{kind: upgrad}",
    "{kind: dual_proj, ridge: 0.001}",
    "{kind: config}",
    "{kind: gradvac}",
    "{kind: gradcraft}",
    "{kind: pcd, epsilon: 0}",
];

/// Those of [`weighing`] that need the Gram matrix.
fn gram_kinds() -> Vec<&'static str> {
    weighing().into_iter().filter(|kind| method(&format!("{{kind: {kind}}}"), 2).needs() == Needs::Gram).collect()
}

/// Kinds whose weights come from losses or the K × K Gram matrix: all but those that look at the gradients themselves.
fn weighing() -> Vec<&'static str> {
    let weighs = |kind: &&str| {
        let method = method(&format!("{{kind: {kind}}}"), 2);
        method.needs() <= Needs::Gram && method.parts() == 1
    };
    kinds().into_iter().filter(weighs).collect()
}

fn size(rows: &[Vec<f64>], weights: &[f64]) -> f64 {
    let norm = |r: &Vec<f64>| r.iter().map(|x| x * x).sum::<f64>().sqrt();
    rows.iter().zip(weights).map(|(r, w)| norm(r) * w.abs()).sum()
}

#[test]
fn an_unknown_method_is_answered_with_the_nearest() {
    let error = build(&mut Component::named("ca_grad"), &names(2)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("did you mean `cagrad`"), "{error}");
}

#[test]
fn building_writes_the_defaults_into_the_job() {
    for kind in kinds() {
        let mut component = Component::named(kind);
        let first = build(&mut component, &names(3)).unwrap();
        assert_eq!(format!("{:?}", build(&mut component, &names(3)).unwrap()), format!("{first:?}"));
        component.options.insert("no_such_option".into(), 1.into());
        assert!(build(&mut component, &names(3)).is_err(), "{kind}");
    }
    let mut component = Component::named("cagrad");
    build(&mut component, &names(3)).unwrap();
    assert_eq!(component.options.get("c").and_then(|c| c.as_f64()), Some(0.4));
}

#[test]
fn one_task_has_its_plain_gradient() {
    for kind in weighing() {
        for _ in 0..3 {
            let job = format!("{{kind: {kind}}}");
            assert_eq!(weights_of(&job, &[7.0], 1), [1.0], "{kind}");
        }
    }
}

#[test]
fn a_product_that_is_not_finite_is_an_error_with_its_task() {
    for kind in gram_kinds() {
        let gram = [1.0, 0.0, f64::NAN, 1.0];
        let error = method(&format!("{{kind: {kind}}}"), 2)
            .weights(&of_gram(&gram, &[1.0, 1.0], &[true, true]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("task index 1"), "{error}");
    }
}

#[test]
fn a_restored_method_goes_on_as_the_saved_one() {
    let present = [true, true, false];
    let gram = gram_of(&[vec![1.0, 0.5], vec![-1.0, 0.2], vec![0.0, 0.0]]);
    for kind in weighing() {
        let job = format!("{{kind: {kind}}}");
        let mut straight = method(&job, 3);
        let mut resumed = None;
        for step in 0..10u64 {
            if step == 5 {
                let mut fresh = method(&job, 3);
                fresh.restore(&straight.state()).unwrap();
                resumed = Some(fresh);
            }
            let losses = [1.0 / (step + 1) as f64, 2.0, 0.0];
            let signal = Signal { step, steps_per_epoch: 2, ..of_gram(&gram, &losses, &present) };
            let want = straight.weights(&signal).unwrap();
            if let Some(resumed) = &mut resumed {
                assert_eq!(resumed.weights(&signal).unwrap(), want, "{kind}");
                assert_eq!(resumed.state(), straight.state(), "{kind}");
            }
        }
        let mut longer = straight.state();
        longer.push(0.0);
        assert!(straight.restore(&longer).is_err(), "{kind}");
    }
}

/// The error that this project exists to avoid: balancing each rank's own gradients.
#[test]
fn the_mean_of_local_grams_is_not_the_gram_of_the_mean_gradient() {
    // Two ranks whose rows disagree: each sees a conflict that the whole batch does not have.
    let ranks = [[vec![3.0, 1.0], vec![-6.0, 1.0]], [vec![-1.0, 1.0], vec![2.0, 3.0]]];
    let mean_rows: Vec<Vec<f64>> =
        (0..2).map(|k| combine(&[ranks[0][k].clone(), ranks[1][k].clone()], &[0.5, 0.5])).collect();
    let (a, b) = (gram_of(&ranks[0]), gram_of(&ranks[1]));
    let mean_gram: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 0.5 * (a + b)).collect();
    for kind in gram_kinds() {
        let job = format!("{{kind: {kind}}}");
        // At the first step or a later one: a method that learns its weights begins with equal ones, and one that
        // remembers comes to rest where the gradients do not change.
        let of = |gram: &[f64]| -> Vec<f64> {
            let (mut method, signal) = (method(&job, 2), of_gram(gram, &[1.0; 2], &[true; 2]));
            (0..100).flat_map(|_| method.weights(&signal).unwrap()).collect()
        };
        let (right, wrong) = (of(&gram_of(&mean_rows)), of(&mean_gram));
        let apart = right.iter().zip(&wrong).map(|(r, w)| (r - w).abs()).fold(0.0, f64::max);
        assert!(apart > 1e-3, "{kind}: {:?} and {:?}", &right[..4], &wrong[..4]);
    }
}

proptest! {
    #![proptest_config(crate::balance::testing::fixed())]

    /// Renaming the tasks renames the weights: the update stays.
    #[test]
    fn the_order_of_the_tasks_does_not_matter(rows in scaled_rows(2..=8, 1), turn in 1usize..8) {
        let mut turned = rows.clone();
        turned.rotate_left(turn % rows.len());
        for job in PLAIN {
            let w = weights_of(job, &gram_of(&rows), rows.len());
            let v = weights_of(job, &gram_of(&turned), rows.len());
            let scale = 1e-6 * size(&rows, &w).max(size(&turned, &v));
            super::testing::assert_close(&combine(&rows, &w), &combine(&turned, &v), scale);
        }
    }

    /// An absent task (its row of the Gram is zero) leaves the others as if there were none.
    #[test]
    fn an_absent_task_changes_nothing(rows in scaled_rows(1..=6, 3), place in 0usize..7) {
        let tasks = rows.len();
        let place = place.min(tasks);
        let mut padded = rows.clone();
        padded.insert(place, vec![0.0; rows[0].len()]);
        let mut present = vec![true; tasks + 1];
        present[place] = false;
        // These go by the tasks' numbers, or weigh the only task of a job and the only one of a batch differently.
        let numbered = ["pcgrad", "gradvac", "rlw", "pcd", "uncertainty"];
        for kind in weighing().into_iter().filter(|kind| !numbered.contains(kind)) {
            let job = format!("{{kind: {kind}}}");
            let gram = gram_of(&padded);
            let mut with = method(&job, tasks + 1).weights(&of_gram(&gram, &vec![1.0; tasks + 1], &present)).unwrap();
            prop_assert_eq!(with.remove(place), 0.0);
            prop_assert_eq!(with, weights_of(&job, &gram_of(&rows), tasks), "{}", kind);
        }
    }

    /// Equal gradients: the direction of equal weights.
    #[test]
    fn identical_gradients_give_their_own_direction(row in prop::collection::vec(-1.0f64..1.0, 3), tasks in 2usize..6) {
        prop_assume!(row.iter().map(|x| x * x).sum::<f64>() > 1e-6);
        let rows = vec![row.clone(); tasks];
        for kind in weighing() {
            let w = weights_of(&format!("{{kind: {kind}}}"), &gram_of(&rows), tasks);
            let sum: f64 = w.iter().sum();
            prop_assert!(sum > 0.0);
            let direction = combine(&rows, &w);
            super::testing::assert_close(&direction, &row.iter().map(|x| x * sum).collect::<Vec<_>>(), 1e-9 * sum);
        }
    }

    /// Multiplying all gradients by one number changes no weight.
    #[test]
    fn a_common_scale_does_not_matter(rows in scaled_rows(2..=8, 1), exponent in -12i32..=12) {
        let factor = 4f64.powi(exponent);
        let scaled: Vec<Vec<f64>> = rows.iter().map(|r| r.iter().map(|x| x * factor).collect()).collect();
        for job in SCALE_FREE {
            let (w, v) = (weights_of(job, &gram_of(&rows), rows.len()), weights_of(job, &gram_of(&scaled), rows.len()));
            prop_assert_eq!(w, v, "{}", job);
        }
    }

    /// Gradients that differ by 24 orders of magnitude, dependent or not: finite weights.
    #[test]
    fn badly_scaled_gradients_stay_finite(rows in scaled_rows(1..=8, 12)) {
        for kind in weighing() {
            let w = weights_of(&format!("{{kind: {kind}}}"), &gram_of(&rows), rows.len());
            prop_assert!(w.iter().all(|w| w.is_finite()), "{kind}: {w:?}");
        }
    }
}

/// A step that is refused puts back what it found, which may be the very first state.
#[test]
fn a_method_takes_back_the_state_in_which_it_was_built() {
    for kind in kinds() {
        let mut method = method(&format!("{{kind: {kind}}}"), 2);
        let state = method.state();
        method.restore(&state).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(method.state(), state, "{kind}");
    }
}
