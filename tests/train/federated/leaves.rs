//! What leaves a client: read from the messages between ranks, one client on each, and compared to what the client trained.

use super::{CLIENTS, How, place, run_rank};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tandem::comm::solo::Solo;
use tandem::comm::{Comm, Communicator, Traffic, threads};
use tandem::config::Checked;
use tandem::config::job::Job;
use tandem::data::store::Local;
use tandem::train::run::Run;

/// What one rank hands the transport, call by call.
#[derive(Debug, Clone, PartialEq)]
pub enum Sent {
    Counts(Vec<u64>),
    ToAll(Vec<u8>),
    ToEach(Vec<u8>),
}

/// A communicator that remembers all that is sent. What the ranks of one client say to each other does not leave it.
struct Recorder {
    inner: Comm,
    sent: Rc<RefCell<Vec<Sent>>>,
}

impl Communicator for Recorder {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn exchange_counts(&self, send: &[u64]) -> tandem::Result<Vec<u64>> {
        self.sent.borrow_mut().push(Sent::Counts(send.to_vec()));
        self.inner.exchange_counts(send)
    }

    fn all_to_all_bytes(&self, s: &[u8], sc: &[usize], r: &mut [u8], rc: &[usize]) -> tandem::Result<()> {
        self.sent.borrow_mut().push(Sent::ToEach(s.to_vec()));
        self.inner.all_to_all_bytes(s, sc, r, rc)
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], counts: &[usize]) -> tandem::Result<()> {
        self.sent.borrow_mut().push(Sent::ToAll(send.to_vec()));
        self.inner.all_gather_bytes(send, recv, counts)
    }

    fn barrier(&self) -> tandem::Result<()> {
        self.inner.barrier()
    }

    fn split(&self, color: u32) -> tandem::Result<Comm> {
        self.inner.split(color)
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        self.inner.abort(code, message)
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }

    fn backend(&self) -> String {
        self.inner.backend()
    }
}

/// What each client sent in a federation with one client on each rank.
pub fn record(job: &Checked, run_dir: &std::path::Path) -> Vec<Vec<Sent>> {
    let record = |comm: Comm| {
        let sent = Rc::default();
        let recorder: Comm = Rc::new(Recorder { inner: comm, sent: Rc::clone(&sent) });
        run_rank(recorder, job, run_dir, How::default())?;
        let sent = sent.borrow().clone();
        Ok(sent)
    };
    let all = threads::run(CLIENTS.len(), threads::Options::default(), record);
    all.into_iter().map(|sent| sent.unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// What a client's first local training changes, parameter by parameter: trained here as an ordinary job, without a federation.
fn changes(job: &Checked, name: &str, run_dir: &std::path::Path) -> BTreeMap<String, Vec<f32>> {
    let root = format!("{}/{name}", job.data.root.as_deref().unwrap());
    let own = Job {
        federated: None,
        data: tandem::config::job::Data { root: Some(root), ..job.data.clone() },
        ..(**job).clone()
    };
    let mut run =
        Run::prepare(Rc::new(Solo), Checked::new(own).unwrap(), Arc::new(Local), &run_dir.join(name), false).unwrap();
    let values = |run: &Run| -> BTreeMap<String, Vec<f32>> {
        let store = &run.trainable.store;
        let read = |(index, name): (usize, &String)| {
            let mut values = vec![0.0; store.range(index).len()];
            store.read(index, &mut values).unwrap();
            (name.clone(), values)
        };
        store.names().iter().enumerate().map(read).collect()
    };
    let before = values(&run);
    run.take_steps(run.steps_per_epoch(), &|| false).unwrap();
    let after = values(&run);
    let change = |(name, before): (String, Vec<f32>)| {
        let change = after[&name].iter().zip(before).map(|(after, before)| after - before).collect();
        (name, change)
    };
    before.into_iter().map(change).collect()
}

/// The numbers of a message.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// Metrics as they travel: names of tasks and metrics, and numbers.
fn is_metrics(bytes: &[u8]) -> bool {
    fn words(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::String(word) => found.push(word.clone()),
            serde_json::Value::Array(values) => values.iter().for_each(|value| words(value, found)),
            serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| {
                found.push(key.clone());
                words(value, found);
            }),
            _ => {}
        }
    }
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return false };
    let mut found = Vec::new();
    words(&value, &mut found);
    let known = [
        "click",
        "buy",
        "auc",
        "auc_bound",
        "logloss",
        "normalized_entropy",
        "calibration",
        "ece",
        "rows",
        "positives",
        "Undefined",
        "Real",
        "Count",
    ];
    found.retain(|word| !known.contains(&word.as_str()));
    assert!(found.is_empty(), "metrics say {found:?}");
    true
}

