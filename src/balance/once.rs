//! What a method does with gradients that are given: for learning and debugging.

use super::{Balance, Needs, Representation, Rows, Signal, Slices, gram};
use crate::error::{Error, Result};

/// Gradients of K tasks.
#[derive(Debug, Clone)]
pub struct Given {
    /// K × K Gram matrix, row-major.
    pub gram: Vec<f64>,
    /// The gradients themselves, one after the other, if they are known.
    pub gradients: Option<Vec<f32>>,
    /// Loss of each task.
    pub losses: Vec<f64>,
}

/// What a method makes of them at its first step.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Weight of each task.
    pub weights: Vec<f64>,
    /// Norm of the update direction.
    pub update_norm: f64,
    /// Cosine of the update direction with each task's gradient: negative where the update raises the task's loss.
    pub cosines: Vec<f64>,
}

impl Given {
    fn tasks(&self) -> usize {
        self.losses.len()
    }

    fn signal<'a>(&'a self, gram: &'a [f64], present: &'a [bool], seed: u64) -> Signal<'a> {
        Signal { losses: &self.losses, present, gram, step: 0, steps_per_epoch: 1, total_steps: 1, seed }
    }

    /// Every part of a batch has the same gradients here.
    fn gram_of_parts(&self, parts: usize) -> Vec<f64> {
        let (tasks, side) = (self.tasks(), parts * self.tasks());
        (0..side * side).map(|i| self.gram[(i / side % tasks) * tasks + i % side % tasks]).collect()
    }

    fn of_weights(&self, weights: Vec<f64>) -> Outcome {
        let tasks = self.tasks();
        let update_norm = gram::quadratic(&self.gram, &weights).max(0.0).sqrt();
        let along = |k: usize| (0..tasks).map(|l| self.gram[k * tasks + l] * weights[l]).sum();
        let cosines = self.cosines((0..tasks).map(along), update_norm);
        Outcome { weights, update_norm, cosines }
    }

    fn of_direction(&self, weights: Vec<f64>, direction: &[f32], gradients: &[f32]) -> Outcome {
        let update_norm = gram::dot(direction, direction).sqrt();
        let along = gradients.chunks_exact(direction.len().max(1)).map(|gradient| gram::dot(gradient, direction));
        let cosines = self.cosines(along, update_norm);
        Outcome { weights, update_norm, cosines }
    }

    /// Cosines from the products of the update with each gradient; 0 where one of them is zero.
    fn cosines(&self, along: impl Iterator<Item = f64>, update_norm: f64) -> Vec<f64> {
        let norms = gram::norms(&self.gram, self.tasks());
        let cosine = |(along, norm): (f64, f64)| {
            if norm > 0.0 && update_norm > 0.0 { (along / norm / update_norm).clamp(-1.0, 1.0) } else { 0.0 }
        };
        along.zip(norms).map(cosine).collect()
    }
}

