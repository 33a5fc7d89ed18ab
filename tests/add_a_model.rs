//! docs/add-a-model.md, followed: its program trains an architecture of another crate on any number of ranks.

mod common;
#[path = "../examples/add_a_model.rs"]
#[allow(dead_code)]
mod wide_deep;

use common::job::{How, Workplace, newest, train, try_train};
use common::state::State;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use tandem::comm::threads;
use tandem::train::run::Ending;

const MODEL: &str = "model={kind: wide_deep, deep: [8], tower: [4], dropout: 0.2}";

fn workplace() -> Workplace {
    static ADDED: Once = Once::new();
    ADDED.call_once(|| tandem::model::register("wide_deep", wide_deep::build).unwrap());
    Workplace::with_log(120)
}

#[test]
fn the_document_is_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/add-a-model.md")).unwrap();
    let after_fences = document.split("```rust\n").skip(1);
    let blocks: Vec<&str> = after_fences.map(|text| text.split("```").next().unwrap()).collect();
    let example = std::fs::read_to_string(root.join("examples/add_a_model.rs")).unwrap();
    assert_eq!(blocks.join("\n"), example, "docs/add-a-model.md and examples/add_a_model.rs differ");
}

#[test]
fn it_trains_alike_on_any_number_of_ranks_and_goes_on_after_a_stop() {
    let place = workplace();
    for balance in ["{kind: uniform}", "{kind: mgda}", "{kind: cagrad, scope: representation}"] {
        let job = place.job(&[MODEL, &format!("balance={balance}")]);
        let run = |ranks: usize| {
            let run_dir = place.path(&format!("{balance} {ranks}"));
            let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
            train(&job, ranks, &run_dir, how);
            State::read(&newest(&run_dir))
        };
        let alone = run(1);
        for ranks in [2, 4] {
            alone.assert_close(&run(ranks), 2e-4, &format!("{balance}, {ranks} ranks"));
        }
        let run_dir = place.path(&format!("{balance} stopped"));
        let stopped = train(&job, 2, &run_dir, How { stop_after: Some(3), ..How::default() });
        assert_eq!(stopped.ending, Ending::Signal);
        train(&job, 1, &run_dir, How { resume: true, ..How::default() });
        alone.assert_close(&State::read(&newest(&run_dir)), 2e-4, &format!("{balance}, after a stop"));
    }
}

#[test]
fn a_wrong_option_is_refused() {
    let place = workplace();
    let job = place.job(&["model={kind: wide_deep, dep: [8]}"]);
    let error = try_train(&job, 1, &place.path("refused"), How::default()).remove(0).unwrap_err().to_string();
    assert!(error.contains("unknown key `dep`") && error.contains("did you mean `deep`?"), "{error}");
}

#[test]
fn the_program_is_tandem_with_one_architecture_more() {
    let place = workplace();
    let (program, job) = (common::example("add_a_model"), place.job_file());
    let run = |more: &[&str]| {
        let output = Command::new(&program).arg("train").arg(&job).args(more).output().unwrap();
        (output.status.code(), common::text_of(&output))
    };
    let run_dir = |name: &str| place.path(name).display().to_string();
    let (code, text) = run(&["--run-dir", &run_dir("program"), "--set", MODEL, "--set", "train.max_steps=2"]);
    assert_eq!(code, Some(0), "{text}");
    let resolved = std::fs::read_to_string(place.path("program/job.yaml")).unwrap();
    assert!(resolved.contains("kind: wide_deep") && resolved.contains("dropout: 0.2"), "{resolved}");
    let (code, text) = run(&["--run-dir", &run_dir("refused"), "--set", "model={kind: wide_dep}"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("did you mean `wide_deep`?"), "{text}");
}
