//! Federated training: clients train models of their own on rows of their own, and share what their method declares.
//!
//! ```text
//!  client 0: τ steps ─ Δ of its units ─(clip, noise)─┐                     ┌─► client 0: its new parameters ─ evaluate ─ save
//!  client 1: τ steps ─ Δ of its units ───────────────┼─► all-gather, unit  ├─► client 1
//!  client 2: τ steps ─ Δ of its units ───────────────┘   by unit, then the └─► client 2
//!                                                        same sums everywhere
//! ```
//!
//! A client is a [`Run`](crate::train::run::Run) of its own: own rows, tables, optimizer, checkpoints. A *unit* is a group of
//! parameters that is aggregated as one (an expert, a tower); `parts` says which there are, and nothing else leaves a client but
//! row counts at the start and metrics. Every rank plays the server: it holds all clients' updates of one unit at a time and
//! computes in client order, so it does not matter which client is on which rank.
//!
//! | file | idea |
//! |---|---|
//! | `clients` | who the clients are, and the job of each |
//! | `placement` | clients on ranks: several on one, or one on several |
//! | `client` | one client: its run, and the second model of `ditto` |
//! | `parts` | what leaves a client, method by method |
//! | `exchange` | the only place where a client's parameters are sent |
//! | `average`, `coordinate`, `attend` | how updates become one: a mean, CAGrad, attention |
//! | `shares` | how much of it a client takes |
//! | `unit` | a unit between rounds: the last updates, the shares, the mean model |
//! | `tables` | rows of embedding tables, where they are shared |
//! | `privacy`, `accountant` | clipping, noise, and the (ε, δ) they give |
//! | `rounds` | the loop: local training, exchange, evaluation, saving |
//! | `saved` | what a resumed federation needs beside the clients' checkpoints |
//! | `events`, `reports` | what it tells, and metrics by client |

pub mod accountant;
mod attend;
mod average;
mod client;
mod clients;
mod coordinate;
pub mod events;
mod exchange;
mod parts;
mod placement;
mod privacy;
mod reports;
mod rounds;
mod saved;
mod shares;
mod tables;
mod unit;

pub use reports::Report;
pub use rounds::Federation;
