//! Gradient vaccine group by group: a Gram matrix, and the averages ρ, for each layer or each tensor.
//!
//! The embedding rows, whose gradients it does not see, go along the weights that the whole shared gradients give, with
//! averages of their own.

use super::{GradVac, Group};
use crate::balance::memory::fit;
use crate::balance::slices::{add_scaled, alone};
use crate::balance::{Needs, OnSlices, Signal, Slices, Sum};
use crate::error::Result;

impl Group {
    /// The number of each shared tensor's group.
    fn numbers(self, slices: &Slices) -> Vec<usize> {
        match self {
            Self::Model => vec![0; slices.layers.len()],
            Self::Layer => slices.layers.to_vec(),
            Self::Matrix => (0..slices.layers.len()).collect(),
        }
    }
}

impl OnSlices for GradVac {
    fn direction(
        &mut self,
        signal: &Signal,
        slices: &Slices,
        _: &mut [&mut [f32]],
        direction: &mut [f32],
        sum: Sum,
    ) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let block = self.tasks * self.tasks;
        let groups = self.options.group.numbers(slices);
        let grams = slices.grams(&groups, sum)?;
        fit(&mut self.targets, grams.len() + block)?;
        if let Some(weights) = alone(signal, slices, direction) {
            return Ok(weights);
        }
        let (of_groups, of_whole) = self.targets.split_at_mut(grams.len());
        let each = grams.chunks_exact(block).zip(of_groups.chunks_exact_mut(block));
        let weights: Vec<Vec<f64>> = each.map(|(gram, targets)| self.options.weights(signal, gram, targets)).collect();
        for (tensor, range) in slices.tensors {
            for task in signal.present() {
                let weight = weights[groups[*tensor]][task];
                add_scaled(&mut direction[range.clone()], weight, &slices.of(task)[range.clone()]);
            }
        }
        Ok(self.options.weights(signal, signal.gram, of_whole))
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, gram_of, method, of_gram, sliced, try_method};

    /// Gradients of three tasks by two tensors of one number each, step by step.
    fn steps() -> Vec<Vec<Vec<f64>>> {
        vec![
            vec![vec![1.0, 0.5], vec![2.0, -1.0], vec![-1.0, 3.0]],
            vec![vec![-1.0, 0.2], vec![1.5, 1.0], vec![0.5, -2.0]],
            vec![vec![0.3, 1.0], vec![0.7, -0.4], vec![-2.0, -1.0]],
        ]
    }

    #[test]
    fn each_tensor_is_vaccinated_as_if_it_were_the_model() {
        let mut grouped = method("{kind: gradvac, group: matrix}", 3);
        // `sliced` calls every coordinate a tensor, and a layer, of its own.
        let mut alone = [0, 1, 2].map(|_| method("{kind: gradvac}", 3));
        for rows in steps() {
            let (direction, weights) = sliced(grouped.as_mut(), &rows, &[1.0; 3], &mut Vec::new(), &[true; 3]);
            for (tensor, alone) in alone.iter_mut().take(2).enumerate() {
                let of: Vec<Vec<f64>> = rows.iter().map(|row| vec![row[tensor]]).collect();
                let w = alone.weights(&of_gram(&gram_of(&of), &[1.0; 3], &[true; 3])).unwrap();
                let want: f64 = w.iter().zip(&of).map(|(w, g)| w * g[0]).sum();
                assert_close(&direction[tensor..tensor + 1], &[want], 1e-5);
            }
            let whole = alone[2].weights(&of_gram(&gram_of(&rows), &[1.0; 3], &[true; 3])).unwrap();
            assert_close(&weights, &whole, 1e-12);
        }
        let states = alone.map(|method| method.state()).concat();
        assert_close(&grouped.state(), &states, 1e-12);
    }

    #[test]
    fn averages_by_group_are_restored_and_fit_one_model() {
        let run = |method: &mut dyn crate::balance::Balancer, rows: &[Vec<f64>]| {
            sliced(method, rows, &[1.0; 3], &mut Vec::new(), &[true; 3]).0
        };
        let steps = steps();
        let mut straight = method("{kind: gradvac, group: layer}", 3);
        run(straight.as_mut(), &steps[0]);
        let mut resumed = method("{kind: gradvac, group: layer}", 3);
        resumed.restore(&straight.state()).unwrap();
        for rows in &steps[1..] {
            assert_eq!(run(straight.as_mut(), rows), run(resumed.as_mut(), rows));
        }
        assert!(resumed.restore(&[0.0; 10]).is_err(), "no multiple of K × K");
        let mut of_another = method("{kind: gradvac, group: layer}", 3);
        of_another.restore(&[0.0; 9]).unwrap();
        let rows = &steps[0];
        let (gram, gradients) = (gram_of(rows), rows.concat().iter().map(|&x| x as f32).collect::<Vec<_>>());
        let slices = crate::balance::Slices { gradients: &gradients, tasks: 3, tensors: &[(0, 0..2)], layers: &[0] };
        let signal = of_gram(&gram, &[1.0; 3], &[true; 3]);
        let method = of_another.on_slices().unwrap();
        let error = method.direction(&signal, &slices, &mut [], &mut [0.0; 2], &|_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("`model:`"), "{error}");
    }

    #[test]
    fn groups_are_of_shared_parameters_only() {
        let error = try_method("{kind: gradvac, group: layer, scope: representation}", 2).unwrap_err();
        assert!(error.to_string().contains("use shared"), "{error}");
        assert!(try_method("{kind: gradvac, group: tensor}", 2).is_err());
    }
}
