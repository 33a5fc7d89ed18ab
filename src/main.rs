//! The `tandem` binary: parse, call, exit code.

fn main() {}
