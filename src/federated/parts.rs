//! What leaves a client: the units of its model, by the names of its parameters.
//!
//! | method | units |
//! |---|---|
//! | `local` | none |
//! | `fedavg`, `fedprox`, `fedbn`, `ditto` (its second model) | `model`, a mean |
//! | `fedhca2` | `encoder` (all but the towers), coordinated; each layer of each tower, attended |
//! | `pf_msmtrec` | `global` (parts W^G), a mean; the other declared parts of each expert, coordinated; each tower, attended |
//!
//! and what `batch_norm` says of batch norm, a mean. Gates and undeclared parts of `pf_msmtrec`, and embedding rows, stay.

use crate::config::job::{Federated, Method, Part, SharedNorm};
use crate::error::{Error, Result};
use crate::nn::ParamStore;
use std::collections::BTreeMap;

/// How the clients' updates of a unit become new parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// All take the mean: the unit is the same at all clients.
    Mean,
    /// Each adds a share of the conflict-averse update.
    Coordinate,
    /// Each adds a share of what it attends to.
    Attend,
}

/// One tensor of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    /// A parameter, by its number.
    Parameter(usize),
    /// A buffer, by its number.
    Buffer(usize),
}

/// Parameters that are aggregated as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// For people.
    pub name: String,
    /// How it is aggregated.
    pub rule: Rule,
    /// Its tensors, in order.
    pub pieces: Vec<Piece>,
    /// Their floats.
    pub len: usize,
}

impl Unit {
    /// Its numbers, one after the other.
    pub fn read(&self, store: &ParamStore) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(self.len);
        for piece in &self.pieces {
            match *piece {
                Piece::Parameter(index) => {
                    let start = values.len();
                    values.resize(start + store.range(index).len(), 0.0);
                    store.read(index, &mut values[start..])?;
                }
                Piece::Buffer(index) => values.extend(store.buffers()[index].get()),
            }
        }
        Ok(values)
    }

    /// Replaces its numbers.
    pub fn write(&self, store: &ParamStore, values: &[f32]) -> Result<()> {
        let mut rest = values;
        for piece in &self.pieces {
            let (head, tail) = rest.split_at(len_of(store, *piece));
            match *piece {
                Piece::Parameter(index) => store.load(index, head)?,
                Piece::Buffer(index) => store.buffers()[index].set(head)?,
            }
            rest = tail;
        }
        Ok(())
    }

    /// The part of `values` that belongs to the parameter `index`, if it is in the unit.
    pub fn parameter<'a>(&self, store: &ParamStore, values: &'a [f32], index: usize) -> Option<&'a [f32]> {
        let mut start = 0;
        for piece in &self.pieces {
            let len = len_of(store, *piece);
            if *piece == Piece::Parameter(index) {
                return Some(&values[start..start + len]);
            }
            start += len;
        }
        None
    }
}

fn len_of(store: &ParamStore, piece: Piece) -> usize {
    match piece {
        Piece::Parameter(index) => store.range(index).len(),
        Piece::Buffer(index) => store.buffers()[index].get().len(),
    }
}

/// The units of the model in `store`, whose parameters have the same names and shapes at every client.
///
/// # Errors
/// Nothing could be shared.
pub fn units(federated: &Federated, store: &ParamStore) -> Result<Vec<Unit>> {
    if federated.method == Method::Local {
        return Ok(Vec::new());
    }
    let norms: Vec<&str> = store.buffer_names().iter().filter_map(|name| name.strip_suffix(".running_mean")).collect();
    let mut groups = Groups::default();
    for (index, name) in store.names().iter().enumerate() {
        let in_norm = norms.iter().any(|norm| name.strip_prefix(norm).is_some_and(|rest| rest.starts_with('.')));
        let place = if in_norm { of_norm(federated, true) } else { of_parameter(federated, name) };
        groups.add(place, Piece::Parameter(index));
    }
    for index in 0..store.buffers().len() {
        groups.add(of_norm(federated, false), Piece::Buffer(index));
    }
    let units = groups.finish(store);
    if units.is_empty() && !federated.embeddings {
        return Err(Error::job("nothing of this model leaves a client")
            .at("key", "federated")
            .fix("declare something that is shared (`parts`), set `embeddings: true`, or use `method: local`"));
    }
    Ok(units)
}

/// Where a tensor goes: the name of its unit, and the rule.
type Place = Option<(String, Rule)>;

fn of_parameter(federated: &Federated, name: &str) -> Place {
    let path: Vec<&str> = name.split('.').collect();
    match (federated.method, path.as_slice()) {
        (Method::Local, _) => None,
        (Method::Fedavg | Method::Fedprox | Method::Fedbn | Method::Ditto, _) => Some(("model".into(), Rule::Mean)),
        (Method::Fedhca2, ["towers", layer @ .., _]) => Some((format!("tower {}", layer.join(".")), Rule::Attend)),
        (Method::Fedhca2, _) => Some(("encoder".into(), Rule::Coordinate)),
        (Method::PfMsmtrec, ["towers", task, ..]) => Some((format!("tower {task}"), Rule::Attend)),
        (Method::PfMsmtrec, ["experts", expert, _, part, _]) => of_part(federated, expert, part),
        (Method::PfMsmtrec, _) => None,
    }
}

fn of_part(federated: &Federated, expert: &str, part: &str) -> Place {
    let part = match part {
        "global" => Part::Global,
        "task" => Part::Task,
        "scenario" => Part::Scenario,
        _ => return None,
    };
    if !federated.parts.contains(&part) {
        return None;
    }
    Some(match part {
        Part::Global => ("global".into(), Rule::Mean),
        Part::Task | Part::Scenario => (format!("expert {expert}"), Rule::Coordinate),
    })
}

/// A tensor of batch norm: a parameter, or else a running moment.
fn of_norm(federated: &Federated, parameter: bool) -> Place {
    match (federated.batch_norm, parameter) {
        (Some(SharedNorm::Average), _) | (Some(SharedNorm::StatsAvg), false) => Some(("batch norm".into(), Rule::Mean)),
        _ => None,
    }
}

/// Units in the order of their first tensor.
#[derive(Default)]
struct Groups {
    order: Vec<(String, Rule)>,
    pieces: BTreeMap<String, Vec<Piece>>,
}

impl Groups {
    fn add(&mut self, place: Place, piece: Piece) {
        let Some((name, rule)) = place else { return };
        let pieces = self.pieces.entry(name.clone()).or_default();
        if pieces.is_empty() {
            self.order.push((name, rule));
        }
        pieces.push(piece);
    }

    fn finish(mut self, store: &ParamStore) -> Vec<Unit> {
        let unit = |(name, rule): (String, Rule)| {
            let pieces = self.pieces.remove(&name).unwrap_or_default();
            let len = pieces.iter().map(|piece| len_of(store, *piece)).sum();
            Unit { name, rule, pieces, len }
        };
        self.order.into_iter().map(unit).collect()
    }
}
