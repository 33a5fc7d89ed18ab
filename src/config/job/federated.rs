//! `federated:`: clients that train on their own rows and share some of their parameters, round by round.

use super::Every;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// `federated:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Federated {
    /// How the clients' models become better by each other. Default `pf_msmtrec`.
    pub method: Method,
    /// The clients, each with its own folder of data. Default: one for each value of `data.scenario`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<Client>,
    /// Rounds. Default 10.
    pub rounds: usize,
    /// What a client trains between two exchanges: `1 epoch` (default), `0.5 epochs`, `200 steps`.
    pub local: Every,
    /// Weights of the clients in a mean. Default `rows`.
    pub weights: Weights,
    /// What clients share of batch norm; default: `average` for `fedavg`, `fedprox` and `ditto`, else `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_norm: Option<SharedNorm>,
    /// Whether the rows of the embedding tables are averaged too. Default false: they stay with their client.
    pub embeddings: bool,
    /// `pf_msmtrec`: the parts of an expert's parameters that leave a client. Default `[global, scenario]`.
    pub parts: Vec<Part>,
    /// Strength of the pull towards the shared parameters; default 0.001 (`pf_msmtrec`), 0.01 (`fedprox`), 0.1 (`ditto`), else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mu: Option<f64>,
    /// Radius of the conflict coordination (CAGrad). Default 0.4.
    pub c: f64,
    /// Share of the coordinated update that a client takes. Default `learned`.
    pub alpha: Share,
    /// Share of the other clients' updates that a tower takes. Default `learned`.
    pub beta: Share,
    /// Where learned shares start. Default 1.
    pub share_init: f64,
    /// Learning rate of learned shares. Default 0.1.
    pub share_lr: f64,
    /// Clipping and noise of what leaves a client; default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
}

impl Default for Federated {
    fn default() -> Self {
        Self {
            method: Method::PfMsmtrec,
            clients: Vec::new(),
            rounds: 10,
            local: Every::Epochs(1.0),
            weights: Weights::Rows,
            batch_norm: None,
            embeddings: false,
            parts: vec![Part::Global, Part::Scenario],
            mu: None,
            c: 0.4,
            alpha: Share::Learned,
            beta: Share::Learned,
            share_init: 1.0,
            share_lr: 0.1,
            privacy: None,
        }
    }
}

/// `federated.method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Nothing leaves a client.
    Local,
    /// One model for all (McMahan et al., AISTATS 2017).
    Fedavg,
    /// The same, with a pull towards it in local training (Li et al., MLSys 2020).
    Fedprox,
    /// One model but for batch norm (Li et al., ICLR 2021).
    Fedbn,
    /// A model for all, and one of its own for each client that is pulled towards it (Li et al., ICML 2021).
    Ditto,
    /// Conflict-averse updates and attention over clients (Lu et al., CVPR 2024).
    Fedhca2,
    /// The same by expert and by tower (arXiv 2406.18938, a reconstruction).
    PfMsmtrec,
}

/// One of `federated.clients:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its name; its run folder is `RUN_DIR/clients/<name>`.
    pub name: String,
    /// Its `data.root`, from which the paths of `data` are read.
    pub root: String,
}

/// `federated.weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// In proportion to training rows.
    Rows,
    /// All alike.
    Equal,
}

/// `federated.batch_norm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SharedNorm {
    /// Nothing.
    Local,
    /// Running means and variances are averaged; scale and shift stay.
    StatsAvg,
    /// All of it is averaged.
    Average,
}

/// A part of an expert's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// One and the same at all clients.
    Global,
    /// Of the client's tasks.
    Task,
    /// Of the client's scenario.
    Scenario,
}

/// `learned`, `cosine` or a number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// By the product of an update with the next local training.
    Learned,
    /// (1 + cosine of the client's own update with the shared one) / 2.
    Cosine,
    /// Always this.
    Fixed(f64),
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Learned => serializer.serialize_str("learned"),
            Self::Cosine => serializer.serialize_str("cosine"),
            Self::Fixed(share) => serializer.serialize_f64(*share),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;
        impl de::Visitor<'_> for NameOrNumber {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("`learned`, `cosine` or a number from 0 to 1")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Share, E> {
                match text {
                    "learned" => Ok(Share::Learned),
                    "cosine" => Ok(Share::Cosine),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_f64<E: de::Error>(self, share: f64) -> Result<Share, E> {
                if (0.0..=1.0).contains(&share) {
                    return Ok(Share::Fixed(share));
                }
                Err(E::invalid_value(de::Unexpected::Float(share), &self))
            }

            fn visit_u64<E: de::Error>(self, share: u64) -> Result<Share, E> {
                self.visit_f64(share as f64)
            }

            fn visit_i64<E: de::Error>(self, share: i64) -> Result<Share, E> {
                self.visit_f64(share as f64)
            }
        }
        deserializer.deserialize_any(NameOrNumber)
    }
}

/// `federated.privacy:`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// What leaves a client in a round is shortened to this norm.
    pub clip: f64,
    /// Standard deviation of the Gaussian noise on every number that leaves, in units of `clip`. Default 0: none.
    #[serde(default)]
    pub noise: f64,
    /// δ of the guarantee. Default 1e-5.
    #[serde(default = "Privacy::usual_delta")]
    pub delta: f64,
    /// Draws the noise from this seed, so that a run can be repeated; whoever knows it can take the noise away. Default: from
    /// the system's randomness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Privacy {
    fn usual_delta() -> f64 {
        1e-5
    }
}

impl Method {
    /// μ where the job does not say.
    pub fn default_mu(self) -> f64 {
        match self {
            Self::PfMsmtrec => 1e-3,
            Self::Fedprox => 1e-2,
            Self::Ditto => 0.1,
            Self::Local | Self::Fedavg | Self::Fedbn | Self::Fedhca2 => 0.0,
        }
    }

    /// What it shares of batch norm where the job does not say.
    pub fn default_batch_norm(self) -> SharedNorm {
        match self {
            Self::Fedavg | Self::Fedprox | Self::Ditto => SharedNorm::Average,
            Self::Local | Self::Fedbn | Self::Fedhca2 | Self::PfMsmtrec => SharedNorm::Local,
        }
    }
}

impl Federated {
    /// Writes the defaults that depend on the method into the keys that are left out.
    pub(in crate::config) fn fill(&mut self) {
        self.mu.get_or_insert(self.method.default_mu());
        self.batch_norm.get_or_insert(self.method.default_batch_norm());
    }
}
