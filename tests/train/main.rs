//! Training as a whole: small jobs on small logs, on ranks that are threads and on ranks under `mpirun`.

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod balance;
mod crash;
mod federated;
mod freeze;
mod labels;
mod last_layer;
mod lifecycle;
mod llm4msr;
#[cfg(feature = "mpi")]
mod mpi;
mod mpt;
mod non_finite;
mod program;
mod ranks;
mod reproducible;
mod resume;
mod retrieval;
mod scenarios;
mod scope;
mod terms;
mod uneven;
