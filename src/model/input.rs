//! The model's input: pooled embeddings, attention-pooled sequences and dense features side by side.

use super::{Input, InputSpec, Sequence};
use crate::error::{Error, Result};
use crate::nn::{Context, attention_pool, columns, concat};
use candle_core::Tensor;

/// Concatenates everything a model reads into one row of numbers.
#[derive(Debug, Clone)]
pub struct InputLayer {
    /// Number of each attended sequence, and first column and width of its query in the pooled embeddings.
    queries: Vec<(usize, usize, usize)>,
    /// Widths of the pooled embeddings.
    pooled: Vec<usize>,
    dense_width: usize,
    width: usize,
}

impl InputLayer {
    /// Checks that `kind`, an architecture that reads no unpooled sequence, can use these features.
    pub fn new(spec: &InputSpec, kind: &str) -> Result<Self> {
        Self::beside(spec, kind, &[])
    }

    /// The same for an architecture that reads the sequences `own`, by number, itself.
    pub fn beside(spec: &InputSpec, kind: &str, own: &[usize]) -> Result<Self> {
        if !spec.pairs.is_empty() {
            return Err(Error::job(format!("`{kind}` reads whole rows and cannot learn the `pair` of a task"))
                .at("key", "model.kind")
                .fix("use `model: {kind: mf}`, or remove `pair` and `kind: bpr` from the tasks"));
        }
        let mut queries = Vec::new();
        for (number, sequence) in spec.sequences.iter().enumerate().filter(|(number, _)| !own.contains(number)) {
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
            queries.push((number, field.start, field.width));
        }
        let pooled: Vec<usize> = spec.fields.iter().map(|field| field.width).collect();
        let attended: usize = queries.iter().map(|(.., width)| width).sum();
        let width = pooled.iter().sum::<usize>() + attended + spec.dense_width;
        if width == 0 {
            return Err(Error::job("the model has no input").at("key", "features").fix("list at least one feature"));
        }
        Ok(Self { queries, pooled, dense_width: spec.dense_width, width })
    }

    /// Columns of the result.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns of each field of the result: embeddings as wide as they are, each dense column by itself.
    pub fn fields(&self) -> Vec<usize> {
        let attended = self.queries.iter().map(|(.., width)| *width);
        self.pooled.iter().copied().chain(attended).chain(std::iter::repeat_n(1, self.dense_width)).collect()
    }

    /// `[B, width]`: pooled, attended, dense; cut off from the tape ([`crate::nn::Graph::cut`]).
    pub fn forward(&self, input: &Input, context: &Context) -> Result<Tensor> {
        let x = concat(&context.graph, &self.parts(input, context)?)?;
        Ok(context.graph.cut(self.checked(x)?))
    }

    /// The same, not cut off, and always the result of an operation: a tensor where the tasks' own parts begin.
    pub fn side_by_side(&self, input: &Input, context: &Context) -> Result<Tensor> {
        let mut parts = self.parts(input, context)?;
        if parts.len() == 1 {
            // Of no columns here. A single part by itself would be the leaf, which no operation made.
            parts.push(input.dense.clone());
        }
        self.checked(concat(&context.graph, &parts)?)
    }

    fn parts(&self, input: &Input, context: &Context) -> Result<Vec<Tensor>> {
        let mut parts = Vec::new();
        if input.pooled.dim(1)? > 0 {
            parts.push(input.pooled.clone());
        }
        for &(sequence, start, width) in &self.queries {
            let query = columns(&context.graph, &input.pooled, start, width)?;
            let Sequence { values, mask } = &input.sequences[sequence];
            parts.push(attention_pool(&query, values, mask, context)?);
        }
        if self.dense_width > 0 {
            parts.push(input.dense.clone());
        }
        Ok(parts)
    }

    fn checked(&self, x: Tensor) -> Result<Tensor> {
        let found = x.dim(1)?;
        if found != self.width {
            return Err(Error::internal(format!("the model was built for {} columns, not {found}", self.width)));
        }
        Ok(x)
    }
}
