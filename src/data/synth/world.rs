//! The true model: from a row's number to its columns, its true logits and its labels.

use super::columns::Column;
use super::correlation;
use super::effects::{self, Use};
use super::options::{Checked, Labels};
use crate::error::{Error, Result};
use crate::random;
use rand::Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// Rows of the calibration sample: enough for an error of half a percent in rates and correlations.
const SAMPLE_ROWS: usize = 32_768;
/// Share of the linear effects' variance that numeric columns carry; ids carry the rest.
const NUMERIC_SHARE: f64 = 0.3;

/// The true model of a log.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    k: usize,
    nested: bool,
    history: usize,
    history_column: Option<usize>,
    columns: Vec<Column>,
    /// Standard deviation of the effect of an id of each column.
    scales: Vec<f64>,
    /// K effects of each numeric column: numeric × K.
    numeric_effects: Vec<f64>,
    /// Mean and spread of each numeric column in the log: what standardizing has to undo.
    units: Vec<(f64, f64)>,
    /// Standard deviation of the slope of `n0` by id of `c0`; 0 for none.
    slope: f64,
    signal: f64,
    /// A: K × K.
    mixing: Vec<f64>,
    /// μ: K.
    center: Vec<f64>,
    /// b: K.
    intercepts: Vec<f64>,
}

/// One row: reused from draw to draw, so that drawing does not allocate.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// z_j: the numeric columns before they get their mean and spread.
    pub numeric: Vec<f32>,
    /// Frequency rank of the id in each id column.
    pub ranks: Vec<u64>,
    /// Ranks of the history, oldest first.
    pub history: Vec<u64>,
    /// t_k: true logit of each label, for nested labels given that the label before is 1.
    pub logits: Vec<f64>,
    /// Drawn labels.
    pub labels: Vec<u8>,
    source: Vec<f64>,
}

impl World {
    /// Draws the effects and sets angle, signal and base rates on a sample of rows.
    ///
    /// # Errors
    /// Columns whose effects span fewer directions than there are tasks.
    pub fn new(checked: &Checked) -> Result<Self> {
        let (options, k) = (checked.options(), checked.tasks());
        let mut world = Self {
            seed: options.seed,
            k,
            nested: options.labels == Labels::Nested,
            history: options.history,
            history_column: checked.history_column(),
            columns: checked.columns.clone(),
            scales: id_scales(checked),
            numeric_effects: numeric_effects(options.seed, options.numeric, k),
            units: (0..options.numeric as u64).map(|j| unit_of(options.seed, j)).collect(),
            slope: (options.interaction / (1.0 - options.interaction)).sqrt(),
            signal: options.signal,
            mixing: correlation::equal(k, 0.0),
            center: vec![0.0; k],
            intercepts: vec![0.0; k],
        };
        let sources = world.sample_sources();
        world.set_angle(&sources, options.angle_degrees)?;
        world.set_rates(&sources, &options.rates);
        Ok(world)
    }

    /// The id columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Mean and spread of each numeric column: the log holds mean + spread · z.
    pub fn units(&self) -> &[(f64, f64)] {
        &self.units
    }

