//! What is read from the files, and what each column becomes: the job's features and tasks, resolved.

use super::accepts::{Accepts, short_type};
use crate::config::Job;
use crate::config::job::{Feature, FeatureKind, Negatives, Task, TaskKind, Transform};
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
    /// Names of the distinct GAUC columns (empty unless evaluating).
    pub group_columns: Vec<String>,
    groups: Vec<usize>,
}

/// One column and what its uses accept.
#[derive(Debug, Clone)]
pub struct Column {
    /// Name in the files.
    pub name: String,
    /// Every use of it, with the job key that asks for it.
    pub uses: Vec<(Accepts, String)>,
}

/// A feature that becomes ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdFeature {
    /// Name of the feature.
    pub name: String,
    /// Embedding table.
    pub table: String,
    /// Position in the job's `features`.
    pub feature: usize,
    /// Most ids a row can have; `None` is no limit.
    pub max_len: Option<usize>,
    /// Where the ids come from.
    pub source: IdSource,
}

/// Where the ids of a feature come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdSource {
    /// A column of ids or lists of ids. `last` keeps the last `max_len` ids of a list, else the first.
    Ids {
        /// Index into [`Schema::columns`].
        column: usize,
        /// Which end of a long list is kept.
        last: bool,
    },
    /// The columns that are hashed together.
    Cross {
        /// Indices into [`Schema::columns`].
        columns: Vec<usize>,
    },
    /// The quantile bucket of a number; a null has the bucket after the last.
    Quantile {
        /// Index into [`Schema::columns`].
        column: usize,
        /// Buckets asked for.
        buckets: usize,
    },
}

/// A feature that becomes numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseFeature {
    /// Name of the feature.
    pub name: String,
    /// Position in the job's `features`.
    pub feature: usize,
    /// Index into [`Schema::columns`].
    pub column: usize,
    /// First of its numbers in a row of [`super::batch::Batch::dense`].
    pub start: usize,
    /// How many numbers it has.
    pub width: usize,
    /// The transform of a number; `None` for a vector, which is taken as it is.
    pub transform: Option<Transform>,
}

/// The columns of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskColumns {
    /// Name of the task.
    pub name: String,
    /// What is predicted.
    pub kind: TaskKind,
    /// `multiclass`: number of classes; else 1.
    pub classes: usize,
    /// Column of the label; `None` when predicting.
    pub label: Option<usize>,
    /// Column that says whether a row carries the label.
    pub mask: Option<usize>,
    /// Index into [`Schema::group_columns`].
    pub group: Option<usize>,
    /// The two sides of a relation.
    pub pair: Option<PairColumns>,
    /// Lengths of the rankings that the task is evaluated by.
    pub ranked_at: Vec<usize>,
}

/// The sides of a task that is a relation between two features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairColumns {
    /// Index into [`Schema::id_features`] of the side that has one id a row.
    pub left: usize,
    /// Index into [`Schema::id_features`] of the other, of which a row may have several ids.
    pub right: usize,
    /// What is drawn against the pair, of a `bpr` task.
    pub negatives: Option<Negatives>,
}

/// What one column of [`super::batch::Batch::ids`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdColumnUse {
    /// Index into [`Schema::id_features`].
    pub feature: usize,
    /// Its part in a pair; `None` where it is a feature as it is.
    pub side: Option<Side>,
}

/// A part of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The left-hand id.
    Left,
    /// The right-hand id; when not training all of the row.
    Right,
    /// So many ids that are drawn against the right-hand one; none when not training.
    Negatives(usize),
}