/// The messages that are neither a flag of success, nor a few whole numbers or losses, nor metrics: in order.
fn models(sent: &[Sent]) -> Vec<Vec<u8>> {
    /// Row count, steps, and one loss a task: at most so many numbers of 8 bytes at a time.
    const FEW: usize = 2;
    let mut models = Vec::new();
    for sent in sent {
        match sent {
            Sent::Counts(counts) => assert!(counts.iter().all(|&count| count < 1 << 20), "lengths of what follows"),
            Sent::ToEach(bytes) => panic!("nothing is sent to single clients, but {} bytes were", bytes.len()),
            Sent::ToAll(bytes) if bytes.len() <= 1 || bytes.len() <= 8 * FEW && bytes.len().is_multiple_of(8) => {}
            Sent::ToAll(bytes) if is_metrics(bytes) => {}
            Sent::ToAll(bytes) => models.push(bytes.clone()),
        }
    }
    models
}

#[test]
fn the_declared_parts_leave_a_client_and_nothing_else() {
    let place = place();
    let job = place.job(&["federated.rounds=1", "federated.mu=0"]);
    let expected_units: [fn(&str) -> bool; 5] = [
        |name| name.contains(".global."),
        |name| name.starts_with("experts.0.") && name.contains(".scenario."),
        |name| name.starts_with("experts.1.") && name.contains(".scenario."),
        |name| name.starts_with("towers.click.") && !name.contains(".norm."),
        |name| name.starts_with("towers.buy.") && !name.contains(".norm."),
    ];
    for (name, sent) in CLIENTS.iter().zip(record(&job, &place.path("run"))) {
        let changes = changes(&job, name, &place.path("alone"));
        let messages = models(&sent);
        assert_eq!(messages.len(), expected_units.len(), "one message for each unit");
        for (message, is_declared) in messages.iter().zip(expected_units) {
            // The order of the parameters inside a unit is that of the model; by name it is a matter of sorting.
            let mut found = floats(message);
            let mut expected: Vec<f32> =
                changes.iter().filter(|(name, _)| is_declared(name)).flat_map(|(_, v)| v.clone()).collect();
            found.sort_by(f32::total_cmp);
            expected.sort_by(f32::total_cmp);
            assert_eq!(found, expected, "client {name}: exactly the changes of the declared parameters");
        }
    }
}

/// The recorder sees a part that is declared: the test above can fail.
#[test]
fn what_is_declared_beside_is_seen_to_leave() {
    let place = place();
    let sizes = |name: &str, more: &str| -> Vec<usize> {
        let sent = record(&place.job(&["federated.rounds=1", more]), &place.path(name));
        models(&sent[0]).iter().map(Vec::len).collect()
    };
    let usual = sizes("usual", "federated.parts=[global, scenario]");
    let more = sizes("task", "federated.parts=[global, task, scenario]");
    assert_eq!((more[1], more[2]), (2 * usual[1], 2 * usual[2]), "the experts' task parts");
    assert_eq!(sizes("least", "federated.parts=[scenario]").len(), usual.len() - 1);
    assert!(sizes("local", "federated.method=local").is_empty());
    let tables = sizes("tables", "federated.embeddings=true");
    assert!(tables.len() > usual.len() && tables[..usual.len()] == usual);
}

#[test]
fn what_leaves_is_no_longer_than_its_clipping_norm() {
    let place = place();
    let job = place.job(&["federated.privacy={clip: 0.01}"]);
    for sent in record(&job, &place.path("run")) {
        let messages = models(&sent);
        // Five units a round.
        assert_eq!(messages.len(), 15);
        for round in messages.chunks(5) {
            let square: f64 = round.iter().flat_map(|bytes| floats(bytes)).map(|v| f64::from(v).powi(2)).sum();
            assert!((square.sqrt() - 0.01).abs() < 1e-6, "{}", square.sqrt());
        }
    }
}
