//! `tandem synth`: a Parquet log whose task conflict and best attainable AUC are known.
//!
//! Every row is drawn from a model that is written down here, so that a trainer can be judged by how
//! near it comes to the truth instead of by how it ranks against another trainer.
//!
//! For a row x with numeric columns z_j ~ N(0, 1) and ids drawn from Zipf laws, each source gives one
//! number per task (a K-vector), drawn once from the seed:
//!
//! ```text
//! g(x)  = Σ_j z_j a_j  +  Σ_c e_c(id_c)  +  z_0 v(id_c0)  +  √(len/2) · mean over history of e_c(id)
//!         numeric         ids               interaction      taste
//! s(x)  = A (g(x) − μ)        A, μ: so that E s = 0, Var s_k = 1 and corr(s_a, s_b) = cos(angle)
//! t_k(x) = b_k + signal · s_k(x)                        b_k: so that the label has its base rate
//! ```
//!
//! *Independent* labels: P(y_k = 1 | x) = σ(t_k). *Nested* labels: y_k can be 1 only where y_{k−1} is,
//! P(y_k = 1 | y_{k−1} = 1, x) = σ(t_k), so what a model of all rows should predict is the product
//! σ(t_1) ⋯ σ(t_k).
//!
//! The angle is the one between the tasks' effects as functions of a row, in the inner product
//! E[s_a s_b]. It is set exactly on a calibration sample, so a few frequent ids cannot spoil it as they
//! would spoil an angle between lists of coefficients. The interaction (a random slope of the first
//! numeric column per id of the first categorical one) is what a linear model cannot learn.
//!
//! ```text
//! OUT/train/part-00000.parquet …   or, with days, OUT/train/dt=2024-01-01/part-00000.parquet …
//! OUT/valid/…  OUT/test/…
//! OUT/job.yaml      a job that trains on it
//! OUT/synth.json    what is true of it; written last, so a folder that has it is whole
//! ```
//!
//! Row r is a pure function of (seed, r and the options of the model): neither the number of threads,
//! nor of files, nor the row groups change it.

mod bayes;
mod columns;
mod correlation;
mod effects;
mod folder;
mod job;
mod layout;
mod options;
mod summary;
#[cfg(test)]
mod tests;
mod world;
mod write;

pub use bayes::{Judged, auc, logloss};
pub use columns::{Column, spread as cardinalities};
pub use options::{Checked, Labels, Options};
pub use summary::{GivenParent, Splits, Summary, TaskTruth};
pub use world::{Row, World};

use crate::error::Result;
use std::path::Path;

/// Writes the log that `options` describe into the folder `out` and returns what is true of it, which is
/// also saved as `out/synth.json`.
///
/// Runs on rayon's current thread pool, one file a thread; the bytes do not depend on it. Memory: one
/// encoded row group a thread, and 9 bytes a task and 24 more for each row of the test split. `progress` is
/// told of every few thousand rows, from any thread.
///
/// # Errors
/// Impossible options, a folder that holds something else (unless `force`, which replaces `train/`,
/// `valid/` and `test/` in it), and refused file operations.
pub fn generate(out: &Path, options: &Options, force: bool, progress: &(dyn Fn(u64) + Sync)) -> Result<Summary> {
    let checked = options.check()?;
    folder::prepare(out, force)?;
    let world = World::new(&checked)?;
    let truth = write::files(out, &world, &checked, progress)?;
    let summary = Summary::new(&checked, &truth);
    folder::save(&out.join(folder::JOB), &job::text(out, &checked))?;
    folder::finish(out, &summary.to_json()?)?;
    Ok(summary)
}
