//! From the checked job to the parts that a step needs, on one rank.

use super::dense::DensePart;
use super::freeze::Frozen;
use super::leaves::leaf;
use super::losses::TaskSpec;
use super::step::Trainable;
use crate::balance::{self, Balance, Scope};
use crate::comm::Comm;
use crate::config::job::{Feature, FeatureKind, Job, Pooling, TaskKind};
use crate::data::schema::{IdColumnUse, Schema, Side};
use crate::embedding::{BagKind, BagSpec, Embeddings, Pool, TableSpec};
use crate::error::{Error, Result};
use crate::model::{self, Field, Input, InputSpec, Model, PairSpec, Sequence, SequenceSpec, in_set};
use crate::nn::{Context, Graph, Kernels, Loss, ParamStore, Pass};
use crate::optim;
use candle_core::{Device, Tensor};
use std::sync::Arc;

/// Builds everything that is trained, without a word to other ranks. `scenarios` are the names of those where the job
/// names a column of them. Fills the resolved options of the components into `job`. What is `frozen` has no part in any
/// update.
pub fn build(comm: &Comm, job: &mut Job, schema: &Schema, scenarios: &[String], frozen: Frozen) -> Result<Trainable> {
    let mut tasks = task_specs(job);
    let names: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
    let sets = model::table_sets(&job.model, &names)?;
    let tables = table_specs(job, schema, &sets, &frozen)?;
    let bags = bag_specs(job, schema, &tables, &sets);
    let mut spec = input_spec(job, schema, &bags, &tables, (&tasks, sets))?;
    if schema.scenario.is_some() {
        spec.scenarios = scenarios.to_vec();
    }
    let rule = frozen.clone();
    let mut store = ParamStore::new(job.seed).freezing(move |name, shape| rule.parameter(name, shape));
    let model = model::build(&mut job.model, &spec, &mut store)?;
    let embeddings = Embeddings::new(tables, bags, job.checkpoint.buckets, job.seed, comm.rank(), comm.size())?;
    let mut embeddings = embeddings.with_sets(spec.sets.len()).with_wire(job.wire);
    if let Some(limit) = job.memory_limit {
        embeddings = embeddings.with_memory_limit(limit.0 / comm.in_process() as u64);
    }
    frozen.check(store.names(), &embeddings.table_names().collect::<Vec<_>>())?;
    let input = made_up_input(&spec, &embeddings)?;
    let reach = reach(model.as_ref(), &input, &store, &mut tasks)?;
    let optimizer = optim::build(&mut job.optimizer.dense)?;
    let mut balance = balance::build(&mut job.balance, &spec.tasks)?;
    check_kernels(&balance, job.kernels)?;
    check_shared(&balance, job, &reach)?;
    let kept = balance.method.on_slices().map(|method| method.slots()).unwrap_or_default();
    let clip_norm = job.optimizer.clip_norm;
    let dense = DensePart::new(&store, &reach.shared, optimizer, &kept, clip_norm, job.wire, comm.as_ref())?;
    let Job { seed, kernels, precision, .. } = *job;
    let row_classes = None;
    let dense_names = schema.dense_features.iter().flat_map(|f| std::iter::repeat_n(f.name.clone(), f.width)).collect();
    Ok(Trainable {
        embeddings,
        store,
        model,
        spec,
        dense_names,
        tasks,
        dense,
        balance,
        seed,
        kernels,
        precision,
        row_classes,
    })
}

