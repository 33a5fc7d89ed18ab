//! Matrix factorisation (Koren, Bell & Volinsky 2009): the logit of a pair is the inner product of its two
//! embeddings, and there are no dense parameters.
//!
//! In training a `bpr` task has a logit for each drawn id, ⟨e_left, e_right⟩ − ⟨e_left, e_drawn⟩ (Rendle et al., UAI
//! 2009); otherwise every task has the score of its pair.

use super::{Input, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{Context, ParamStore, Sides, pair_margin, pair_score};
use serde::{Deserialize, Serialize};

/// `{kind: mf}` has no options: dimension, first values, learning rate and L2 are those of the tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {}

/// See the module.
struct MatrixFactorisation {
    pairs: Vec<Pair>,
}

/// One task.
struct Pair {
    sides: Sides,
    /// The sequence of drawn embeddings.
    drawn: Option<usize>,
}

/// Builds the model, which has no parameters.
pub fn build(component: &mut Component, spec: &InputSpec, _: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    if spec.pairs.len() != spec.tasks.len() || spec.pairs.is_empty() {
        return Err(Error::job("`mf` learns relations, and the tasks are none")
            .at("key", "model.kind")
            .fix("give every task a `pair` of two id features, as in `{name: like, kind: bpr, pair: [user, item]}`"));
    }
    let pair = |pair: &super::PairSpec| {
        let (left, right) = (&spec.fields[pair.left], &spec.fields[pair.right]);
        if left.width != right.width {
            return Err(Error::internal(format!("`{}` and `{}` differ in width", left.name, right.name)));
        }
        let sides = Sides { left: left.start, right: right.start, width: left.width };
        Ok(Pair { sides, drawn: pair.drawn })
    };
    Ok(Box::new(MatrixFactorisation { pairs: spec.pairs.iter().map(pair).collect::<Result<_>>()? }))
}

impl Model for MatrixFactorisation {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let logits = |pair: &Pair| match pair.drawn.filter(|_| context.train) {
            Some(drawn) => pair_margin(&input.pooled, &input.sequences[drawn].values, pair.sides, context),
            None => pair_score(&input.pooled, pair.sides, context),
        };
        let logits = self.pairs.iter().map(logits).collect::<Result<_>>()?;
        Ok(Output::new(logits, vec![input.pooled.clone()]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Field, PairSpec, Sequence, SequenceSpec};
    use super::*;
    use crate::nn::testing::{assert_close, context, numbers};
    use candle_core::{DType, Device, Tensor};

    fn spec() -> InputSpec {
        let field = |name: &str, start| Field { name: name.to_string(), start, width: 2 };
        let sequence = SequenceSpec { name: "drawn".to_string(), max_len: 2, dim: 2, ..SequenceSpec::default() };
        InputSpec {
            fields: vec![field("user", 0), field("item", 2), field("item", 4), field("genre", 6)],
            sequences: vec![sequence],
            outputs: vec![2, 1],
            tasks: vec!["like".to_string(), "genre".to_string()],
            pairs: vec![PairSpec { left: 0, right: 1, drawn: Some(0) }, PairSpec { left: 2, right: 3, drawn: None }],
            ..InputSpec::default()
        }
    }

    #[test]
    fn training_compares_with_what_was_drawn_and_the_rest_scores() {
        let mut store = ParamStore::new(1);
        let model = build(&mut Component::named("mf"), &spec(), &mut store).unwrap();
        assert!(store.vars().is_empty());
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        let input = Input {
            pooled: tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &[1, 8]),
            sequences: vec![Sequence {
                values: tensor(&[1.0, 0.0, 0.0, 1.0], &[1, 2, 2]),
                mask: Tensor::ones((1, 2), DType::F32, &Device::Cpu).unwrap(),
            }],
            dense: tensor(&[], &[1, 0]),
            scenarios: [].into(),
            repeats: [].into(),
            classes: [].into(),
        };
        for (train, like) in [(true, vec![11.0 - 1.0, 11.0 - 2.0]), (false, vec![11.0])] {
            let Output { logits, .. } = model.forward(&input, &context(train, 1)).unwrap();
            assert_close(&numbers(&logits[0]), &like, 1e-6, "like");
            assert_close(&numbers(&logits[1]), &[83.0], 1e-6, "genre");
        }
    }

    #[test]
    fn tasks_without_pairs_and_options_are_refused() {
        let error = |component: &str, spec: &InputSpec| {
            let mut component = serde_yaml::from_str(component).unwrap();
            build(&mut component, spec, &mut ParamStore::new(1)).err().unwrap().to_string()
        };
        assert!(error("{kind: mf}", &InputSpec { pairs: Vec::new(), ..spec() }).contains("give every task a `pair`"));
        assert!(error("{kind: mf, tower: [4]}", &spec()).contains("unknown key `tower`"));
    }
}
