//! `tandem schema`.

mod kinds;
mod page;

pub use kinds::{Build, components};

use crate::config;
use crate::error::{Error, Result};
use serde_json::Value;

/// Prints the JSON Schema of the job file, by which editors complete and check it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = super::help("Example: tandem schema > job.schema.json\n         and as the first line of a job: # yaml-language-server: $schema=job.schema.json")
)]
pub struct Args {
    /// Prints it as a page of Markdown, as docs/job-reference.md.
    #[arg(long)]
    markdown: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let schema = schema()?;
    if args.markdown {
        return super::print(&page::page(&schema));
    }
    let text = serde_json::to_string_pretty(&schema);
    super::print(&(text.map_err(|e| Error::internal(format!("the schema is no JSON: {e}")))? + "\n"))
}

/// The schema of a job, with every kind and its options.
fn schema() -> Result<Value> {
    let mut schema = config::job_schema();
    kinds::fill(&mut schema)?;
    Ok(schema)
}
