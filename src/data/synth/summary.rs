//! What is true of a log: `synth.json`.

use super::bayes::{self, Judged};
use super::correlation;
use super::folder::{SUMMARY, refused};
use super::job;
use super::layout::TEST;
use super::options::{Checked, Labels, Options};
use super::world::sigmoid;
use super::write::Truth;
use crate::config::job::Feature;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is true of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Rows over all splits.
    pub rows: u64,
    /// Rows of each split.
    pub splits: Splits,
    /// Seed of everything.
    pub seed: u64,
    /// Angle between the effects of any two tasks, as asked.
    pub angle_degrees: f64,
    /// K × K cosines between the tasks' effects, as asked.
    pub cosines: Vec<Vec<f64>>,
    /// K × K correlations of the true logits over the test rows: the same, as drawn.
    pub cosines_on_test: Vec<Vec<f64>>,
    /// The truth about each task.
    pub tasks: Vec<TaskTruth>,
    /// Everything that was asked, with nothing left open: the same options give the same bytes.
    pub options: Options,
    /// `features:` of a job that reads the log.
    pub suggested_features: Vec<Feature>,
}

/// Rows of each split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splits {
    /// For training.
    pub train: u64,
    /// For evaluation during training.
    pub valid: u64,
    /// For evaluation after training; `bayes_auc` is about these rows.
    pub test: u64,
}

/// The truth about one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskTruth {
    /// Name of the task and of its label column.
    pub name: String,
    /// Share of ones over all rows.
    pub positive_rate: f64,
    /// Expected AUC on the test rows of the true probability P(label = 1 | row): no model can expect more.
    pub bayes_auc: Option<f64>,
    /// Expected logloss of the true probability on the test rows, in nats.
    pub bayes_logloss: Option<f64>,
    /// AUC of the true probability against the labels that were drawn on the test rows: `bayes_auc` and the
    /// luck of this draw.
    pub drawn_auc: Option<f64>,
    /// Nested labels: the same for a model of only the rows where the label before is 1, as `where:` makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_parent: Option<GivenParent>,
}

/// The best among the rows where the label before is 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GivenParent {
    /// The label before.
    pub parent: String,
    /// Expected AUC of P(label = 1 | parent = 1, row) among those rows of the test split.
    pub bayes_auc: Option<f64>,
    /// Its expected logloss, in nats.
    pub bayes_logloss: Option<f64>,
}

impl Summary {
    /// Judges the true probabilities of the test rows.
    pub(super) fn new(checked: &Checked, truth: &Truth) -> Self {
        let (options, k) = (checked.options(), checked.tasks());
        let rows_of =
            |split| checked.files.iter().filter(|f| f.split == split).map(|f| f.rows.end - f.rows.start).sum();
        let square = |matrix: Vec<f64>| matrix.chunks_exact(k).map(<[f64]>::to_vec).collect();
        Self {
            rows: options.rows,
            splits: Splits { train: rows_of(0), valid: rows_of(1), test: rows_of(TEST) },
            seed: options.seed,
            angle_degrees: options.angle_degrees,
            cosines: square(correlation::equal(k, correlation::cosine(options.angle_degrees))),
            cosines_on_test: square(correlation::correlations(&truth.logits, k)),
            tasks: (0..k).map(|task| judge(task, options, truth)).collect(),
            options: options.clone(),
            suggested_features: job::features(checked),
        }
    }

    /// Reads the summary of the log in `folder`.
    ///
    /// # Errors
    /// A folder without `synth.json` (not a synthetic log, or one cut short), or one that is not readable.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SUMMARY);
        let text = std::fs::read_to_string(&path).map_err(|e| {
            refused("reading the truth of a synthetic log", &path, &e).fix("write the log with `tandem synth`")
        })?;
        serde_json::from_str(&text).map_err(|e| Error::data(e.to_string()).at("file", path.display()))
    }

    /// As `synth.json` has it.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::internal(e.to_string()))?;
        Ok(text + "\n")
    }
}

/// The best metrics of one task. For nested labels, `reach` is the probability that the label before is 1.
fn judge(task: usize, options: &Options, truth: &Truth) -> TaskTruth {
    let k = options.tasks.len();
    let nested = options.labels == Labels::Nested;
    let rows = || truth.logits.chunks_exact(k).zip(truth.labels.chunks_exact(k));
    let reach = |logits: &[f64]| if nested { logits[..task].iter().map(|&t| sigmoid(t)).product() } else { 1.0 };
    let probability = |logits: &[f64]| reach(logits) * sigmoid(logits[task]);
    let expected = |logits: &[f64]| {
        let p = probability(logits);
        Judged { score: p, positive: p, negative: 1.0 - p }
    };
    let drawn = |(logits, labels): (&[f64], &[u8])| {
        let y = f64::from(labels[task]);
        Judged { score: probability(logits), positive: y, negative: 1.0 - y }
    };
    let given = |logits: &[f64]| {
        let (p, q) = (sigmoid(logits[task]), reach(logits));
        Judged { score: logits[task], positive: q * p, negative: q * (1.0 - p) }
    };
    TaskTruth {
        name: options.tasks[task].clone(),
        positive_rate: truth.positives[task] as f64 / options.rows as f64,
        bayes_auc: bayes::auc(&mut rows().map(|(t, _)| expected(t)).collect::<Vec<_>>()),
        bayes_logloss: bayes::logloss(rows().map(|(t, _)| (probability(t), 1.0))),
        drawn_auc: bayes::auc(&mut rows().map(drawn).collect::<Vec<_>>()),
        given_parent: (nested && task > 0).then(|| GivenParent {
            parent: options.tasks[task - 1].clone(),
            bayes_auc: bayes::auc(&mut rows().map(|(t, _)| given(t)).collect::<Vec<_>>()),
            bayes_logloss: bayes::logloss(rows().map(|(t, _)| (sigmoid(t[task]), reach(t)))),
        }),
    }
}
