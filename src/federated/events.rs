//! What a federation tells the outside: one line of `metrics.jsonl` per event, in which `step` is the number of rounds.

use super::reports::Report;
use crate::error::Result;
use crate::observe::{Event, Events};
use crate::train::events::Saved;
use serde::Serialize;
use serde_json::{Map, Value};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Notice {
    /// The federation begins, or goes on.
    Start(Start),
    /// The clients have trained, and their updates are aggregated.
    Round(Round),
    /// All clients' models were evaluated.
    Eval(Evaluation),
    /// All clients' checkpoints are whole.
    Saved(Saved),
    /// It is over.
    End(End),
}

impl Notice {
    /// Appends it to the log.
    pub fn write(&self, log: &mut Events) -> Result<()> {
        match self {
            Self::Start(start) => log.write(Event::Start, start),
            Self::Round(round) => log.write(Event::Round, round),
            Self::Eval(evaluation) => log.write(Event::Eval, evaluation),
            Self::Saved(saved) => log.write(Event::Checkpoint, saved),
            Self::End(end) => log.write(Event::End, end),
        }
    }
}

/// The sizes of a federation.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// Name of the job.
    pub job: String,
    /// The method.
    pub method: String,
    /// Rounds already done (0 unless resumed).
    pub step: u64,
    /// Rounds planned.
    pub total_steps: u64,
    /// Ranks.
    pub ranks: usize,
    /// Transport between ranks.
    pub backend: String,
    /// Training rows of each client.
    pub clients: Map<String, Value>,
    /// Dense parameters of a client's model.
    pub dense_parameters: usize,
    /// Floats of each unit that a client sends in a round.
    pub sent: Map<String, Value>,
}

/// One round.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Rounds done, this one included.
    pub step: u64,
    /// Seconds of the local training, waiting for the slowest client included.
    pub local_s: f64,
    /// Seconds of the exchange and the aggregation.
    pub exchange_s: f64,
    /// Mean loss of each task over each client's steps.
    pub losses: Map<String, Value>,
    /// Share of each unit's update that each client took.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub shares: Map<String, Value>,
    /// ε so far, with noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
}

/// One evaluation of all clients.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// Rounds done.
    pub step: u64,
    /// `valid` or `test`.
    pub split: &'static str,
    /// The mean over the clients, and each client.
    #[serde(flatten)]
    pub report: Report,
}

/// The end.
#[derive(Debug, Clone, Serialize)]
pub struct End {
    /// Rounds done.
    pub step: u64,
    /// `done`, `early_stop` or `signal`.
    pub reason: &'static str,
    /// Seconds since the start, all included.
    pub seconds: f64,
    /// The guarantee of the noise, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Guarantee>,
}

/// (ε, δ)-differential privacy of each client.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Guarantee {
    /// ε.
    pub epsilon: f64,
    /// δ.
    pub delta: f64,
}

/// Who listens. Called on rank 0 only.
pub trait Observer {
    /// Takes notice.
    fn notice(&mut self, notice: &Notice) -> Result<()>;
}
