//! `tandem completions` and `tandem man`: what a shell and a reader of manuals want to know of the commands.

use crate::error::{Error, Result};
use clap::CommandFactory;
use std::path::PathBuf;

/// Prints the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem completions bash > ~/.local/share/bash-completion/completions/tandem"))]
pub struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Prints the manual page of tandem, or writes those of all commands.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem man | man -l -\n         tandem man --out ~/.local/share/man/man1"))]
pub struct Man {
    /// Folder for `tandem.1`, `tandem-train.1` and so on.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs `tandem completions`.
pub fn completions(args: Completions) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::Args::command(), "tandem", &mut text);
    super::print(&String::from_utf8_lossy(&text))
}

/// Runs `tandem man`.
pub fn man(args: Man) -> Result<()> {
    let command = super::Args::command();
    let Some(folder) = args.out else { return super::print(&page(command)?) };
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("creating", &folder, &e))?;
    clap_mangen::generate_to(command, &folder).map_err(|e| Error::io("writing the pages", &folder, &e))
}

fn page(command: clap::Command) -> Result<String> {
    let mut text = Vec::new();
    let written = clap_mangen::Man::new(command).render(&mut text);
    written.map_err(|e| Error::internal(format!("a manual page cannot be written: {e}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