/// Where tasks share no dense parameters, or meet at no representation, there is nothing to compare but the tables' rows.
fn check_shared(balance: &Balance, job: &Job, reach: &Reach) -> Result<()> {
    let (method, model) = (&job.balance.kind, &job.model.kind);
    let lacks = match balance.scope {
        Some(Scope::Shared | Scope::Representation | Scope::LastLayer) if !reach.shared.contains(&true) => {
            format!("`{method}` weighs gradients of dense parameters that tasks share, and `{model}` has none")
        }
        Some(Scope::Representation | Scope::LastLayer) if !reach.representation => {
            format!("`{method}` compares tasks at their last shared representation, and `{model}` has none")
        }
        Some(Scope::LastLayer) if !reach.last_layer => {
            format!("`{method}` compares tasks at the last layer that they share, and `{model}` has none")
        }
        _ => return Ok(()),
    };
    let fix = match balance.method.scopes().contains(&Scope::SharedAndRows) {
        true => "use `scope: shared+rows`, or a method that weighs losses, such as `uniform`",
        false => "use a method that weighs losses, such as `uniform`, or one with `scope: shared+rows`, such as `mgda`",
    };
    Err(Error::job(lacks).at("key", "balance.scope").fix(fix))
}

/// Heads can be told from the trunk only on tandem's own tape.
fn check_kernels(balance: &Balance, kernels: Kernels) -> Result<()> {
    let of_heads = balance.scope.filter(|scope| matches!(scope, Scope::Representation | Scope::LastLayer));
    if let (Some(scope), Kernels::Reference) = (of_heads, kernels) {
        return Err(Error::job(format!("`scope: {}` needs the fused kernels", scope.name()))
            .at("key", "balance.scope")
            .fix("use `kernels: fused`, or `scope: shared` to compare with the reference kernels"));
    }
    Ok(())
}

fn task_specs(job: &Job) -> Vec<TaskSpec> {
    let spec = |task: &crate::config::job::Task| {
        let (loss, outputs) = match task.kind {
            TaskKind::Binary => (Loss::BinaryCrossEntropy, 1),
            TaskKind::Regression => (Loss::SquaredError, 1),
            TaskKind::Multiclass => (Loss::CrossEntropy, task.classes.unwrap_or(2)),
            TaskKind::Bpr => (Loss::Bpr, task.negatives.unwrap_or_default().count),
        };
        TaskSpec { name: task.name.clone(), loss, outputs, weight: task.weight, reaches: true }
    };
    job.tasks.iter().map(spec).collect()
}

/// The tables of each set, in the order of their first feature. The resolved options are written back into the job.
fn table_specs(job: &mut Job, schema: &Schema, sets: &[String], frozen: &Frozen) -> Result<Vec<TableSpec>> {
    let mut specs: Vec<TableSpec> = Vec::new();
    for (set, id) in sets.iter().flat_map(|set| schema.id_features.iter().map(move |id| (set, id))) {
        let name = in_set(&id.table, set);
        if specs.iter().any(|spec| spec.name == name) {
            continue;
        }
        let mut table = job.tables.get(&id.table).cloned().unwrap_or_default();
        table.dim = table.dim.or(job.features[id.feature].dim);
        let sparse = &mut job.optimizer.sparse;
        let spec = TableSpec::from_job(&name, &mut table, sparse, job.checkpoint.buckets)?;
        let freeze = frozen.table(&spec.name, spec.dim);
        specs.push(spec.freeze(freeze));
        if let Some(listed) = job.tables.get_mut(&id.table) {
            *listed = table;
        }
    }
    Ok(specs)
}

/// One bag per column of a batch's ids, in each set.
fn bag_specs(job: &Job, schema: &Schema, tables: &[TableSpec], sets: &[String]) -> Vec<BagSpec> {
    let spec = |set: &str, IdColumnUse { feature, side }: IdColumnUse| {
        let id = &schema.id_features[feature];
        let feature = &job.features[id.feature];
        let kind = match (side, feature.pooling()) {
            // When not training a side can have several ids: their mean then scores the mean of their scores.
            (Some(Side::Left | Side::Right), _) => BagKind::Pooled(Pool::Mean),
            (Some(Side::Negatives(count)), _) => BagKind::Sequence { max_len: count },
            (None, Pooling::Sum) => BagKind::Pooled(Pool::Sum),
            (None, Pooling::Mean) => BagKind::Pooled(Pool::Mean),
            // Only a `sequence` has these, and that always has a longest length.
            (None, Pooling::Attention | Pooling::None) => BagKind::Sequence { max_len: feature.max_len().unwrap_or(1) },
        };
        let name = in_set(&id.table, set);
        let table = tables.iter().position(|table| table.name == name).unwrap_or(0);
        BagSpec { name: in_set(&id.name, set), table, kind }
    };
    let columns = schema.id_columns();
    sets.iter().flat_map(|set| columns.iter().map(move |&column| spec(set, column))).collect()
}

