//! What is read from the files, and what each column becomes: the job's features and tasks, resolved.

mod resolved;

pub use resolved::{
    Column, DenseFeature, IdColumnUse, IdFeature, IdSource, NumericFeature, PairColumns, Side, TaskColumns,
};

use super::accepts::{Accepts, short_type};
use super::columns::string_id;
use crate::config::Job;
use crate::config::job::{Feature, FeatureKind, LabelValue, Task, TaskKind, Transform};
use crate::error::{Error, Result};
use std::collections::HashSet;

/// What the rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Features, labels and weights.
    Train,
    /// The same, and the group columns of GAUC.
    Evaluate,
    /// Features only: labels may be missing, every target weight is 0.
    Predict,
}

/// The columns to read and what they become.
#[derive(Debug, Clone)]
pub struct Schema {
    /// What the rows are read for.
    pub purpose: Purpose,
    /// Whether a column that a file lacks is a column of nulls; else it is an error.
    pub nulls_for_missing: bool,
    /// Distinct columns that are read; the other fields hold indices into it.
    pub columns: Vec<Column>,
    /// Features that become ids, in the order of the job.
    pub id_features: Vec<IdFeature>,
    /// Features that become numbers, in the order of the job.
    pub dense_features: Vec<DenseFeature>,
    /// Numbers per row, over all dense features.
    pub dense_width: usize,
    /// The tasks, in the order of the job.
    pub tasks: Vec<TaskColumns>,
    /// Column of the row weight.
    pub weight: Option<usize>,
    /// Column of the row's scenario.
    pub scenario: Option<usize>,
    /// Names of the distinct GAUC columns (empty unless evaluating).
    pub group_columns: Vec<String>,
    groups: Vec<usize>,
}

impl Schema {
    /// Resolves the features and tasks of `job`. Options that make no sense are errors that name the key.
    pub fn new(job: &Job, purpose: Purpose) -> Result<Self> {
        let mut schema = Self {
            purpose,
            nulls_for_missing: false,
            columns: Vec::new(),
            id_features: Vec::new(),
            dense_features: Vec::new(),
            dense_width: 0,
            tasks: Vec::new(),
            weight: None,
            scenario: None,
            group_columns: Vec::new(),
            groups: Vec::new(),
        };
        unique("features", job.features.iter().map(|f| f.name.as_str()))?;
        unique("tasks", job.tasks.iter().map(|t| t.name.as_str()))?;
        for (index, feature) in job.features.iter().enumerate() {
            schema.add_feature(index, feature)?;
        }
        for (index, task) in job.tasks.iter().enumerate() {
            schema.add_task(index, task, purpose)?;
        }
        if let (Some(weight), true) = (&job.data.weight, purpose != Purpose::Predict) {
            schema.weight = Some(schema.column(weight, Accepts::Number, "data.weight".to_string()));
        }
        if let Some(scenario) = &job.data.scenario {
            schema.scenario = Some(schema.column(scenario, Accepts::Id, "data.scenario".to_string()));
        }
        Ok(schema)
    }

    /// Whether the tasks are relations between two features.
    pub fn has_pairs(&self) -> bool {
        self.tasks.iter().any(|task| task.pair.is_some())
    }

    /// What the columns of a batch's ids are: one a feature, or the sides of each task's pair.
    pub fn id_columns(&self) -> Vec<IdColumnUse> {
        if !self.has_pairs() {
            return (0..self.id_features.len()).map(|feature| IdColumnUse { feature, side: None }).collect();
        }
        let sides = |pair: &PairColumns| {
            let negatives = pair.negatives.map(|negatives| (pair.right, Side::Negatives(negatives.count)));
            [(pair.left, Side::Left), (pair.right, Side::Right)].into_iter().chain(negatives)
        };
        let all = self.tasks.iter().filter_map(|task| task.pair.as_ref()).flat_map(sides);
        all.map(|(feature, side)| IdColumnUse { feature, side: Some(side) }).collect()
    }

    /// Columns of the distinct GAUC groups, as indices into `columns`.
    pub(super) fn group_indices(&self) -> &[usize] {
        &self.groups
    }