/// The first step of a fresh method.
///
/// # Errors
/// Numbers that are not finite, or a method that needs the gradients where only their Gram matrix is given.
pub fn once(balance: &mut Balance, given: &Given, seed: u64) -> Result<Outcome> {
    let (method, present) = (&mut balance.method, vec![true; given.tasks()]);
    if method.needs() <= Needs::Gram {
        let parts = method.parts();
        let gram = given.gram_of_parts(parts);
        let weights = method.weights(&given.signal(&gram, &present, seed))?;
        let over_parts = (0..given.tasks()).map(|task| weights.iter().skip(task).step_by(given.tasks()).sum());
        return Ok(given.of_weights(over_parts.collect()));
    }
    let Some(gradients) = &given.gradients else {
        return Err(Error::job("this method needs the gradients themselves, and only their Gram matrix is given")
            .fix("give \"gradients\", or choose another method"));
    };
    let signal = given.signal(&given.gram, &present, seed);
    let len = gradients.len() / given.tasks().max(1);
    if let Some(method) = method.on_slices() {
        let mut kept = vec![vec![0.0; len]; method.slots().len()];
        let mut slots: Vec<&mut [f32]> = kept.iter_mut().map(Vec::as_mut_slice).collect();
        let mut direction = vec![0.0; len];
        let slices = Slices { gradients, tasks: given.tasks(), tensors: &[(0, 0..len)], layers: &[0] };
        let weights = method.direction(&signal, &slices, &mut slots, &mut direction, &|_| Ok(()))?;
        return Ok(given.of_direction(weights, &direction, gradients));
    }
    if let Some(method) = method.on_rows() {
        let mut values = gradients.clone();
        let weights = method.combine(
            &signal,
            &mut [Rows { dim: len, values: &mut values, left_alone: &mut Vec::new() }],
            &|_| Ok(()),
        )?;
        return Ok(given.of_direction(weights, &values, gradients));
    }
    let weights = method.weights(&signal)?;
    let Some(method) = method.on_representation() else {
        return Err(Error::internal(format!("{method:?} says that it needs what it cannot use")));
    };
    let rows: Vec<&[f32]> = gradients.chunks_exact(len.max(1)).collect();
    let values = vec![1.0; len];
    let representation = Representation { values: &values, gradients: &rows, width: len, slots: &[0], tensor: 0 };
    let mut direction = vec![0.0; len];
    method.combine(&signal, &representation, &mut direction);
    Ok(given.of_direction(weights, &direction, gradients))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::kinds;
    use crate::balance::testing::{assert_close, gram_of, try_method};

    fn given(rows: &[Vec<f64>]) -> Given {
        let gradients = rows.iter().flatten().map(|&x| x as f32).collect();
        Given { gram: gram_of(rows), gradients: Some(gradients), losses: vec![1.0; rows.len()] }
    }

    fn outcome(job: &str, given: &Given) -> Result<Outcome> {
        once(&mut try_method(job, given.losses.len()).unwrap(), given, 1)
    }

    #[test]
    fn every_method_has_an_answer_to_given_gradients() {
        let given = given(&[vec![1.0, 0.5], vec![-0.5, 1.0]]);
        for kind in kinds() {
            let outcome = outcome(&format!("{{kind: {kind}}}"), &given).unwrap();
            assert_eq!((outcome.weights.len(), outcome.cosines.len()), (2, 2), "{kind}");
            assert!(outcome.update_norm > 0.0 && outcome.cosines.iter().all(|c| c.abs() <= 1.0), "{kind}: {outcome:?}");
        }
    }

    #[test]
    fn norms_and_cosines_are_those_of_the_update() {
        // (1, 0) and (−1, 1): PCGrad's weights (2, 1.5) give (½, 1.5).
        let got = outcome("{kind: pcgrad}", &given(&[vec![1.0, 0.0], vec![-1.0, 1.0]])).unwrap();
        assert_close(&got.weights, &[2.0, 1.5], 1e-12);
        let norm = 2.5f64.sqrt();
        assert_close(&[got.update_norm], &[norm], 1e-12);
        assert_close(&got.cosines, &[0.5 / norm, 1.0 / norm / 2f64.sqrt()], 1e-12);
        // The same from slices: DB-MTL gives both the larger norm.
        let got = outcome("{kind: db_mtl}", &given(&[vec![3.0, 0.0], vec![0.0, 4.0]])).unwrap();
        assert_close(&got.cosines, &[0.5f64.sqrt(); 2], 1e-6);
    }

    #[test]
    fn a_gram_matrix_is_enough_for_methods_of_it_only() {
        let given = Given { gradients: None, ..given(&[vec![1.0, 0.0], vec![0.0, 2.0]]) };
        assert_close(&outcome("{kind: mgda}", &given).unwrap().weights, &[0.8, 0.2], 1e-12);
        assert!(outcome("{kind: moco}", &given).unwrap_err().to_string().contains("gradients themselves"));
    }
}