fn input_spec(
    job: &Job,
    schema: &Schema,
    bags: &[BagSpec],
    tables: &[TableSpec],
    (tasks, sets): (&[TaskSpec], Vec<String>),
) -> Result<InputSpec> {
    let mut spec = InputSpec {
        outputs: tasks.iter().map(|t| t.outputs).collect(),
        tasks: tasks.iter().map(|t| t.name.clone()).collect(),
        losses: tasks.iter().map(|t| t.trained().then_some(t.loss)).collect(),
        sets,
        dense_width: schema.dense_width,
        ..InputSpec::default()
    };
    let mut start = 0;
    for bag in bags.iter().filter(|bag| matches!(bag.kind, BagKind::Pooled(_))) {
        let width = tables[bag.table].dim;
        spec.fields.push(Field { name: bag.name.clone(), start, width });
        start += width;
    }
    let columns = schema.id_columns();
    for (i, bag) in bags.iter().enumerate() {
        let (set, column) = (&spec.sets[i / columns.len()], columns[i % columns.len()]);
        if let BagKind::Sequence { max_len } = bag.kind {
            let target = match column.side {
                None => {
                    let feature = &job.features[schema.id_features[column.feature].feature];
                    sequence_target(feature, set, &spec.fields)?
                }
                Some(_) => None,
            };
            let (name, dim) = (bag.name.clone(), tables[bag.table].dim);
            let candidates = candidates(job, schema, bags, bag.table);
            spec.sequences.push(SequenceSpec { name, max_len, dim, target, candidates });
        }
    }
    spec.pairs = pair_specs(&columns);
    Ok(spec)
}

/// Where the sides of each task's pair stand: fields and sequences are numbered in the order of the id columns.
fn pair_specs(columns: &[IdColumnUse]) -> Vec<PairSpec> {
    let mut pairs: Vec<PairSpec> = Vec::new();
    let (mut fields, mut sequences) = (0, 0);
    for side in columns.iter().filter_map(|column| column.side) {
        match (side, pairs.last_mut()) {
            (Side::Left, _) => {
                pairs.push(PairSpec { left: fields, right: fields + 1, drawn: None });
                fields += 2;
            }
            (Side::Negatives(_), Some(pair)) => {
                pair.drawn = Some(sequences);
                sequences += 1;
            }
            _ => {}
        }
    }
    pairs
}

/// The fields that are ids of the table `table`.
fn candidates(job: &Job, schema: &Schema, bags: &[BagSpec], table: usize) -> Vec<usize> {
    let columns = schema.id_columns();
    let pooled = bags.iter().zip(&columns).filter(|(bag, _)| matches!(bag.kind, BagKind::Pooled(_))).enumerate();
    let of_table = pooled.filter(|(_, (bag, column))| {
        let feature = &job.features[schema.id_features[column.feature].feature];
        bag.table == table && feature.kind == FeatureKind::Categorical
    });
    of_table.map(|(field, _)| field).collect()
}