    /// P(label k = 1 | row) for each task, from the logits: what a model of all rows should predict.
    pub fn probabilities<'a>(&'a self, logits: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        let mut reached = 1.0;
        logits.iter().map(move |&t| {
            let p = sigmoid(t);
            if self.nested {
                reached *= p;
                reached
            } else {
                p
            }
        })
    }

    /// Draws row `index` of the log.
    pub fn draw(&self, index: u64, row: &mut Row) {
        let mut rng = random::stream(self.seed, &[Use::Row as u64, index]);
        self.draw_columns(&mut rng, row);
        self.add_sources(row);
        row.logits.clear();
        row.logits.resize(self.k, 0.0);
        self.logits_of(&row.source, &mut row.logits);
        row.labels.clear();
        let mut reached = true;
        for &logit in &row.logits {
            let label = (reached || !self.nested) & (rng.random::<f64>() < sigmoid(logit));
            row.labels.push(u8::from(label));
            reached = label;
        }
    }

    fn draw_columns(&self, rng: &mut impl Rng, row: &mut Row) {
        row.numeric.clear();
        row.numeric.extend((0..self.units.len()).map(|_| rng.sample::<f32, _>(StandardNormal)));
        row.ranks.clear();
        row.ranks.extend(self.columns.iter().map(|c| c.draw(rng)));
        row.history.clear();
        if let Some(column) = self.history_column {
            let length = rng.random_range(0..=self.history);
            row.history.extend((0..length).map(|_| self.columns[column].draw(rng)));
        }
    }

    /// g(x): the sum of the K-vectors of all sources.
    fn add_sources(&self, row: &mut Row) {
        row.source.clear();
        row.source.resize(self.k, 0.0);
        let g = &mut row.source;
        for (z, a) in row.numeric.iter().zip(self.numeric_effects.chunks_exact(self.k)) {
            g.iter_mut().zip(a).for_each(|(g, a)| *g += f64::from(*z) * a);
        }
        for ((column, scale), &rank) in self.columns.iter().zip(&self.scales).zip(&row.ranks) {
            effects::add(g, *scale, self.seed, Use::Id, column.key, rank);
        }
        if let (Some(column), false) = (self.history_column, row.history.is_empty()) {
            // A mean of m effects has 1/m of the variance of one: the longest √m keeps tastes visible.
            let scale = self.scales[column] * (self.history as f64 / 2.0).sqrt() / row.history.len() as f64;
            for &rank in &row.history {
                effects::add(g, scale, self.seed, Use::Id, self.columns[column].key, rank);
            }
        }
        if self.slope > 0.0 {
            let slope = self.slope * f64::from(row.numeric[0]);
            effects::add(g, slope, self.seed, Use::Slope, self.columns[0].key, row.ranks[0]);
        }
    }

    /// t = b + signal · A (g − μ).
    fn logits_of(&self, source: &[f64], logits: &mut [f64]) {
        for (i, logit) in logits.iter_mut().enumerate() {
            let mixing = &self.mixing[i * self.k..(i + 1) * self.k];
            let effect: f64 = mixing.iter().zip(source.iter().zip(&self.center)).map(|(a, (g, m))| a * (g - m)).sum();
            *logit = self.intercepts[i] + self.signal * effect;
        }
    }

    /// g of the calibration rows, which are not rows of the log: SAMPLE_ROWS × K.
    fn sample_sources(&self) -> Vec<f64> {
        let one = |index: u64| {
            let mut row = Row::default();
            self.draw_columns(&mut random::stream(self.seed, &[Use::Sample as u64, index]), &mut row);
            self.add_sources(&mut row);
            row.source
        };
        let rows: Vec<Vec<f64>> = (0..SAMPLE_ROWS as u64).into_par_iter().map(one).collect();
        rows.concat()
    }

    /// Whitens the sample's sources and gives them the asked correlation.
    fn set_angle(&mut self, sources: &[f64], angle_degrees: f64) -> Result<()> {
        let (mean, covariance) = correlation::moments(sources, self.k);
        let whitening = correlation::invert_lower(&correlation::cholesky(&covariance, self.k), self.k)?;
        let wanted = correlation::equal(self.k, correlation::cosine(angle_degrees));
        self.mixing = correlation::product(&correlation::cholesky(&wanted, self.k), &whitening, self.k);
        self.center = mean;
        if self.mixing.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(Error::internal("effects are not finite")) }
    }

    /// Solves each intercept so that the sample has the base rate, among the rows that reach the label.
    fn set_rates(&mut self, sources: &[f64], rates: &[f64]) {
        let mut effects = sources.to_vec();
        for (source, effect) in sources.chunks_exact(self.k).zip(effects.chunks_exact_mut(self.k)) {
            self.logits_of(source, effect);
        }
        let mut reach = vec![1.0; SAMPLE_ROWS];
        for (i, &rate) in rates.iter().enumerate() {
            let column: Vec<f64> = effects.iter().skip(i).step_by(self.k).copied().collect();
            self.intercepts[i] = solve_intercept(&column, &reach, rate);
            if self.nested {
                reach.iter_mut().zip(&column).for_each(|(r, t)| *r *= sigmoid(self.intercepts[i] + t));
            }
        }
    }
}

/// 1 / (1 + e^−t).
pub fn sigmoid(t: f64) -> f64 {
    1.0 / (1.0 + (-t).exp())
}

/// The b with Σ w σ(b + t) / Σ w = rate, by bisection: the left side grows with b from 0 to 1.
fn solve_intercept(logits: &[f64], weights: &[f64], rate: f64) -> f64 {
    let total: f64 = weights.iter().sum();
    let (mut low, mut high) = (-200.0, 200.0);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        let mean = logits.iter().zip(weights).map(|(t, w)| w * sigmoid(middle + t)).sum::<f64>() / total;
        if mean < rate {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The variance of the linear effects is 1: [`NUMERIC_SHARE`] of it numeric, the rest by [`Column::share`].
fn id_scales(checked: &Checked) -> Vec<f64> {
    let total: f64 = checked.columns.iter().map(Column::share).sum();
    checked.columns.iter().map(|c| ((1.0 - NUMERIC_SHARE) * c.share() / total).sqrt()).collect()
}

fn numeric_effects(seed: u64, numeric: usize, k: usize) -> Vec<f64> {
    let scale = (NUMERIC_SHARE / numeric.max(1) as f64).sqrt();
    let mut all = vec![0.0; numeric * k];
    for (j, effect) in all.chunks_exact_mut(k).enumerate() {
        effects::add(effect, scale, seed, Use::Numeric, 0, j as u64);
    }
    all
}

/// Real columns have units: means in −10..10 and spreads over three decades.
fn unit_of(seed: u64, column: u64) -> (f64, f64) {
    let draw = |part| random::unit(seed, &[Use::Unit as u64, column, part]);
    (20.0 * draw(0) - 10.0, 10f64.powf(3.0 * draw(1) - 1.0))
}
