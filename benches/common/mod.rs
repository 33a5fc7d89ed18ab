//! What several benchmarks need.

use tandem::comm::{Comm, threads};

/// Runs `body` on `ranks` ranks, which are threads with one compute thread each, and returns what rank 0 measured.
pub fn on_ranks<T: Send>(ranks: usize, body: impl Fn(Comm) -> anyhow::Result<T> + Sync) -> anyhow::Result<T> {
    let failed = |e: anyhow::Error| tandem::Error::internal(format!("{e:#}"));
    let mut results = threads::run(ranks, threads::Options::default(), |comm| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        let _pool = pool.map_err(|e| failed(e.into()))?;
        body(comm).map_err(failed)
    });
    Ok(results.swap_remove(0)?)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
