//! With `reproducible` a checkpoint has the same bytes on any number of ranks and threads.

use crate::common::job::{How, Seen, Workplace, newest, train, try_train};
use crate::resume::MUCH_STATE;
use std::collections::BTreeMap;
use std::path::Path;
use tandem::comm::threads;
use tandem::train::run::Ending;
use xxhash_rust::xxh3::xxh3_128;

/// Every file of every checkpoint of a run, by its path in the run folder, and the hash of its bytes. All of them: the
/// manifest too.
fn hashes(run_dir: &Path) -> BTreeMap<String, u128> {
    let mut hashes = BTreeMap::new();
    for checkpoint in std::fs::read_dir(run_dir.join("checkpoints")).expect("checkpoints") {
        for file in std::fs::read_dir(checkpoint.expect("an entry").path()).expect("a checkpoint") {
            let path = file.expect("an entry").path();
            let name = path.strip_prefix(run_dir).expect("inside").display().to_string();
            hashes.insert(name, xxh3_128(&std::fs::read(&path).expect("a file")));
        }
    }
    assert!(hashes.len() > 2, "{hashes:?}");
    hashes
}

/// Under a schedule that brings messages late and in another order for each number of ranks.
fn on(ranks: usize, compute: usize) -> How {
    How {
        threads: threads::Options { reorder: true, seed: ranks as u64, ..Default::default() },
        compute,
        ..How::default()
    }
}

/// What a run logs of its numbers.
fn told(seen: &Seen) -> Vec<String> {
    let steps = seen.steps().into_iter().map(|step| {
        format!("{:?} {:?} {:?} {:?} {:?}", step.losses, step.weights, step.grad_norms, step.cosines, step.grad_norm)
    });
    steps.chain(seen.evaluations().into_iter().map(|evaluation| format!("{evaluation:?}"))).collect()
}

/// Ranks, and compute threads of each: of one process fewer and more than virtual ranks, and shares of equal and unequal size.
const PLACES: [(usize, usize); 6] = [(1, 1), (1, 17), (2, 2), (3, 1), (4, 3), (8, 2)];

/// Trains on 1 to 8 ranks and compares every byte of every checkpoint, and what the log says.
fn same_bits(overrides: &[&str]) {
    let place = Workplace::with_log(250);
    let job = place.job(&[overrides, &["reproducible=true"]].concat());
    let run = |(ranks, compute): (usize, usize)| {
        let run_dir = place.path(&format!("run{ranks}-{compute}"));
        let seen = train(&job, ranks, &run_dir, on(ranks, compute));
        assert_eq!((seen.ending, seen.step), (Ending::Done, 22), "250 rows, 24 a step, 2 epochs");
        (told(&seen), hashes(&run_dir))
    };
    let first = run(PLACES[0]);
    for place in PLACES.into_iter().skip(1) {
        let other = run(place);
        assert_eq!(first.1, other.1, "(ranks, threads) {place:?}: {overrides:?}");
        assert_eq!(first.0, other.0, "(ranks, threads) {place:?}: {overrides:?}");
    }
}

#[test]
fn uniform() {
    same_bits(&["balance.kind=uniform", "optimizer.clip_norm=0.5"]);
}

/// Dropout, batch norm, Adam, a schedule, ids that wait for admission, rows that are dropped.
#[test]
fn much_state() {
    same_bits(MUCH_STATE);
}

#[test]
fn uncertainty() {
    same_bits(&["balance={kind: uncertainty, lr: 0.05}", "train.log_conflict=every_step"]);
}

const NORMALISED: &str = "model={kind: mmoe, experts: 2, expert: [8], tower: [4], dropout: 0.3, norm: batch}";

#[test]
fn shared_gradients() {
    same_bits(&["balance.kind=mgda", NORMALISED]);
}

#[test]
fn the_representation() {
    same_bits(&[
        "balance={kind: mgda, scope: representation}",
        "model={kind: shared_bottom, bottom: [8, 6], tower: [4]}",
    ]);
}

#[test]
fn the_last_layer() {
    same_bits(&[
        "balance={kind: gradnorm, scope: last_layer}",
        "model={kind: shared_bottom, bottom: [8, 6], tower: [4]}",
    ]);
}

