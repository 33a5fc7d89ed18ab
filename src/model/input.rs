//! The model's input: pooled embeddings, attention-pooled sequences and dense features side by side.

use super::{Input, InputSpec, Sequence};
use crate::error::{Error, Result};
use crate::nn::{Context, attention_pool, columns, concat};
use candle_core::Tensor;

/// Concatenates everything a model reads into one row of numbers: of one set of tables, where there are several.
#[derive(Debug, Clone)]
pub struct InputLayer {
    /// First column of the pooled embeddings.
    start: usize,
    /// Widths of the pooled embeddings.
    pooled: Vec<usize>,
    /// Whether the input is all that there is: then it is cut off.
    alone: bool,
    /// Number of each attended sequence, and first column and width of its query in the pooled embeddings.
    queries: Vec<(usize, usize, usize)>,
    dense_width: usize,
    width: usize,
}

impl InputLayer {
    /// Checks that `kind`, an architecture that reads no unpooled sequence, can use these features.
    pub fn new(spec: &InputSpec, kind: &str) -> Result<Self> {
        Self::of_set(spec, kind, 0, &[])
    }

    /// One for each set of tables.
    pub fn of_sets(spec: &InputSpec, kind: &str) -> Result<Vec<Self>> {
        (0..spec.sets.len().max(1)).map(|set| Self::of_set(spec, kind, set, &[])).collect()
    }

    /// The same as [`InputLayer::new`] for an architecture that reads the sequences `own`, by number, itself.
    pub fn beside(spec: &InputSpec, kind: &str, own: &[usize]) -> Result<Self> {
        Self::of_set(spec, kind, 0, own)
    }

    fn of_set(spec: &InputSpec, kind: &str, set: usize, own: &[usize]) -> Result<Self> {
        if !spec.pairs.is_empty() {
            return Err(Error::job(format!("`{kind}` reads whole rows and cannot learn the `pair` of a task"))
                .at("key", "model.kind")
                .fix("use `model: {kind: mf}`, or remove `pair` and `kind: bpr` from the tasks"));
        }
        let sets = spec.sets.len().max(1);
        let of_set = |all: usize| set * (all / sets)..(set + 1) * (all / sets);
        let (fields, sequences) = (&spec.fields[of_set(spec.fields.len())], of_set(spec.sequences.len()));
        let attended = sequences.filter(|number| !own.contains(number));
        let queries = attended.map(|number| query(spec, kind, number)).collect::<Result<Vec<_>>>()?;
        let pooled: Vec<usize> = fields.iter().map(|field| field.width).collect();
        let attended: usize = queries.iter().map(|(.., width)| width).sum();
        let width = pooled.iter().sum::<usize>() + attended + spec.dense_width;
        if width == 0 {
            return Err(Error::job("the model has no input").at("key", "features").fix("list at least one feature"));
        }
        let start = fields.first().map_or(0, |field| field.start);
        Ok(Self { start, pooled, alone: sets == 1, queries, dense_width: spec.dense_width, width })
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

    /// `[B, width]`: pooled, attended, dense. Cut off from the tape ([`crate::nn::Graph::cut`]), unless there are several
    /// sets: of them a task reads some only, so that there is no one input whose gradient all passes share.
    pub fn forward(&self, input: &Input, context: &Context) -> Result<Tensor> {
        let x = self.checked(concat(&context.graph, &self.parts(input, context)?)?)?;
        // The pooled embeddings are its first columns.
        Ok(if self.alone { context.graph.cut(x, &input.repeats) } else { x })
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
        match self.alone {
            true if input.pooled.dim(1)? > 0 => parts.push(input.pooled.clone()),
            false if !self.pooled.is_empty() => {
                parts.push(columns(&context.graph, &input.pooled, self.start, self.pooled.iter().sum())?);
            }
            _ => {}
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

/// The sequence `number` with first column and width of the query that attends over it.
fn query(spec: &InputSpec, kind: &str, number: usize) -> Result<(usize, usize, usize)> {
    let sequence = &spec.sequences[number];
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
    Ok((number, field.start, field.width))
}
