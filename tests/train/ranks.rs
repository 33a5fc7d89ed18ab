//! The same job trained on any number of ranks ends with the same parameters, tables and metrics.

use crate::common::job::{How, Seen, Workplace, assert_same_metrics, newest, train};
use crate::common::state::State;
use tandem::comm::threads;

/// Float noise of sums in another order, after some tens of steps.
const TOLERANCE: f64 = 2e-4;

/// Trains on 1 to 4 ranks under an unruly schedule and compares the ends; returns the end.
fn same_on_any_number_of_ranks(overrides: &[&str]) -> State {
    same_within(TOLERANCE, overrides)
}

/// [`same_on_any_number_of_ranks`] with another tolerance of the parameters; that of the metrics is five times it.
fn same_within(tolerance: f64, overrides: &[&str]) -> State {
    let place = Workplace::with_log(250);
    let job = place.job(overrides);
    let run = |ranks: usize| -> (Seen, State) {
        let run_dir = place.path(&format!("run{ranks}"));
        let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
        let seen = train(&job, ranks, &run_dir, how);
        (seen, State::read(&newest(&run_dir)))
    };
    let (alone, state) = run(1);
    assert_eq!((alone.step, alone.evaluations().len()), (22, 2), "250 rows, 24 a step, 2 epochs");
    for ranks in 2..=4 {
        let (seen, other) = run(ranks);
        state.assert_close(&other, tolerance, &format!("{ranks} ranks"));
        for (one, many) in alone.evaluations().into_iter().zip(seen.evaluations()) {
            assert_eq!(one.0, many.0);
            assert_same_metrics(one.1, many.1, 5.0 * tolerance, &format!("{ranks} ranks"));
        }
    }
    state
}

#[test]
fn uniform() {
    same_on_any_number_of_ranks(&["balance.kind=uniform", "optimizer.sparse={kind: adam, lr: 0.01}"]);
}

/// Layers of this width are large enough for bf16.
const WIDE: &str = "model={kind: mmoe, experts: 2, expert: [32, 16], tower: [16]}";

#[test]
fn reference_kernels_train_to_the_parameters_of_the_fused_ones() {
    for balance in ["balance.kind=uniform", "balance.kind=mgda"] {
        let fused = same_on_any_number_of_ranks(&[WIDE, balance]);
        let reference = same_on_any_number_of_ranks(&[WIDE, balance, "kernels=reference"]);
        fused.assert_close(&reference, TOLERANCE, balance);
    }
}

#[test]
fn bf16() {
    // A sum that differs in its last bit may round a factor to the next bf16, which is 2⁻⁸ away.
    const ROUNDING: f64 = 1e-2;
    for balance in ["balance.kind=uniform", "balance.kind=mgda"] {
        let exact = same_on_any_number_of_ranks(&[WIDE, balance]);
        let rounded = same_within(ROUNDING, &[WIDE, balance, "precision=bf16"]);
        // An adaptive optimizer steps as far for a small gradient as for a large one, also where rounding turned it round.
        exact.assert_close(&rounded, 0.1, balance);
    }
}

#[test]
fn bf16_on_the_wire() {
    // One rank rounds nothing, so this is the rounding of gradients and rows to 8 bits, as an adaptive optimizer answers it.
    const ROUNDING: f64 = 3e-2;
    for balance in ["balance.kind=uniform", "balance.kind=mgda"] {
        same_within(ROUNDING, &[balance, "wire=bf16"]);
    }
}

#[test]
fn uncertainty() {
    let model = "model={kind: shared_bottom, bottom: [8, 6], tower: [4], norm: layer}";
    same_on_any_number_of_ranks(&["balance={kind: uncertainty, lr: 0.05}", model]);
}

#[test]
fn mgda() {
    let model = "model={kind: cgc, shared_experts: 2, task_experts: 1, expert: [8], tower: [4]}";
    same_on_any_number_of_ranks(&["balance.kind=mgda", model, "optimizer.sparse={kind: ftrl, lr: 0.05}"]);
}

#[test]
fn pcgrad() {
    let model = "model={kind: ple, shared_experts: 1, task_experts: 1, levels: [[8], [6]], tower: [4]}";
    same_on_any_number_of_ranks(&["balance.kind=pcgrad", model, "optimizer.dense={kind: adagrad, lr: 0.05}"]);
}

#[test]
fn cagrad() {
    let model = "model={kind: omoe, experts: 3, expert: [8], tower: [4]}";
    same_on_any_number_of_ranks(&["balance={kind: cagrad, c: 0.4}", model, "optimizer.clip_norm=0.5"]);
}

/// A bias in front of batch norm has no gradient but rounding errors, of which Adam would make full steps: hence
/// momentum.
const NORMALISED: &str = "model={kind: mmoe, experts: 2, expert: [8], tower: [4], dropout: 0.3, norm: batch}";
const MOMENTUM: &str = "optimizer.dense={kind: sgd, lr: 0.05, momentum: 0.9}";

#[test]
fn dropout_and_batch_norm() {
    same_on_any_number_of_ranks(&[NORMALISED, MOMENTUM, "optimizer.sparse={kind: sgd, lr: 0.1, momentum: 0.5}"]);
}

#[test]
fn dropout_and_batch_norm_with_a_backward_pass_for_each_task() {
    same_on_any_number_of_ranks(&[NORMALISED, MOMENTUM, "balance={kind: cagrad, c: 0.4}"]);
}

#[test]
fn sequences_that_each_task_reads_in_its_own_way() {
    same_on_any_number_of_ranks(&[
        "model={kind: dtrn, blocks: 2, head: {kind: ple, shared_experts: 1, task_experts: 1, levels: [[8], [6]], tower: [4]}}",
        "features.history={name: history, kind: sequence, table: item, max_len: 4, pooling: none}",
        "features.recent.pooling=none",
    ]);
}

#[test]
fn admission_and_eviction() {
    let state = same_on_any_number_of_ranks(&[
        "tables={user: {admission: {min_count: 8}, eviction: {max_age_steps: 4}}, item_hour: {admission: \
         {probability: 0.3}, eviction: {max_rows: 64, policy: lfu}}}",
    ]);
    assert!(state.waiting("user") > 0 && state.waiting("item_hour") > 0, "ids wait for admission");
    assert_eq!(state.sightings("price_bucket"), 500, "2 epochs of 250 rows");
    assert!(state.sightings("user") < 500 && state.sightings("item_hour") < 500, "rows were dropped");
}
