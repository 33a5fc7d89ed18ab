//! The `tandem` binary: parse, call, exit code.

use clap::Parser;

// Training allocates and frees the same sizes at every step; mimalloc takes a fifth off a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    std::process::exit(tandem::cli::run(tandem::cli::Args::parse()));
}