    /// Numeric features, whose statistics are needed: name, column, and buckets of a quantile transform.
    pub fn numeric_features(&self) -> Vec<NumericFeature<'_>> {
        let dense = self.dense_features.iter().filter(|f| f.transform.is_some());
        let dense = dense.map(|f| NumericFeature { name: &f.name, column: f.column, buckets: None });
        let quantile = self.id_features.iter().filter_map(|f| match f.source {
            IdSource::Quantile { column, buckets } => {
                Some(NumericFeature { name: &f.name, column, buckets: Some(buckets) })
            }
            _ => None,
        });
        dense.chain(quantile).collect()
    }

    /// Checks that a file with these columns can be read. `partitions` are constants given by the path.
    pub fn check(&self, file: &str, fields: &arrow::datatypes::Schema, partitions: &[String]) -> Result<()> {
        for column in &self.columns {
            let Ok(field) = fields.field_with_name(&column.name) else {
                if self.nulls_for_missing || partitions.contains(&column.name) {
                    continue;
                }
                return Err(missing_column(file, column, fields, partitions));
            };
            if fields.fields().iter().filter(|field| *field.name() == column.name).count() > 1 {
                return Err(Error::data(format!("two columns are named `{}`", column.name))
                    .at("file", file)
                    .at("column", &column.name)
                    .fix("write the file again with one of them under another name"));
            }
            let kind = field.data_type();
            if let Some((accepts, key)) = column.uses.iter().find(|(accepts, _)| !accepts.accepts(kind)) {
                return Err(Error::data(format!(
                    "column `{}` has type {}; {key} needs {}",
                    column.name,
                    short_type(kind),
                    accepts.describe()
                ))
                .at("file", file)
                .at("column", &column.name)
                .fix(accepts.remedy(kind)));
            }
        }
        Ok(())
    }

    /// The index of a column, added on its first use.
    fn column(&mut self, name: &str, accepts: Accepts, key: String) -> usize {
        let index = self.columns.iter().position(|column| column.name == name).unwrap_or_else(|| {
            self.columns.push(Column { name: name.to_string(), uses: Vec::new() });
            self.columns.len() - 1
        });
        self.columns[index].uses.push((accepts, key));
        index
    }

    fn add_feature(&mut self, index: usize, feature: &Feature) -> Result<()> {
        let key = format!("features[{index}] `{}`", feature.name);
        if feature.max_len == Some(0) {
            return Err(Error::job("`max_len` must be at least 1").at("key", format!("{key}.max_len")));
        }
        let (max_len, source) = match feature.kind {
            FeatureKind::Categorical => {
                let column = self.column(feature.column(), Accepts::IdOrList, key);
                (feature.max_len, IdSource::Ids { column, last: false })
            }
            FeatureKind::Sequence => {
                let column = self.column(feature.column(), Accepts::IdList, key);
                (feature.max_len(), IdSource::Ids { column, last: true })
            }
            FeatureKind::Cross => {
                if feature.columns.len() < 2 {
                    return Err(Error::job("a cross needs at least two columns")
                        .at("key", format!("{key}.columns"))
                        .fix("list them, as in `columns: [gender, age_group]`"));
                }
                let columns = feature.columns.iter().map(|name| self.column(name, Accepts::Id, key.clone())).collect();
                (Some(1), IdSource::Cross { columns })
            }
            FeatureKind::Numeric => match feature.transform() {
                Transform::Quantile => {
                    let buckets = feature.buckets();
                    if buckets < 2 {
                        return Err(Error::job("`buckets` must be at least 2").at("key", format!("{key}.buckets")));
                    }
                    let column = self.column(feature.column(), Accepts::Number, key);
                    (Some(1), IdSource::Quantile { column, buckets })
                }
                transform => {
                    let column = self.column(feature.column(), Accepts::Number, key);
                    self.add_dense(index, feature, column, 1, Some(transform));
                    return Ok(());
                }
            },
            FeatureKind::Vector => {
                let Some(length) = feature.length.filter(|&length| length > 0) else {
                    return Err(Error::job("a vector needs its length")
                        .at("key", format!("{key}.length"))
                        .fix("give the number of floats, as in `length: 64`"));
                };
                let column = self.column(feature.column(), Accepts::Vector, key);
                self.add_dense(index, feature, column, length, None);
                return Ok(());
            }
        };
        let (name, table) = (feature.name.clone(), feature.table().to_string());
        self.id_features.push(IdFeature { name, table, feature: index, max_len, source });
        Ok(())
    }

    fn add_dense(
        &mut self,
        index: usize,
        feature: &Feature,
        column: usize,
        width: usize,
        transform: Option<Transform>,
    ) {
        let (name, start) = (feature.name.clone(), self.dense_width);
        self.dense_features.push(DenseFeature { name, feature: index, column, start, width, transform });
        self.dense_width += width;
    }

    fn add_task(&mut self, index: usize, task: &Task, purpose: Purpose) -> Result<()> {
        let key = |part: &str| format!("tasks[{index}] `{}`.{part}", task.name);
        let classes = match (task.kind, task.classes) {
            (TaskKind::Multiclass, Some(classes)) if classes >= 2 => classes,
            (TaskKind::Multiclass, _) => {
                return Err(Error::job("a multiclass task needs at least two classes")
                    .at("key", key("classes"))
                    .fix("labels are integers from 0; give their number, as in `classes: 5`"));
            }
            _ => 1,
        };
        let mut columns = TaskColumns {
            name: task.name.clone(),
            kind: task.kind,
            classes,
            label: None,
            positive: task.positive.iter().map(label_id).collect(),
            mask: None,
            group: None,
            pair: task.pair.as_ref().map(|pair| self.pair(task, pair, key("pair"))).transpose()?,
            ranked_at: task.ranked_at().to_vec(),
        };
        if purpose != Purpose::Predict {
            let accepts = if task.positive.is_empty() { Accepts::Label } else { Accepts::Id };
            columns.label = task.label.as_ref().map(|name| self.column(name, accepts, key("label")));
            columns.mask = task.where_column.as_ref().map(|name| self.column(name, Accepts::Number, key("where")));
        }
        if let (Some(name), Purpose::Evaluate) = (&task.gauc, purpose) {
            columns.group = Some(self.group(name, key("gauc")));
        }
        self.tasks.push(columns);
        Ok(())
    }

    fn pair(&mut self, task: &Task, [left, right]: &[String; 2], key: String) -> Result<PairColumns> {
        let index = |name: &String| {
            let found = self.id_features.iter().position(|feature| feature.name == *name);
            found.ok_or_else(|| Error::job(format!("`{name}` is no feature with ids")).at("key", &key))
        };
        let (left, right) = (index(left)?, index(right)?);
        if let IdSource::Ids { column, .. } = self.id_features[left].source {
            self.columns[column].uses.push((Accepts::Id, key));
        }
        let negatives = (task.kind == TaskKind::Bpr).then(|| task.negatives.unwrap_or_default());
        Ok(PairColumns { left, right, negatives })
    }

    fn group(&mut self, name: &str, key: String) -> usize {
        let column = self.column(name, Accepts::Id, key);
        self.group_columns.iter().position(|group| group == name).unwrap_or_else(|| {
            self.group_columns.push(name.to_string());
            self.groups.push(column);
            self.groups.len() - 1
        })
    }
}

/// The id of a value, as in a column of ids.
fn label_id(value: &LabelValue) -> u64 {
    match value {
        LabelValue::Text(text) => string_id(text),
        LabelValue::Number(number) => *number as u64,
    }
}

fn unique<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::job(format!("`{name}` is listed twice"))
                .at("key", key)
                .fix("give each entry its own `name`; a feature can read any column with `column:`"));
        }
    }
    Ok(())
}

fn missing_column(file: &str, column: &Column, fields: &arrow::datatypes::Schema, partitions: &[String]) -> Error {
    let names = fields.fields().iter().map(|field| field.name()).chain(partitions);
    let distance = |name: &&String| strsim::damerau_levenshtein(name, &column.name);
    let nearest = names.min_by_key(distance).map(|name| format!("; the nearest it has is `{name}`"));
    let key = column.uses.first().map_or("the job", |(_, key)| key.as_str());
    Error::data(format!("no column `{}`{}", column.name, nearest.unwrap_or_default()))
        .at("file", file)
        .at("column", &column.name)
        .at("needed by", key)
        .fix("correct the name in the job, or write the column into every file")
}

#[cfg(test)]
mod tests;
