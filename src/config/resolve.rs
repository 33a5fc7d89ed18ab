//! Defaults that depend on other keys, and the resolved job as text.

use super::Job;
use super::job::{Data, Feature, FeatureKind, Paths, Pooling, Task, TaskKind, Transform};
use crate::error::{Error, Result};

/// Quantile buckets of a numeric feature that does not say.
const QUANTILE_BUCKETS: usize = 32;
/// Last ids of a sequence that does not say.
const SEQUENCE_MAX_LEN: usize = 50;

impl Feature {
    /// The column it reads (not for `cross`).
    pub fn column(&self) -> &str {
        self.column.as_deref().unwrap_or(&self.name)
    }

    /// All columns it reads.
    pub fn columns(&self) -> Vec<&str> {
        match self.kind {
            FeatureKind::Cross => self.columns.iter().map(String::as_str).collect(),
            _ => vec![self.column()],
        }
    }

    /// The embedding table it reads, if [`Feature::has_table`].
    pub fn table(&self) -> &str {
        self.table.as_deref().unwrap_or(&self.name)
    }

    /// Whether its values are ids of an embedding table; otherwise they are numbers.
    pub fn has_table(&self) -> bool {
        match self.kind {
            FeatureKind::Categorical | FeatureKind::Sequence | FeatureKind::Cross => true,
            FeatureKind::Numeric => self.transform() == Transform::Quantile,
            FeatureKind::Vector => false,
        }
    }

    /// The transform of a numeric feature.
    pub fn transform(&self) -> Transform {
        self.transform.unwrap_or(Transform::None)
    }

    /// The number of quantile buckets.
    pub fn buckets(&self) -> usize {
        self.buckets.unwrap_or(QUANTILE_BUCKETS)
    }

    /// How its embedding rows become one vector; a feature with one id a row has only one row to pool.
    pub fn pooling(&self) -> Pooling {
        self.pooling.unwrap_or(Pooling::Mean)
    }

    /// The most ids kept of a row; `None` keeps all.
    pub fn max_len(&self) -> Option<usize> {
        match self.kind {
            FeatureKind::Sequence => Some(self.max_len.unwrap_or(SEQUENCE_MAX_LEN)),
            _ => self.max_len,
        }
    }

    /// Writes the defaults into the keys that are left out.
    pub(super) fn fill(&mut self) {
        match self.kind {
            FeatureKind::Numeric => {
                self.transform = Some(self.transform());
                if self.has_table() {
                    self.buckets = Some(self.buckets());
                }
            }
            FeatureKind::Categorical => self.pooling = Some(self.pooling()),
            FeatureKind::Sequence => {
                self.pooling = Some(self.pooling());
                self.max_len = self.max_len();
            }
            FeatureKind::Cross | FeatureKind::Vector => {}
        }
    }
}

impl Task {
    /// Writes the defaults into the keys that are left out.
    pub(super) fn fill(&mut self) {
        if self.kind == TaskKind::Bpr {
            self.negatives.get_or_insert_default();
            self.ranking.get_or_insert_default();
        }
    }

    /// Lengths of the rankings that it is evaluated by; none for a task that is not ranked.
    pub fn ranked_at(&self) -> &[usize] {
        self.ranking.as_ref().map_or(&[], |ranking| &ranking.at)
    }
}

impl Data {
    /// The patterns of `paths`, the relative ones put behind `root`. Addresses (`s3://…`) are taken as
    /// they are, and so is `$`: the environment changes nothing.
    pub fn resolve(&self, paths: &Paths) -> Vec<String> {
        let root = self.root.as_deref().map(|root| if root == "/" { "" } else { root.trim_end_matches('/') });
        let behind_root = |pattern: &String| match root {
            Some(root) if !pattern.starts_with('/') && !pattern.contains("://") => format!("{root}/{pattern}"),
            _ => pattern.clone(),
        };
        paths.patterns().iter().map(behind_root).collect()
    }
}

impl Job {
    /// The run folder: `run_dir`, else `runs/<name>`.
    pub fn run_dir(&self) -> String {
        self.run_dir.clone().unwrap_or_else(|| format!("runs/{}", self.name))
    }
}

/// The job as YAML that [`super::load()`] reads back as the same job.
pub fn to_yaml(job: &Job) -> Result<String> {
    serde_yaml::to_string(job).map_err(|error| Error::internal(format!("the job cannot be written as YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_stand_behind_the_root() {
        for (root, path, resolved) in [
            (None, "a/*.parquet", "a/*.parquet"),
            (Some("/d"), "a/*.parquet", "/d/a/*.parquet"),
            (Some("../d/"), "a", "../d/a"),
            (Some("/"), "a", "/a"),
            (Some("/d"), "/a", "/a"),
            (Some("/d"), "s3://bucket/a", "s3://bucket/a"),
            (Some("s3://bucket/"), "a", "s3://bucket/a"),
            (Some("$HOME"), "a", "$HOME/a"),
        ] {
            let data = Data { root: root.map(str::to_string), ..Data::default() };
            assert_eq!(data.resolve(&Paths::One(path.to_string())), [resolved], "{root:?} {path}");
        }
        let many = Paths::Many(vec!["a".to_string(), "b".to_string()]);
        assert_eq!(Data { root: Some("d".to_string()), ..Data::default() }.resolve(&many), ["d/a", "d/b"]);
    }
}
