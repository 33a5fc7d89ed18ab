//! Several ranks: rows from a web server that fails now and then, and copies of checkpoints on which another disk goes on.

use crate::common::job::{How, Seen, Workplace, try_train};
use crate::server::Server;
use std::path::Path;
use tandem::config::Checked;

fn train(job: &Checked, ranks: usize, run_dir: &Path, how: How) -> Vec<Seen> {
    let seen = try_train(job, ranks, run_dir, how).into_iter();
    seen.map(|seen| seen.unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// The losses of the last `count` steps.
fn losses(seen: &Seen, count: usize) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let steps = seen.steps();
    steps[steps.len() - count..].iter().map(|step| step.losses.clone()).collect()
}

#[test]
fn ranks_train_on_rows_of_a_web_server() {
    let place = Workplace::with_log(120);
    let server = Server::start();
    let mut urls = Vec::new();
    for name in ["train/a.parquet", "train/b.parquet", "valid/a.parquet"] {
        server.put(name, std::fs::read(place.path(name)).unwrap());
        urls.push(server.url(name));
    }
    let here = train(&place.job(&[]), 3, &place.path("here"), How::default());
    server.fail_every(5);
    let far = [format!("data.train=[{}, {}]", urls[0], urls[1]), format!("data.valid={}", urls[2])];
    let far = place.job(&[&far[0], &far[1]]);
    let there = train(&far, 3, &place.path("there"), How::default());
    assert_eq!(losses(&here[0], 10), losses(&there[0], 10));
    assert!(server.requests().len() > 10);
}

#[test]
fn a_run_goes_on_from_its_copies_on_an_empty_disk() {
    let place = Workplace::with_log(120);
    let copies = place.path("copies");
    let copy_to = format!("checkpoint.copy_to={}", copies.display());
    let job = place.job(&[&copy_to, "checkpoint.every=2 steps", "checkpoint.keep=2"]);
    let straight = train(&place.job(&["checkpoint.every=2 steps"]), 2, &place.path("straight"), How::default());
    train(&job, 2, &place.path("first"), How { stop_after: Some(5), ..How::default() });
    let steps = |run: &Path| {
        let folders = std::fs::read_dir(run.join("checkpoints")).unwrap();
        let mut names: Vec<_> = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // What was dropped here is an empty folder there, where folders are things of their own.
    let whole = |run: &Path| -> Vec<String> {
        let is_whole = |name: &String| run.join("checkpoints").join(name).join("manifest.json").is_file();
        steps(run).into_iter().filter(is_whole).collect()
    };
    assert_eq!(whole(&copies), steps(&place.path("first")));
    assert!(whole(&copies).contains(&"step-00000005".to_string()), "{:?}", whole(&copies));

    let resumed = train(&job, 2, &place.path("second"), How { resume: true, ..How::default() });
    let rest = resumed[0].steps().len();
    assert_eq!(resumed[0].step, straight[0].step);
    assert_eq!(losses(&resumed[0], rest), losses(&straight[0], rest));
    assert_eq!(whole(&copies), steps(&place.path("second")));

    // Another run does not mix its checkpoints with them.
    let errors = try_train(&job, 1, &place.path("third"), How::default());
    let error = errors[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("copy_to") && error.contains("--resume"), "{error}");
}

#[test]
fn a_place_that_refuses_copies_ends_the_run_with_an_error_and_a_whole_checkpoint() {
    let place = Workplace::with_log(120);
    // A file, where a folder should be.
    std::fs::write(place.path("copies"), "").unwrap();
    let copy_to = format!("checkpoint.copy_to={}", place.path("copies/run").display());
    let job = place.job(&[&copy_to, "checkpoint.every=3 steps"]);
    let run = place.path("run");
    for seen in try_train(&job, 2, &run, How::default()) {
        let error = seen.unwrap_err();
        assert!(error.is_agreed() && error.to_string().contains("the checkpoint is whole here"), "{error}");
    }
    assert!(run.join("checkpoints/step-00000010/manifest.json").is_file());

    // Once it is a folder, the run that has ended gives what it owes.
    std::fs::remove_file(place.path("copies")).unwrap();
    train(&job, 1, &run, How { resume: true, ..How::default() });
    assert!(place.path("copies/run/checkpoints/step-00000010/manifest.json").is_file());
}
