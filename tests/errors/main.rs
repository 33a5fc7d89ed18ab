//! What goes wrong, end to end: each mistake ends in one message that says where and what to do, with the
//! documented exit code on all ranks, and nothing is lost of what was saved before.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/fixture.rs"]
mod fixture;

mod data;
mod disk;
mod job;
mod limits;
mod resume;