impl Schema {
    /// Resolves the features and tasks of `job`. Options that make no sense are errors that name the key.
    pub fn new(job: &Job, purpose: Purpose) -> Result<Self> {
        let mut schema = Self {
            purpose,
            columns: Vec::new(),
            id_features: Vec::new(),
            dense_features: Vec::new(),
            dense_width: 0,
            tasks: Vec::new(),
            weight: None,
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
                if partitions.contains(&column.name) {
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
            mask: None,
            group: None,
            pair: task.pair.as_ref().map(|pair| self.pair(task, pair, key("pair"))).transpose()?,
            ranked_at: task.ranked_at().to_vec(),
        };
        if purpose != Purpose::Predict {
            columns.label = task.label.as_ref().map(|name| self.column(name, Accepts::Label, key("label")));
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

/// A numeric feature as the statistics see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumericFeature<'a> {
    /// Name of the feature.
    pub name: &'a str,
    /// Index into [`Schema::columns`].
    pub column: usize,
    /// Buckets, for `transform: quantile`.
    pub buckets: Option<usize>,
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
mod tests {
    use super::super::testing::job;
    use super::*;
    use arrow::datatypes::{DataType, Field};

    const JOB: &str = "
features:
  - {name: age, kind: numeric, transform: standardize}
  - {name: user, kind: categorical}
  - {name: emb, kind: vector, length: 4}
  - {name: history, kind: sequence, table: item, max_len: 20}
  - {name: price, kind: numeric, transform: quantile, buckets: 10}
  - {name: item_user, kind: cross, columns: [item, user]}
tasks:
  - {name: click, label: click, gauc: user}
  - {name: buy, label: buy, where: click, gauc: user}
";

    #[test]
    fn features_keep_their_order_and_share_columns() {
        let schema = Schema::new(&job(JOB), Purpose::Evaluate).unwrap();
        let ids: Vec<_> = schema.id_features.iter().map(|f| (f.name.as_str(), f.table.as_str(), f.max_len)).collect();
        let expected = [
            ("user", "user", None),
            ("history", "item", Some(20)),
            ("price", "price", Some(1)),
            ("item_user", "item_user", Some(1)),
        ];
        assert_eq!(ids, expected);
        let dense: Vec<_> = schema.dense_features.iter().map(|f| (f.name.as_str(), f.start, f.width)).collect();
        assert_eq!((dense, schema.dense_width), (vec![("age", 0, 1), ("emb", 1, 4)], 5));
        let columns: Vec<_> = schema.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(columns, ["age", "user", "emb", "history", "price", "item", "click", "buy"]);
        assert_eq!(schema.group_columns, ["user"]);
        assert_eq!(schema.tasks[1].mask, schema.tasks[0].label);
        assert_eq!((schema.tasks[0].group, schema.tasks[1].group), (Some(0), Some(0)));
    }

    #[test]
    fn predicting_reads_no_labels() {
        let schema = Schema::new(&job(JOB), Purpose::Predict).unwrap();
        assert!(schema.columns.iter().all(|column| !["click", "buy"].contains(&column.name.as_str())));
        assert_eq!((schema.tasks.len(), schema.group_columns.len()), (2, 0));
        assert!(Schema::new(&job(JOB), Purpose::Train).unwrap().group_columns.is_empty());
    }

    #[test]
    fn wrong_options_name_their_key() {
        for (yaml, key) in [
            ("features: [{name: a, kind: vector}]\ntasks: []", "length"),
            ("features: [{name: a, kind: cross, columns: [b]}]\ntasks: []", "columns"),
            ("features: [{name: a, kind: sequence, max_len: 0}]\ntasks: []", "max_len"),
            ("features: [{name: a, kind: numeric, transform: quantile, buckets: 1}]\ntasks: []", "buckets"),
            ("features: [{name: a, kind: numeric}, {name: a, kind: categorical}]\ntasks: []", "twice"),
            ("features: []\ntasks: [{name: t, label: t, kind: multiclass}]", "classes"),
        ] {
            let message = Schema::new(&job(yaml), Purpose::Train).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }

    #[test]
    fn a_missing_column_names_the_nearest() {
        let schema = Schema::new(&job("features: [{name: user_id, kind: categorical}]\ntasks: []"), Purpose::Train);
        let fields = |name: &str, kind| arrow::datatypes::Schema::new(vec![Field::new(name, kind, true)]);
        let schema = schema.unwrap();
        let check = |fields, partitions: &[String]| schema.check("a.parquet", &fields, partitions);
        let message = check(fields("userid", DataType::Int64), &[]).unwrap_err().to_string();
        assert!(message.contains("`userid`") && message.contains("a.parquet"), "{message}");
        check(fields("userid", DataType::Int64), &["user_id".to_string()]).unwrap();
        check(fields("user_id", DataType::Int64), &[]).unwrap();
        let message = check(fields("user_id", DataType::Float32), &[]).unwrap_err().to_string();
        assert!(message.contains("Float32") && message.contains("integer"), "{message}");
    }
}
