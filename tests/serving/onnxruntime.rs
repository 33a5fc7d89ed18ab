//! Every architecture in ONNX Runtime: the golden rows, and the rows that `tandem predict` scored.

use super::*;
use crate::python::{python, run};
use std::path::PathBuf;
use tandem::config::Component;
use tandem::model::{self, InputSpec};
use tandem::nn::ParamStore;

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/serving");

/// The names of all architectures.
fn kinds() -> Vec<String> {
    let error = model::build(&mut Component::named("?"), &InputSpec::default(), &mut ParamStore::new(0));
    let error = error.err().unwrap().to_string();
    let listed = error.split("the kinds are: ").nth(1).unwrap_or_else(|| panic!("no kinds in {error}"));
    listed.lines().next().unwrap().split(", ").map(|kind| kind.trim().to_string()).collect()
}

/// Features of relations, for matrix factorisation.
pub const PAIR_FEATURES: &str = "
features:
  - {name: user, kind: categorical, dim: 8}
  - {name: item, kind: categorical, dim: 8}
  - {name: tags, kind: categorical, dim: 8}
";

/// Two events of which the second needs the first.
pub const BINARY: &str = "
tasks:
  - {name: click, label: click}
  - {name: buy, label: buy}
";

/// A sequence that reaches the model unpooled.
pub const BEHAVIOURS: &str = "
features:
  - {name: price, kind: numeric}
  - {name: user, kind: categorical, dim: 8}
  - {name: item, kind: categorical, dim: 8}
  - {name: seen, kind: sequence, column: history, table: item, max_len: 4, pooling: none}
";

pub const PAIRS: &str = "
tasks:
  - {name: like, kind: bpr, pair: [user, item], where: click, ranking: {at: []}}
  - {name: tag, kind: bpr, pair: [item, tags], ranking: {at: []}}
  - {name: buy, label: buy, pair: [user, item]}
";

/// Every feature, and vectors of users that a file gives.
fn features_of_knowledge() -> String {
    format!("{}  - {{name: known, kind: categorical, column: user, table: knowledge}}\n", log::FEATURES)
}

/// Features, tasks and model of a job on the log in `folder` with this architecture.
fn job(kind: &str, folder: &Path) -> (String, &'static str, String) {
    let every = || log::FEATURES.to_string();
    match kind {
        "mf" => (PAIR_FEATURES.to_string(), PAIRS, "{kind: mf}".to_string()),
        // Chains of events, and what is made for them, are of binary tasks.
        "aitm" | "esmm" | "mpt" => (every(), BINARY, format!("{{kind: {kind}}}")),
        "dtrn" => (BEHAVIOURS.to_string(), log::TASKS, "{kind: dtrn, behaviours: [seen], target: item}".to_string()),
        "pepnet" => (every(), log::TASKS, "{kind: pepnet, domain: [city], personal: [user]}".to_string()),
        "llm4msr" => {
            let scenarios = folder.join("scenarios.parquet");
            let options = format!("scenario_knowledge: {}, user_knowledge: known", scenarios.display());
            (features_of_knowledge(), log::TASKS, format!("{{kind: llm4msr, {options}}}"))
        }
        _ => (every(), log::TASKS, format!("{{kind: {kind}}}")),
    }
}

/// Trains, exports and predicts in the folder `at`, which is made.
fn bundle(log: &Path, at: &Path, (features, tasks, model): (&str, &str, &str)) {
    std::fs::create_dir(at).unwrap();
    let path = |name: &str| at.join(name).to_str().unwrap().to_string();
    std::fs::write(path("job.yaml"), log::job(log, features, tasks, model)).unwrap();
    tandem(&["train", &path("job.yaml"), "--run-dir", &path("run"), "--quiet"]);
    tandem(&["export", &path("run"), "--out", &path("bundle"), "--self-contained"]);
    let test = log.join("test").to_str().unwrap().to_string();
    tandem(&["predict", &path("run"), "--data", &test, "--out", &path("predictions")]);
}

#[test]
fn every_architecture_gives_the_same_in_onnx_runtime() {
    let Some(python) = python(FOLDER) else { return };
    let folder = tempfile::tempdir().unwrap();
    log::write(folder.path());
    log::write_knowledge(folder.path());
    let mut bundles: Vec<PathBuf> = Vec::new();
    for kind in kinds() {
        let (features, tasks, model) = job(&kind, folder.path());
        bundles.push(folder.path().join(&kind));
        bundle(folder.path(), &folder.path().join(&kind), (&features, tasks, &model));
    }
    let own = folder.path().join("single_task_with_own_tables");
    bundle(folder.path(), &own, (log::FEATURES, log::TASKS, "{kind: single_task, embeddings: own}"));
    bundles.push(own);
    assert!(bundles.len() > 17, "{bundles:?}");
    let output = run(Command::new(python).arg(Path::new(FOLDER).join("check_bundles.py")).args(&bundles));
    println!("{}", String::from_utf8_lossy(&output.unwrap_or_else(|error| panic!("{error}")).stdout));
}

#[test]
fn norms_and_activations_give_the_same_in_onnx_runtime() {
    let Some(python) = python(FOLDER) else { return };
    let trained: Vec<Trained> = [
        "{kind: mmoe, experts: 2, expert: [8, 6], gate: [5], norm: batch, activation: gelu, dropout: 0.2}",
        "{kind: ple, levels: [[8], [6, 4]], norm: layer, activation: silu, tower: []}",
        "{kind: shared_bottom, bottom: [8], activation: leaky_relu}",
    ]
    .map(|model| Trained::new(log::FEATURES, log::TASKS, model))
    .into();
    trained.iter().for_each(|trained| drop(trained.export("bundle", &[])));
    let folders = trained.iter().map(|trained| trained.folder.path());
    run(Command::new(python).arg(Path::new(FOLDER).join("check_bundles.py")).args(folders)).unwrap();
}