#[test]
fn rows_of_tables() {
    same_bits(&["balance={kind: cagrad, scope: shared+rows}", NORMALISED]);
}

/// Gradients themselves, by tensor, and vectors kept beside the moments.
#[test]
fn slices_of_gradients() {
    same_bits(&["balance.kind=metabalance"]);
    same_bits(&["balance.kind=moco"]);
}

/// Layers of this width are large enough for bf16.
const WIDE: &str = "model={kind: mmoe, experts: 2, expert: [32, 16], tower: [16]}";

#[test]
fn bf16() {
    same_bits(&[WIDE, "precision=bf16", "wire=bf16", "balance.kind=mgda"]);
}

#[test]
fn sequences() {
    same_bits(&[
        "model={kind: dtrn, blocks: 1, head: {kind: mmoe, experts: 2, expert: [8], tower: [4], dropout: 0.2}}",
        "features.history={name: history, kind: sequence, table: item, max_len: 4, pooling: none}",
        "features.recent.pooling=none",
        "optimizer.sparse={kind: adam, lr: 0.01}",
    ]);
}

/// The comparison can fail: without `reproducible`, sums are taken in another order on another number of ranks.
#[test]
fn the_bits_are_others_without_it() {
    let place = Workplace::with_log(250);
    let job = place.job(&["optimizer.sparse={kind: adam, lr: 0.01}"]);
    let hashes = [1, 2].map(|ranks| {
        let run_dir = place.path(&format!("run{ranks}"));
        train(&job, ranks, &run_dir, on(ranks, 1));
        hashes(&run_dir)
    });
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn a_run_that_goes_on_with_other_ranks_ends_with_the_same_bits() {
    let place = Workplace::with_log(250);
    let job = place.job(&[MUCH_STATE, &["reproducible=true", "train.max_steps=20"]].concat());
    let (straight, stopped) = (place.path("straight"), place.path("stopped"));
    train(&job, 2, &straight, on(2, 1));
    for (ranks, stop_after, step) in [(1, Some(6), 6), (8, Some(7), 13), (3, None, 20)] {
        let seen = train(&job, ranks, &stopped, How { resume: true, stop_after, ..on(ranks, 2) });
        assert_eq!(seen.step, step);
    }
    let last = |run_dir: &Path| -> BTreeMap<String, u128> {
        let step = newest(run_dir).file_name().expect("a name").to_string_lossy().into_owned();
        hashes(run_dir).into_iter().filter(|(name, _)| name.contains(&step)).collect()
    };
    assert_eq!(last(&straight), last(&stopped));
}

#[test]
fn ranks_that_cannot_share_the_virtual_ones_are_refused() {
    let place = Workplace::with_log(100);
    let refused = |ranks: usize, overrides: &[&str]| -> String {
        let results = try_train(&place.job(overrides), ranks, &place.path("run"), on(ranks, 1));
        let mut said: Vec<String> = results.into_iter().map(|rank| rank.unwrap_err().to_string()).collect();
        said.dedup();
        assert_eq!(said.len(), 1, "one error on all ranks: {said:?}");
        said.swap_remove(0)
    };
    let text = refused(3, &["reproducible=2"]);
    assert!(text.contains("3 ranks cannot share 2 virtual ranks") && text.contains("start at most 2 ranks"), "{text}");
    let text = refused(2, &["reproducible=true", "data.lanes=6"]);
    assert!(text.contains("8 virtual ranks cannot share 6 lanes") && text.contains("`reproducible: 6`"), "{text}");
}

#[test]
fn a_resumed_run_keeps_its_virtual_ranks() {
    let place = Workplace::with_log(100);
    let run_dir = place.path("run");
    train(&place.job(&["reproducible=true"]), 1, &run_dir, on(1, 1));
    let results = try_train(&place.job(&["reproducible=4"]), 1, &run_dir, How { resume: true, ..on(1, 1) });
    let text = results.into_iter().next().expect("a rank").unwrap_err().to_string();
    assert!(text.contains("`reproducible` is 4, and true in the job of the checkpoint"), "{text}");
}
