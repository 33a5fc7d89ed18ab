//! The model's input: pooled embeddings, attention-pooled sequences and dense features side by side.

use super::{Input, InputSpec};
use crate::error::{Error, Result};
use crate::nn::{Context, attention_pool, columns, concat};
use candle_core::Tensor;
use std::ops::Range;

/// Concatenates everything a model reads into one row of numbers: of one set of tables, where there are several.
#[derive(Debug, Clone)]
pub struct InputLayer {
    /// Columns of the pooled embeddings.
    pooled: Range<usize>,
    /// Which of the input's sequences.
    sequences: Range<usize>,
    /// Whether the input is all that there is: then it is cut off.
    alone: bool,
    /// First column and width, in the pooled embeddings, of each sequence's query.
    queries: Vec<(usize, usize)>,
    dense_width: usize,
    width: usize,
}

impl InputLayer {
    /// Checks that `kind`, an architecture that reads no unpooled sequence, can use these features.
    pub fn new(spec: &InputSpec, kind: &str) -> Result<Self> {
        Self::of_set(spec, kind, 0)
    }

    /// One for each set of tables.
    pub fn of_sets(spec: &InputSpec, kind: &str) -> Result<Vec<Self>> {
        (0..spec.sets.len().max(1)).map(|set| Self::of_set(spec, kind, set)).collect()
    }

    fn of_set(spec: &InputSpec, kind: &str, set: usize) -> Result<Self> {
        if !spec.pairs.is_empty() {
            return Err(Error::job(format!("`{kind}` reads whole rows and cannot learn the `pair` of a task"))
                .at("key", "model.kind")
                .fix("use `model: {kind: mf}`, or remove `pair` and `kind: bpr` from the tasks"));
        }
        let mut queries = Vec::new();
        let sets = spec.sets.len().max(1);
        let of_set = |all: usize| set * (all / sets)..(set + 1) * (all / sets);
        let (fields, sequences) = (&spec.fields[of_set(spec.fields.len())], of_set(spec.sequences.len()));
        for sequence in &spec.sequences[sequences.clone()] {
            let Some(target) = sequence.target else {
                return Err(Error::job(format!("`{kind}` cannot use `{}` as an unpooled sequence", sequence.name))
                    .at("key", "model.kind")
                    .fix("give the feature `pooling: mean`, `sum` or `attention`, or choose a sequence model"));
            };
            let field = spec.fields.get(target);
            let field = field.ok_or_else(|| Error::internal(format!("`{}` attends to no field", sequence.name)))?;
            if field.width != sequence.dim {
                let dims = format!("{} and {} numbers", sequence.dim, field.width);
                return Err(Error::job(format!(
                    "`{}` attends with `{}`, but their embeddings have {dims}",
                    sequence.name, field.name
                ))
                .at("key", "features")
                .fix("give both the same `dim`, or let them share a `table`"));
            }
            queries.push((field.start, field.width));
        }
        let start = fields.first().map_or(0, |field| field.start);
        let pooled = start..start + fields.iter().map(|field| field.width).sum::<usize>();
        let attended: usize = queries.iter().map(|(_, width)| width).sum();
        let width = pooled.len() + attended + spec.dense_width;
        if width == 0 {
            return Err(Error::job("the model has no input").at("key", "features").fix("list at least one feature"));
        }
        Ok(Self { pooled, sequences, alone: sets == 1, queries, dense_width: spec.dense_width, width })
    }

    /// Columns of the result.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `[B, width]`: pooled, attended, dense. Cut off from the tape ([`crate::nn::Graph::cut`]), unless there are several
    /// sets: of them a task reads some only, so that there is no one input whose gradient all passes share.
    pub fn forward(&self, input: &Input, context: &Context) -> Result<Tensor> {
        let mut parts = Vec::new();
        match self.alone {
            true if input.pooled.dim(1)? > 0 => parts.push(input.pooled.clone()),
            false if !self.pooled.is_empty() => {
                parts.push(columns(&context.graph, &input.pooled, self.pooled.start, self.pooled.len())?);
            }
            _ => {}
        }
        let sequences = &input.sequences[self.sequences.clone()];
        for (sequence, &(start, width)) in sequences.iter().zip(&self.queries) {
            let query = columns(&context.graph, &input.pooled, start, width)?;
            parts.push(attention_pool(&query, &sequence.values, &sequence.mask, context)?);
        }
        if self.dense_width > 0 {
            parts.push(input.dense.clone());
        }
        let x = concat(&context.graph, &parts)?;
        let found = x.dim(1)?;
        if found != self.width {
            return Err(Error::internal(format!("the model was built for {} columns, not {found}", self.width)));
        }
        Ok(if self.alone { context.graph.cut(x) } else { x })
    }
}
