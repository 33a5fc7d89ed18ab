//! What a run tells, for TensorBoard.

use super::events::{Evaluation, Notice, Step};
use crate::error::Result;
use crate::metric::Curves;
use crate::observe::tensorboard::{Buckets, TensorBoard};
use serde_json::{Map, Value};

/// Pixels of an entry of the conflict matrix, on a side.
const PIXELS: usize = 32;

/// Writes the notices of a run into an event file.
pub struct Board {
    file: TensorBoard,
    /// The cosines of the last step that compared gradients.
    cosines: Vec<Vec<f64>>,
}

impl Board {
    /// Into `file`, beginning with the job.
    pub fn new(mut file: TensorBoard, job: &str, step: u64) -> Result<Self> {
        file.text("job", step, &format!("```yaml\n{job}```\n"))?;
        file.flush()?;
        Ok(Self { file, cosines: Vec::new() })
    }

    /// Takes notice.
    pub fn notice(&mut self, notice: &Notice) -> Result<()> {
        match notice {
            Notice::Step(step) => self.step(step)?,
            Notice::Eval(evaluation) => self.evaluation(evaluation)?,
            Notice::Resources(resources) => {
                let step = resources.step;
                self.file.scalar("memory/bytes", step, resources.memory_bytes as f64)?;
                for table in &resources.tables {
                    self.file.scalar(&format!("table_bytes/{}", table.name), step, table.bytes as f64)?;
                }
            }
            Notice::Start(_) | Notice::Skipped(_) | Notice::Checkpoint(_) | Notice::End(_) => {}
        }
        self.file.flush()
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let at = step.step;
        for (name, value) in
            [("samples_per_s", step.samples_per_s), ("lr_factor", step.lr_factor), ("grad_norm", step.grad_norm)]
        {
            self.file.scalar(&format!("train/{name}"), at, value)?;
        }
        let groups = [
            ("loss", &step.losses),
            ("weight", &step.weights),
            ("task_grad_norm", &step.grad_norms),
            ("table_rows", &step.table_rows),
        ];
        for (group, values) in groups {
            self.scalars(group, at, values)?;
        }
        let names: Vec<&String> = step.losses.keys().collect();
        for (k, l) in (0..step.cosines.len()).flat_map(|k| (0..k).map(move |l| (l, k))) {
            self.file.scalar(&format!("cosine/{}-{}", names[k], names[l]), at, step.cosines[k][l])?;
        }
        if !step.cosines.is_empty() {
            self.cosines.clone_from(&step.cosines);
        }
        Ok(())
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let (step, split) = (evaluation.step, evaluation.split);
        for report in &evaluation.report.tasks {
            for (name, value) in &report.values {
                if let Some(value) = value.get() {
                    self.file.scalar(&format!("{split}_{name}/{}", report.task), step, value)?;
                }
            }
        }
        for (task, curves) in &evaluation.report.curves {
            for (what, counts) in [("predictions", predictions(curves)), ("group_auc", group_aucs(curves))] {
                if !counts.buckets.is_empty() {
                    self.file.histogram(&format!("{split}_{what}/{task}"), step, &counts)?;
                }
            }
        }
        if !self.cosines.is_empty() {
            self.file.image("conflict/cosines", step, &picture(&self.cosines))?;
        }
        Ok(())
    }

    fn scalars(&mut self, group: &str, step: u64, values: &Map<String, Value>) -> Result<()> {
        for (name, value) in values {
            if let Some(value) = value.as_f64() {
                self.file.scalar(&format!("{group}/{name}"), step, value)?;
            }
        }
        Ok(())
    }
}

/// How the predictions are spread: the buckets of the calibration, around their means.
fn predictions(curves: &Curves) -> Buckets {
    let means: Vec<f64> = curves.calibration.iter().map(|bucket| bucket.predicted).collect();
    let ends = means.windows(2).map(|pair| f64::midpoint(pair[0], pair[1])).chain([1.0]);
    let buckets = ends.zip(&curves.calibration).map(|(end, bucket)| (end, bucket.rows as f64)).collect();
    Buckets { start: 0.0, buckets }
}

fn group_aucs(curves: &Curves) -> Buckets {
    let bins = curves.gauc.len();
    let end = |bin: usize| (bin + 1) as f64 / bins as f64;
    Buckets { start: 0.0, buckets: curves.gauc.iter().enumerate().map(|(bin, &n)| (end(bin), n as f64)).collect() }
}

/// The matrix as squares: red where gradients conflict, blue where they agree, white where they are unrelated.
fn picture(cosines: &[Vec<f64>]) -> Vec<Vec<[u8; 3]>> {
    let colour = |cosine: f64| {
        let faded = |full: u8| (255.0 - (255.0 - f64::from(full)) * cosine.abs().min(1.0)) as u8;
        let full: [u8; 3] = if cosine < 0.0 { [207, 63, 46] } else { [36, 86, 214] };
        full.map(faded)
    };
    let row = |row: &Vec<f64>| row.iter().flat_map(|&cosine| [colour(cosine); PIXELS]).collect::<Vec<_>>();
    cosines.iter().flat_map(|cosines| vec![row(cosines); PIXELS]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Bucket;

    #[test]
    fn conflict_is_red_and_agreement_blue() {
        let picture = picture(&[vec![1.0, -1.0], vec![0.0, 1.0]]);
        assert_eq!((picture.len(), picture[0].len()), (2 * PIXELS, 2 * PIXELS));
        assert_eq!([picture[0][0], picture[0][PIXELS], picture[PIXELS][0]], [[36, 86, 214], [207, 63, 46], [255; 3]]);
    }

    #[test]
    fn buckets_of_predictions_meet_between_their_means() {
        let bucket = |predicted, rows| Bucket { predicted, observed: 0.2, rows };
        let curves = Curves { calibration: vec![bucket(0.1, 5), bucket(0.3, 7)], ..Curves::default() };
        assert_eq!(predictions(&curves).buckets, [(0.2, 5.0), (1.0, 7.0)]);
        assert!(group_aucs(&curves).buckets.is_empty());
    }
}
