//! Decodes the training rows of a job: to batches in the order of the files, on one thread and on two, as in evaluation, and
//! to shuffled batches on one thread, as half of training: what `benches/decode.py` compares with pyarrow.
//!
//! ```text
//! cargo bench --bench decode -- JOB [KEY=VALUE]...
//! ```
//!
//! Prints one line of JSON: files, columns, rows and the seconds of each. Footers and statistics are read before the clock starts.

use anyhow::Context;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tandem::comm::{Comm, solo::Solo};
use tandem::config;
use tandem::data::lanes::{Cursor, Layout, Order};
use tandem::data::loader::{Loader, Options};
use tandem::data::schema::Purpose;
use tandem::data::store::{Local, Store};
use tandem::train::dataset::Dataset;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    tandem::observe::memory::keep();
    // Cargo passes `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let path = arguments.next().context("which job? See the top of benches/decode.rs")?;
    let overrides: Vec<String> = arguments.collect();
    let job = config::load(Path::new(&path), &overrides)?.job;

    let comm: Comm = Rc::new(Solo);
    let store: Arc<dyn Store> = Arc::new(Local);
    let data = Dataset::open(&comm, &store, &job, Some(&job.data.train), Purpose::Train)?;
    let data = data.context("the job has training data")?;
    let statistics = Arc::new(data.statistics(&comm)?);
    let (train, prefetch) = (&job.train, job.data.prefetch);
    let shuffled = || {
        let layout = Layout::train(data.plan.rows, train.global_batch, job.data.lanes)?;
        let order = Order::shuffled(job.seed, job.data.shuffle_window);
        anyhow::Ok(Options { layout, order, lanes: 0..layout.lanes, prefetch, threads: 1 })
    };
    let in_order = |threads: usize| {
        let layout = Layout::evaluate(data.plan.rows, train.eval.global_batch, threads);
        anyhow::Ok(Options { layout, order: Order::sequential(), lanes: 0..threads, prefetch, threads })
    };
    let seconds = |options: Options| {
        let start = Instant::now();
        let mut loader = Loader::start(data.source(&statistics), options, Cursor::default())?;
        while let Some(batch) = loader.next()? {
            loader.recycle(batch);
        }
        anyhow::Ok(start.elapsed().as_secs_f64())
    };
    let report = serde_json::json!({
        "files": data.plan.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
        "columns": data.schema.columns.iter().map(|column| &column.name).collect::<Vec<_>>(),
        "rows": data.plan.rows,
        "in_order_s": seconds(in_order(1)?)?,
        "two_threads_s": seconds(in_order(2)?)?,
        "shuffled_s": seconds(shuffled()?)?,
    });
    println!("{report}");
    Ok(())
}
