//! CR-MOGM (Zhou et al., NeurIPS 2022, algorithm 1): the weights of another method, smoothed over the steps:
//! λ_t = α·λ_{t−1} + (1 − α)·λ̂_t. Weights that follow one batch's gradients are biased; their average is less so.
//!
//! The paper lets α grow towards 1 as the learning rate falls; here, as in TorchJD, it is a number.

use super::memory::restore_exactly;
use super::{Balancer, KEY, Needs, Signal, build_method};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: crmogm}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// The method whose weights are smoothed, with its own options.
    of: Component,
    /// Share of the old weights.
    alpha: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { of: Component::named("upgrad"), alpha: 0.9 }
    }
}

#[derive(Debug)]
struct CrMogm {
    inner: Box<dyn Balancer>,
    alpha: f64,
    /// Whether each task has had a weight (1) or not (0); then the smoothed weights.
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let mut options: Options = component.options(KEY)?;
    if !(0.0..=1.0).contains(&options.alpha) {
        let what = format!("alpha is {}", options.alpha);
        return Err(Error::job(what).at("key", "balance.alpha").fix("give a number from 0 to 1"));
    }
    let inner = build_method(&mut options.of, names).map_err(|error| error.at("inside", "balance.of"))?;
    if inner.needs() > Needs::Gram || inner.parts() > 1 || inner.looks_back() {
        return Err(Error::job(format!("`{}` gives more than weights", options.of.kind))
            .at("key", "balance.of.kind")
            .fix("name a method whose weights come from the losses or the Gram matrix of whole batches"));
    }
    component.resolve(&options)?;
    Ok(Box::new(CrMogm { inner, alpha: options.alpha, state: vec![0.0; 2 * names.len()] }))
}

impl Balancer for CrMogm {
    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        let mut weights = self.inner.weights(signal)?;
        let present = signal.present();
        // A task alone has its plain gradient, which says nothing about its weight among others.
        if present.len() == 1 {
            return Ok(weights);
        }
        let (seen, smoothed) = self.state.split_at_mut(weights.len());
        for k in present {
            let old = if seen[k] == 0.0 { weights[k] } else { smoothed[k] };
            weights[k] = self.alpha * old + (1.0 - self.alpha) * weights[k];
            (seen[k], smoothed[k]) = (1.0, weights[k]);
        }
        Ok(weights)
    }

    fn state(&self) -> Vec<f64> {
        [self.state.clone(), self.inner.state()].concat()
    }

    fn restore(&mut self, state: &[f64]) -> Result<()> {
        let own = self.state.len();
        if state.len() < own {
            return restore_exactly(&mut self.state, state);
        }
        self.inner.restore(&state[own..])?;
        restore_exactly(&mut self.state, &state[..own])
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::Needs;
    use crate::balance::testing::{assert_close, gram_of, method, names, of_gram, try_method, weights_of};

    #[test]
    fn weights_are_the_moving_average_of_the_inner_methods() {
        let grams = [gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]), gram_of(&[vec![2.0, 0.0], vec![0.0, 1.0]])];
        let inner: Vec<Vec<f64>> = grams.iter().map(|gram| weights_of("{kind: mgda}", gram, 2)).collect();
        let mut smooth = method("{kind: crmogm, alpha: 0.75, of: {kind: mgda}}", 2);
        let mut of = |gram: &[f64]| smooth.weights(&of_gram(gram, &[1.0; 2], &[true; 2])).unwrap();
        assert_close(&of(&grams[0]), &inner[0], 1e-15);
        let second: Vec<f64> = inner[0].iter().zip(&inner[1]).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
        assert_close(&of(&grams[1]), &second, 1e-15);
    }

    #[test]
    fn an_absent_task_keeps_its_weight_for_later() {
        let gram = gram_of(&[vec![1.0, 0.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 0.0, 3.0]]);
        let mut smooth = method("{kind: crmogm, alpha: 1, of: {kind: mgda}}", 3);
        let mut of = |present: &[bool]| smooth.weights(&of_gram(&gram, &[1.0; 3], present)).unwrap();
        let first = of(&[true; 3]);
        assert_eq!(of(&[true, false, true])[1], 0.0);
        assert_eq!(of(&[true; 3]), first);
    }

    #[test]
    fn it_needs_what_the_inner_method_needs_and_resolves_its_options() {
        assert_eq!(method("{kind: crmogm}", 2).needs(), Needs::Gram);
        assert_eq!(method("{kind: crmogm, of: {kind: uniform}}", 2).needs(), Needs::Losses);
        let mut component = serde_yaml::from_str("{kind: crmogm, of: {kind: cagrad}}").unwrap();
        crate::balance::build(&mut component, &names(2)).unwrap();
        assert!(try_method("{kind: crmogm, of: {kind: moco}}", 2).is_err());
        assert!(serde_yaml::to_string(&component).unwrap().contains("rescale: 1"));
        for job in ["alpha: 2", "of: {kind: cagard}", "of: {kind: cagrad, c: -1}"] {
            let job = format!("{{kind: crmogm, {job}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }
}
