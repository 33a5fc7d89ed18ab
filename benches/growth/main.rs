//! How the time of a step and its traffic grow: with the rows of a table, the tasks, the ranks, the length of sequences, and
//! with `reproducible`.
//!
//! ```text
//! cargo bench --bench growth [-- tables|tasks|ranks|lengths|reproducible]...
//! ```
//!
//! Steps of 4096 rows are taken on batches that are made in memory, so nothing is decoded: 13 numbers, 26 ids with rows
//! of 16, and an MMoE with 4 experts [256, 128] and towers [64]. Ranks are threads of this process with one compute
//! thread each. What is compared is measured in turn, so that a busy machine slows all alike, and medians are given: as
//! a Markdown table, and as docs/growth-PART.svg.

#[path = "../common/mod.rs"]
mod common;
mod lengths;
mod plot;
mod rank;
mod ranks;
mod reproducible;
mod tables;
mod tasks;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Part = fn(&rank::Log) -> anyhow::Result<()>;

const PARTS: [(&str, Part); 5] = [
    ("tables", tables::run),
    ("tasks", tasks::run),
    ("ranks", ranks::run),
    ("lengths", lengths::run),
    ("reproducible", reproducible::run),
];

fn main() -> anyhow::Result<()> {
    tandem::observe::memory::keep();
    // SAFETY: no other thread has been started yet.
    unsafe { tandem::observe::threads::keep_candle_on_one_thread() };
    // Cargo passes `--bench`.
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for name in &asked {
        anyhow::ensure!(PARTS.iter().any(|(part, _)| part == name), "no part `{name}`: see benches/growth/main.rs");
    }
    let log = rank::Log::write()?;
    for (name, run) in PARTS.iter().filter(|(name, _)| asked.is_empty() || asked.iter().any(|a| a == name)) {
        println!("## {name}\n");
        run(&log)?;
        println!();
    }
    Ok(())
}
