//! A step whose losses or gradients are not finite: it changes no parameter, and says where it comes from.
//!
//! ```text
//! step      the sums of the losses, and the products of the gradients, which all ranks exchange anyway, are not finite
//! locate    the task, the row and its largest input
//! record    RUN_DIR/non-finite/step-00000012: a checkpoint of what the step reads, its rows, what was found
//! replay    takes the step again from there
//! ```

mod locate;
mod record;
pub mod replay;
mod rows;

pub(super) use locate::{Located, gradient, loss};
pub(super) use record::{Record, Recorded, write};

use super::step::Asks;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The loss of a task.
    Loss,
    /// A term that the architecture adds to the loss of a task.
    Term,
    /// A gradient, of finite losses.
    Gradient,
}

/// What is not finite, and where it comes from; the same on every rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What is not finite.
    pub what: What,
    /// The task; `None` if it is the tasks' weighted sum alone.
    pub task: Option<String>,
    /// A parameter whose gradient is not finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// The feature with the largest input of the row, or with one that is not finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature: Option<String>,
    /// That input, as the model reads it: text, since JSON has no word for infinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Where the row comes from; `None` if no row alone does it.
    pub row: Option<Address>,
}

/// The address of a row in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The file.
    pub file: String,
    /// Row group inside the file.
    pub row_group: u32,
    /// Row inside the row group.
    pub row: u32,
}

impl Finding {
    /// As the error that ends a run: the same on every rank.
    pub fn error(&self) -> Error {
        let task = self.task.as_ref().map(|task| format!(" of task `{task}`")).unwrap_or_default();
        let mut error = Error::numeric(match self.what {
            What::Loss => format!("the loss{task} is not finite"),
            What::Term => format!("a term of the loss{task} is not finite"),
            What::Gradient => format!("the gradient{task} is not finite"),
        });
        if let Some(Address { file, row_group, row }) = &self.row {
            error = error.at("file", file).at("row group", row_group).at("row", row);
        }
        if let (Some(feature), Some(input)) = (&self.feature, &self.input) {
            error = error.at("feature", format!("`{feature}` with input {input}"));
        }
        if let Some(parameter) = &self.parameter {
            error = error.at("parameter", parameter);
        }
        let row =
            if self.row.is_some() { "look for extreme values in the row named here" } else { "lower `clip_norm`" };
        error.fix(format!("lower the learning rates, set optimizer.clip_norm, or {row}")).agreed()
    }
}

/// A step that was not taken; the same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Why.
    pub finding: Finding,
    /// What any rank asks for.
    pub asks: Asks,
}

impl Refused {
    /// The error of a run that ends on it after `step` steps; `recorded` is where the step can be replayed.
    pub(super) fn error(&self, step: u64, recorded: Option<&Path>) -> Error {
        let error = self.finding.error().at("after step", step);
        match recorded {
            Some(path) => {
                let path = path.display();
                error.and_fix(format!("`tandem replay {path}` takes this step again"))
            }
            None => error,
        }
    }
}
