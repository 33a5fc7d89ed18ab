//! What each method is, by what must then be equal to what.

use super::{CLIENTS, How, Seen, only, place, run, states};
use crate::common::job::{Workplace, newest};
use crate::common::log;
use crate::common::state::State;
use tandem::federated::events::Notice;

fn end_of(place: &Workplace, name: &str, overrides: &[&str]) -> Vec<State> {
    let run_dir = place.path(name);
    run(&place.job(overrides), 1, &run_dir, How::default());
    states(&run_dir)
}

#[test]
fn without_shares_it_is_local_training() {
    let place = place();
    let local = end_of(&place, "local", &["federated.method=local"]);
    let none = ["federated.parts=[scenario]", "federated.alpha=0", "federated.beta=0", "federated.mu=0"];
    assert_eq!(end_of(&place, "no-shares", &none), local);
    assert_ne!(end_of(&place, "some-share", &[none[0], "federated.alpha=0.1", none[2], none[3]]), local);
    assert_ne!(end_of(&place, "some-pull", &[none[0], none[1], none[2], "federated.mu=0.1"]), local);
}

#[test]
fn clients_with_the_same_rows_stay_the_same() {
    let place = place();
    for name in CLIENTS {
        for split in ["train", "valid", "test"] {
            log::write(&place.path(&format!("{name}/{split}/0.parquet")), log::columns(0..60), 31);
        }
    }
    for method in ["fedavg", "fedprox", "ditto", "fedhca2", "pf_msmtrec"] {
        let method_is = format!("federated.method={method}");
        let ends = end_of(&place, method, &[&method_is, "federated.embeddings=true"]);
        assert!(ends[0] == ends[1] && ends[1] == ends[2], "{method}");
    }
}

#[test]
fn the_mean_is_one_model_for_all() {
    let place = place();
    for (method, batch_norm, is_one) in [
        ("fedavg", "average", (|_| true) as fn(&str) -> bool),
        ("fedprox", "average", |_| true),
        ("fedbn", "local", |name| !name.contains(".norm.")),
        ("fedbn", "stats_avg", |name| !name.contains(".norm.") || name.starts_with("buffers.")),
        ("pf_msmtrec", "local", |name| name.contains(".global.")),
    ] {
        let overrides = [format!("federated.method={method}"), format!("federated.batch_norm={batch_norm}")];
        let ends = end_of(&place, &format!("{method}-{batch_norm}"), &overrides.each_ref().map(String::as_str));
        for end in &ends[1..] {
            assert_eq!(only(end, is_one), only(&ends[0], is_one), "{method}");
            assert_ne!(end.rows, ends[0].rows, "tables stay with their client");
        }
        let rest = |end: &State| only(end, |name| !is_one(name));
        assert!(
            rest(&ends[0]).is_empty() || rest(&ends[0]) != rest(&ends[1]),
            "{method}: the rest is each client's own"
        );
    }
}

#[test]
fn fedprox_without_a_pull_is_fedavg() {
    let place = place();
    let average = end_of(&place, "fedavg", &["federated.method=fedavg"]);
    assert_eq!(end_of(&place, "no-pull", &["federated.method=fedprox", "federated.mu=0"]), average);
    assert_ne!(end_of(&place, "pull", &["federated.method=fedprox", "federated.mu=0.5"]), average);
}

#[test]
fn ditto_trains_fedavg_and_beside_it_a_model_of_each_clients_own() {
    let place = place();
    let average = end_of(&place, "fedavg", &["federated.method=fedavg"]);
    let local = end_of(&place, "local", &["federated.method=local"]);
    let free = end_of(&place, "free", &["federated.method=ditto", "federated.mu=0"]);
    assert_eq!(free, local, "without a pull its own model knows nothing of the others");
    let general = |run_dir: &str| -> Vec<State> {
        let of = |name: &&str| place.path(run_dir).join("clients").join(name).join("general");
        CLIENTS.iter().map(|name| State::read(&newest(&of(name)))).collect()
    };
    assert_eq!(general("free"), average);
    let pulled = end_of(&place, "pulled", &["federated.method=ditto", "federated.mu=2"]);
    assert_eq!(general("pulled"), average, "the pull is on its own model alone");
    assert!(pulled.iter().zip(&free).all(|(pulled, free)| pulled != free), "every own model is pulled");
}