/// The field that attends over a sequence, for attention pooling.
fn sequence_target(feature: &Feature, set: &str, fields: &[Field]) -> Result<Option<usize>> {
    if feature.pooling != Some(Pooling::Attention) {
        return Ok(None);
    }
    let target = feature.target.as_deref().unwrap_or_default();
    let field = in_set(target, set);
    fields.iter().position(|f| f.name == field).map(Some).ok_or_else(|| {
        Error::job(format!("feature `{}` attends with `{target}`, which is no pooled feature", feature.name))
            .at("key", format!("features.{}.target", feature.name))
            .fix("name a categorical feature of the same table")
    })
}

/// Where the tasks' losses meet.
struct Reach {
    /// Which parameters two or more losses reach.
    shared: Vec<bool>,
    /// Whether the model names a representation that the tasks share.
    representation: bool,
    /// Whether there is a layer before it that all tasks share, or one task only.
    last_layer: bool,
}

/// Found by one backward pass per trained task on a made-up batch. Says to each task whether its loss reaches anything
/// that is not frozen.
fn reach(model: &dyn Model, input: &Input, store: &ParamStore, tasks: &mut [TaskSpec]) -> Result<Reach> {
    let context = Context::alone(input.pooled.dim(0)?, Graph::tape())?;
    let output = model.forward(input, &context)?;
    let mut reached = vec![0usize; store.vars().len()];
    for (number, task) in tasks.iter_mut().enumerate() {
        task.reaches = output.of_task(number).into_iter().any(|tensor| context.graph.tracks(tensor));
    }
    let trained: Vec<usize> = (0..tasks.len()).filter(|&task| tasks[task].trained()).collect();
    for &task in &trained {
        let starts = output.of_task(task).into_iter().map(|tensor| Ok((tensor, tensor.ones_like()?)));
        let Pass { grads, .. } = context.graph.backward(&starts.collect::<Result<Vec<_>>>()?)?;
        for (count, var) in reached.iter_mut().zip(store.vars()) {
            *count += usize::from(grads.get(var.as_tensor()).is_some());
        }
    }
    if trained.is_empty() {
        return Err(Error::job("nothing is left to train: everything that the tasks reach is frozen")
            .at("key", "freeze")
            .fix("make exceptions, as in `freeze: {dense: ['*', '!towers.*']}`, or add a task"));
    }
    // With one task nothing is contested: its parameters are balanced trivially as shared ones.
    let enough = if trained.len() == 1 { 1 } else { 2 };
    let shared = reached.into_iter().map(|count| count >= enough).collect();
    let outputs: Vec<Vec<&Tensor>> = trained.iter().map(|&task| output.of_task(task)).collect();
    let (_, layer) = context.graph.without_last_layer(&outputs, &output.representation)?;
    let (representation, last_layer) = (!output.representation.is_empty(), trained.len() < 2 || !layer.is_empty());
    Ok(Reach { shared, representation, last_layer })
}

/// A row of ones for each scenario, "other" included, so that the parameters of every one are reached; at least two rows.
fn made_up_input(spec: &InputSpec, embeddings: &Embeddings) -> Result<Input> {
    let scenarios: Arc<[u32]> = (0..=spec.scenarios.len() as u32).filter(|_| !spec.scenarios.is_empty()).collect();
    let rows = scenarios.len().max(2);
    let device = &Device::Cpu;
    let width: usize = spec.fields.iter().map(|f| f.width).sum();
    let sequences = spec
        .sequences
        .iter()
        .zip(embeddings.trains_sequences())
        .map(|(s, trained)| {
            Ok(Sequence {
                values: leaf(vec![1.0; rows * s.max_len * s.dim], (rows, s.max_len, s.dim), trained)?,
                mask: Tensor::ones((rows, s.max_len), candle_core::DType::F32, device)?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Input {
        pooled: leaf(vec![1.0; rows * width], (rows, width), embeddings.trains_pooled())?,
        sequences,
        dense: Tensor::ones((rows, spec.dense_width), candle_core::DType::F32, device)?,
        scenarios,
        repeats: [].into(),
        classes: vec![0; rows].into(),
    })
}
