//! The `tandem` binary: parse, call, exit code.

// Training allocates and frees the same sizes at every step; mimalloc takes a fifth off a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    tandem::observe::memory::keep();
    // SAFETY: no other thread has been started yet.
    unsafe { tandem::observe::threads::keep_candle_on_one_thread() };
    std::process::exit(tandem::cli::main());
}
