//! A federation that was stopped or killed goes on from its last whole round.

use super::leaves::record;
use super::{How, place, run, states, try_run};
use tandem::comm::threads::{Crash, Options};
use tandem::federated::events::Notice;
use tandem::train::run::Ending;

#[test]
fn a_stopped_federation_goes_on_to_the_same_end() {
    let place = place();
    let job = place.job(&[]);
    run(&job, 2, &place.path("straight"), How::default());
    let run_dir = place.path("stopped");
    // Rank 0 hosts the first client, of 5 steps: in the middle of the second round.
    let stopped = run(&job, 2, &run_dir, How { stop_after: Some(8), ..How::default() });
    assert_eq!(stopped.ending, Ending::Signal);
    assert!(matches!(stopped.notices.last(), Some(Notice::End(end)) if end.step == 1 && end.reason == "signal"));
    let error = try_run(&job, 2, &run_dir, How::default()).swap_remove(0).unwrap_err();
    assert!(error.to_string().contains("already holds round 1"), "{error}");
    let resumed = run(&job, 3, &run_dir, How { resume: true, ..How::default() });
    assert_eq!(resumed.ending, Ending::Done);
    assert_eq!(states(&run_dir), states(&place.path("straight")));
}

#[test]
fn a_killed_federation_loses_no_whole_round() {
    let place = place();
    let job = place.job(&["federated.method=ditto", "federated.rounds=2"]);
    // The split into groups is one call more than what is recorded.
    let calls = 1 + record(&job, &place.path("straight"))[0].len() as u64;
    for (i, share) in [2, 5, 6, 7, 8, 9].into_iter().enumerate() {
        let run_dir = place.path(&format!("killed-{i}"));
        let crash = Some(Crash { rank: i % 3, call: calls * share / 20 });
        let ends =
            try_run(&job, 3, &run_dir, How { threads: Options { crash, ..Options::default() }, ..How::default() });
        assert!(ends.iter().all(Result::is_err), "no rank waits for the one that was killed");
        run(&job, 3, &run_dir, How { resume: true, ..How::default() });
        assert_eq!(states(&run_dir), states(&place.path("straight")), "killed at {share}/20 of the calls");
    }
}

#[test]
fn another_federation_is_refused() {
    let place = place();
    run(&place.job(&["federated.rounds=1"]), 1, &place.path("run"), How::default());
    for (more, key) in [
        ("federated.method=fedhca2", "federated.method"),
        ("federated.clients=[{name: a, root: a}, {name: c, root: c}, {name: b, root: b}]", "federated.clients"),
        ("seed=3", "seed"),
    ] {
        let ends = try_run(&place.job(&[more]), 1, &place.path("run"), How { resume: true, ..How::default() });
        let error = ends.into_iter().next().unwrap().unwrap_err();
        assert_eq!(error.place("key"), Some(key), "{error}");
    }
}

#[test]
fn an_error_of_one_client_is_everybodys_and_names_it() {
    let place = place();
    std::fs::write(place.path("b/valid/0.parquet"), "no parquet").unwrap();
    for ranks in [1, 3, 4, 6] {
        for end in try_run(&place.job(&[]), ranks, &place.path(&format!("run{ranks}")), How::default()) {
            let error = end.unwrap_err().to_string();
            assert!(error.contains("b/valid/0.parquet") && error.contains("client b"), "{ranks}: {error}");
        }
    }
}
