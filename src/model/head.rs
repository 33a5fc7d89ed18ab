//! What stands above the input: from what the tasks read to their logits.

use super::{Input, InputLayer, InputSpec, Model, Output, mmoe, ple, shared_bottom};
use crate::config::{Component, unknown_kind};
use crate::error::Result;
use crate::nn::{Context, ParamStore};
use candle_core::Tensor;

/// The part of an architecture above its input. An architecture that gives each task an input of its own puts it on
/// top of that ([`super::dtrn`]); the plain ones put it on the features ([`OnFeatures`]).
pub trait Head {
    /// `inputs`: one tensor `[B, width]` that all tasks read, or one for each task.
    fn forward(&self, inputs: &[Tensor], context: &Context) -> Result<Output>;
}

/// An architecture whose tasks all read the features as they are.
pub struct OnFeatures {
    /// The features.
    pub input: InputLayer,
    /// What reads them.
    pub head: Box<dyn Head>,
}

impl Model for OnFeatures {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        self.head.forward(&[self.input.forward(input, context)?], context)
    }
}

/// Builds the head that `component`, at `key` of the job, names, for tasks that each read `width` columns of their own.
/// Fills in the component's defaults.
pub fn build(
    component: &mut Component,
    key: &str,
    spec: &InputSpec,
    width: usize,
    shared_input: ple::SharedInput,
    store: &mut ParamStore,
) -> Result<Box<dyn Head>> {
    let built: Result<Box<dyn Head>> = match component.kind.as_str() {
        "shared_bottom" => shared_bottom::head(component, spec, width, store).map(|head| Box::new(head) as _),
        "mmoe" => mmoe::head(component, spec, width, &spec.tasks, store).map(|head| Box::new(head) as _),
        "ple" => ple::head(component, spec, width, shared_input, store).map(|head| Box::new(head) as _),
        kind => return Err(unknown_kind(key, kind, &["mmoe", "ple", "shared_bottom"])),
    };
    // The architectures name their options as those of the model itself.
    built.map_err(|error| error.inside("key", "model", key))
}

/// Item `task` of a list that has one for each task, or one for all.
pub fn of_task<T>(items: &[T], task: usize) -> &T {
    &items[task % items.len()]
}