#[test]
fn dittos_pull_keeps_each_own_model_near_to_what_the_shared_one_was() {
    let place = place();
    // In the first round all models begin as one. With momentum a parameter would swing past what pulls it; with batch norm
    // over 16 rows a layer's gradient moves by more than the pull when the layers above it have moved less.
    let parameters = |name: &str, lr_and_mu: [&str; 2]| -> Vec<Vec<f32>> {
        let fixed = ["federated.method=ditto", "federated.rounds=1", "optimizer.dense.momentum=0", "model.norm=none"];
        let ends = end_of(&place, name, &[fixed.as_slice(), lr_and_mu.as_slice()].concat());
        let all =
            |end| only(end, |name| !name.starts_with("buffers.")).into_iter().flat_map(|(_, values)| values).collect();
        ends.iter().map(all).collect()
    };
    let start = parameters("start", ["optimizer.dense.lr=1.0e-12", "federated.mu=0"]);
    let distances = |mu: &str| -> Vec<f64> {
        let ends = parameters(mu, ["optimizer.dense.lr=0.05", mu]);
        let distance = |(end, start): (&Vec<f32>, &Vec<f32>)| {
            end.iter().zip(start).map(|(end, start)| f64::from(end - start).powi(2)).sum::<f64>().sqrt()
        };
        ends.iter().zip(&start).map(distance).collect()
    };
    let [free, weak, strong] = ["federated.mu=0", "federated.mu=1", "federated.mu=5"].map(distances);
    for ((free, weak), strong) in free.iter().zip(&weak).zip(&strong) {
        assert!(strong < weak && weak < free, "{free} {weak} {strong}");
    }
}

#[test]
fn shared_rows_are_one_where_clients_have_the_same_ids() {
    let place = place();
    let ends = end_of(&place, "tables", &["federated.method=fedavg", "federated.embeddings=true"]);
    let (mut same, mut only_one) = (0, 0);
    for (key, row) in &ends[0].rows {
        match ends[1].rows.get(key) {
            Some(other) => {
                assert_eq!(row.floats[..4], other.floats[..4], "{key:?}");
                same += 1;
            }
            None => only_one += 1,
        }
    }
    assert!(same > 10 && only_one > 0, "{same} and {only_one}");
}

fn rounds(seen: &Seen) -> Vec<&tandem::federated::events::Round> {
    let rounds = seen.notices.iter().filter_map(|notice| match notice {
        Notice::Round(round) => Some(round),
        _ => None,
    });
    rounds.collect()
}

#[test]
fn every_round_tells_losses_shares_and_metrics_by_client() {
    let place = place();
    let seen = run(&place.job(&[]), 2, &place.path("run"), How::default());
    let rounds = rounds(&seen);
    assert_eq!(rounds.len(), 3);
    let names = |map: &serde_json::Map<String, serde_json::Value>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&rounds[0].losses), CLIENTS);
    assert_eq!(names(&rounds[0].shares), ["expert 0", "expert 1", "tower click", "tower buy"]);
    assert!(rounds[0].shares["expert 0"].as_object().unwrap().values().all(|share| share == 1.0), "they start at 1");
    assert!(rounds[2].losses["a"]["click"].as_f64() < rounds[0].losses["a"]["click"].as_f64(), "it learns");
    let evaluations = seen.notices.iter().filter_map(|notice| match notice {
        Notice::Eval(evaluation) => Some(evaluation),
        _ => None,
    });
    let evaluations: Vec<_> = evaluations.collect();
    assert_eq!(evaluations.iter().map(|e| e.split).collect::<Vec<_>>(), ["valid", "valid", "valid", "test"]);
    for evaluation in &evaluations {
        let clients: Vec<&str> = evaluation.report.clients.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(clients, CLIENTS);
        assert!(
            evaluation.report.clients.iter().all(|(_, tasks)| tasks.len() == 2 && tasks[0].get("rows") == Some(40.0))
        );
    }
    assert_eq!(evaluations[3].report.tasks[0].get("rows"), Some(120.0));
}

#[test]
fn noise_has_its_price_told() {
    let place = place();
    let job = place.job(&["federated.privacy={clip: 0.5, noise: 2, delta: 1.0e-4, seed: 3}"]);
    let seen = run(&job, 2, &place.path("run"), How::default());
    let epsilons: Vec<f64> = rounds(&seen).iter().map(|round| round.epsilon.unwrap()).collect();
    assert!(epsilons.is_sorted() && epsilons[0] > 0.0);
    let Some(Notice::End(end)) = seen.notices.iter().find(|notice| matches!(notice, Notice::End(_))) else { panic!() };
    assert_eq!(end.privacy.unwrap().epsilon, tandem::federated::accountant::epsilon(2.0, 3, 1e-4));
}
