//! Bundles for serving: a trained model as files that other systems run, and the check that they give the same.
//!
//! | file | what |
//! |---|---|
//! | `onnx` | a traced forward pass as an ONNX model |
//! | `tables` | embedding tables as Parquet, safetensors, plain binary and Redis commands |
//! | `schema`, `describe` | `schema.json`: from rows to the model's inputs |
//! | `golden` | some rows with what they give |
//! | `triton` | the configuration of a Triton model repository |
//! | `self_contained` | the same with the tables inside |
//! | `bundle` | the folder: manifest, checksums, all or nothing |
//! | `delta` | what changed since another checkpoint, and a bundle with it folded in |
//! | `verify` | the golden rows scored by the bundle alone |

pub mod bundle;
pub mod delta;
pub mod describe;
pub mod golden;
pub mod onnx;
pub mod schema;
pub mod self_contained;
pub mod tables;
pub mod triton;
pub mod verify;
