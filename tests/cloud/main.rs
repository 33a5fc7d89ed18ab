//! Rows, checkpoints and bundles in object stores: an S3 server that a package brings, and a server of our own that fails
//! as asked.

#![cfg(feature = "cloud")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
#[path = "../common/python.rs"]
mod python;
mod ranks;
mod s3;
mod server;
