use super::evaluate::{check_description, check_description_by_scenario};
use crate::nn::activation::ALL;
use crate::nn::testing::{context, mask, random};
use crate::nn::*;
use candle_core::{DType, Device, Tensor};

#[test]
fn linear_layers_and_activations_describe_themselves() {
    for activation in ALL {
        for groups in [1, 3] {
            let mut store = ParamStore::new(1);
            let layer = Linear::grouped(store.builder(), groups, 4, 5, activation).unwrap();
            check_description(&[random(&[6, 4 * groups], 2)], &store, |t, at| layer.forward(&t[0], at));
        }
    }
}

#[test]
fn a_linear_layer_describes_itself_on_a_sequence() {
    let mut store = ParamStore::new(1);
    let layer = Linear::new(store.builder(), 4, 5, Activation::Tanh).unwrap();
    check_description(&[random(&[6, 3, 4], 2)], &store, |t, at| layer.forward(&t[0], at));
}

#[test]
fn stacks_with_every_norm_describe_themselves() {
    for norm in [NormKind::None, NormKind::Batch, NormKind::Layer] {
        let mut store = ParamStore::new(4);
        let style = Style { activation: Activation::Silu, dropout: 0.4, norm };
        let mlp = Mlp::grouped(store.builder(), 3, 5, &[4, 2], style).unwrap();
        for buffer in store.buffers() {
            let moved: Vec<f32> = buffer.get().iter().enumerate().map(|(i, v)| v + 0.1 * i as f32).collect();
            buffer.set(&moved).unwrap();
        }
        check_description(&[random(&[6, 5], 1)], &store, |t, at| mlp.forward(&t[0], at));
    }
}

#[test]
fn gates_and_mixtures_describe_themselves() {
    let store = ParamStore::new(1);
    check_description(&[random(&[6, 5], 1)], &store, |t, at| softmax(&t[0], at));
    let inputs = [random(&[6, 5], 1), random(&[6, 3 * 4], 2)];
    check_description(&inputs, &store, |t, at| mix(&t[0], &t[1], 3, 1, at));
    check_description(&[inputs[0].clone(), random(&[6, 3], 2)], &store, |t, at| mix(&t[0], &t[1], 3, 2, at));
}

#[test]
fn templates_describe_themselves() {
    let (store, parts) = (ParamStore::new(1), [1, 2, 3].map(|seed| random(&[6, 5], seed)));
    for form in [Template::Additive, Template::Multiplicative] {
        check_description(&parts, &store, |t, at| template(form, &t[0], &t[1], &t[2], at));
    }
}

#[test]
fn columns_describe_themselves() {
    let (store, inputs) = (ParamStore::new(1), [random(&[6, 5], 1), random(&[6, 5], 2)]);
    check_description(&inputs, &store, |t, at| columns(&at.graph, &t[0], 1, 3));
    check_description(&inputs, &store, |t, at| concat(&at.graph, &[t[1].clone(), t[0].clone(), t[1].clone()]));
    check_description(&inputs, &store, |t, at| add(&at.graph, &t[0], &add(&at.graph, &t[1], &t[1])?));
    check_description(&inputs, &store, |t, at| add(&at.graph, &t[0].detach(), &t[1].clone()));
    check_description(&inputs, &store, |t, at| mean(&at.graph, &[t[0].clone(), t[1].clone(), t[1].clone()]));
}

#[test]
fn products_and_generated_layers_describe_themselves() {
    let store = ParamStore::new(1);
    let x = random(&[6, 4], 1);
    check_description(&[x.clone(), random(&[6, 4], 2)], &store, |t, at| multiply(&t[0], &t[1], at));
    let (weight, bias) = (random(&[6, 4 * 3], 2), random(&[6, 3], 3));
    for activation in [Activation::None, Activation::Gelu] {
        let inputs = [x.clone(), weight.clone(), bias.clone()];
        check_description(&inputs, &store, |t, at| {
            generated_linear(&t[0], &t[1], &t[2], &Groups::Rows, activation, at)
        });
        check_description_by_scenario(std::slice::from_ref(&x), &[2, 0, 5, 1, 1, 2], &store, |t, scenarios, at| {
            generated_linear(&t[0], &weight, &bias, &Groups::Scenarios(scenarios.clone()), activation, at)
        });
    }
}

#[test]
fn rows_by_scenario_describe_themselves() {
    let (store, scenarios) = (ParamStore::new(1), [2, 0, 1, 1, 0, 2]);
    let (x, table) = (random(&[6, 4], 1), random(&[3, 4], 2));
    check_description_by_scenario(std::slice::from_ref(&x), &scenarios, &store, |t, scenarios, at| {
        add(&at.graph, &t[0], &by_scenario(&table, scenarios, at)?)
    });
    let zeros = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
    let x = Tensor::cat(&[zeros, x.narrow(0, 2, 4).unwrap()], 0).unwrap();
    check_description_by_scenario(&[x], &scenarios, &store, |t, scenarios, at| {
        or_by_scenario(&t[0], &table, scenarios, at)
    });
}

#[test]
fn what_scenarios_share_describes_itself() {
    let (mut store, scenarios) = (ParamStore::new(1), [2, 0, 3, 1, 0, 3]);
    let shared = store.builder().param("shared", &[4], Init::Normal(1.0)).unwrap();
    let own = store.builder().param("own", &[3, 4], Init::Normal(1.0)).unwrap();
    let x = [random(&[6, 4], 1)];
    let checked = |joined: &dyn Fn(&Context) -> crate::Result<Tensor>| {
        check_description_by_scenario(&x, &scenarios, &store, |t, scenarios, at| {
            add(&at.graph, &t[0], &by_scenario(&joined(at)?, scenarios, at)?)
        });
    };
    checked(&|at| join_shared(&shared, &own, Join::Factors, at));
    checked(&|at| join_shared(&shared, &own, Join::Terms, at));
    checked(&|at| with_mean_row(&own, at));
}

#[test]
fn partitioned_norm_describes_itself() {
    let (mut store, scenarios) = (ParamStore::new(1), [2, 0, 3, 1, 0, 3]);
    let norm = PartitionedNorm::new(store.builder(), 4, 3).unwrap();
    for index in 0..store.names().len() {
        let len = store.vars()[index].elem_count();
        let values: Vec<f32> = random(&[len], index as u64).to_vec1().unwrap();
        store.load(index, &values).unwrap();
    }
    let x = [random(&[6, 4], 9)];
    let check = || {
        check_description_by_scenario(&x, &scenarios, &store, |t, scenarios, at| norm.forward(&t[0], scenarios, at));
    };
    check();
    // Moments of scenarios 0 and 3 ("other") and of the whole batch; 1 and 2 have none of their own.
    for _ in 0..3 {
        norm.forward(&random(&[6, 4], 8), &[0, 3, 0, 3, 0, 1].into(), &context(true, 6)).unwrap();
    }
    check();
}

#[test]
fn pairs_and_attention_describe_themselves() {
    let store = ParamStore::new(1);
    let sides = Sides { left: 1, right: 4, width: 3 };
    check_description(&[random(&[6, 7], 1)], &store, |t, at| pair_score(&t[0], sides, at));
    let mask: Vec<f32> = (0..6 * 4).map(|i| f32::from(i >= 4 && i % 3 != 1)).collect();
    let mask = candle_core::Tensor::from_vec(mask, (6, 4), &candle_core::Device::Cpu).unwrap();
    let inputs = [random(&[6, 3], 1), random(&[6, 4, 3], 2), mask];
    check_description(&inputs, &store, |t, at| attention_pool(&t[0], &t[1], &t[2], at));
}

#[test]
fn chains_and_inner_products_describe_themselves() {
    let (store, inputs) = (ParamStore::new(1), [random(&[6, 1], 1), random(&[6, 1], 2)]);
    check_description(&inputs, &store, |t, at| joint(&t[0], &t[1], at));
    let inputs = [random(&[6, 5], 1), random(&[6, 5], 2)];
    check_description(&inputs, &store, |t, at| inner(&t[0], &t[1], 0.5, at));
}

#[test]
fn sequences_without_padding_describe_themselves() {
    let mut store = ParamStore::new(1);
    let attention = SelfAttention::new(store.builder().at("attention"), 6, 2).unwrap();
    let table = store.builder().param("positions", &[5, 6], Init::Normal(1.0)).unwrap();
    let [scale, shift] =
        ["scale", "shift"].map(|name| store.builder().param(name, &[1, 6], Init::Normal(1.0)).unwrap());
    let inputs = [random(&[8, 4, 6], 1), mask(8, 4), random(&[8, 6], 2)];
    check_description(&inputs, &store, |t, at| {
        let segments = Segments::of(&t[1])?;
        unpack(&add_positions(&pack(&t[0], &segments, at)?, &table, &segments, at)?, &segments, at)
    });
    let encoded = |t: &[candle_core::Tensor], segments: &std::sync::Arc<Segments>, at: &Context| {
        let x = pack(&t[0], segments, at)?;
        let x = add(&at.graph, &x, &attention.forward(&x, segments, at)?)?;
        layer_norm(&x, &columns(&at.graph, &scale, 0, 6)?, &shift, at)
    };
    check_description(&inputs, &store, |t, at| {
        let segments = Segments::of(&t[1])?;
        segment_mean(&encoded(t, &segments, at)?, &segments, at)
    });
    check_description(&inputs, &store, |t, at| {
        let segments = Segments::of(&t[1])?;
        segment_attention(&t[2], &encoded(t, &segments, at)?, &segments, at)
    });
}

#[test]
fn rescaled_fields_describe_themselves() {
    let inputs = [random(&[6, 5], 1), random(&[6, 3], 2)];
    let widths = [2, 1, 2].as_slice().into();
    check_description(&inputs, &ParamStore::new(1), |t, at| rescale(&t[0], &t[1], &widths, at));
}

#[test]
fn what_runs_in_training_only_is_named() {
    let (mut store, x) = (ParamStore::new(1), random(&[4, 3], 1));
    let dropout = Dropout::new(&store.builder(), 0.5);
    let at = Context { graph: Graph::trace(&[("x", &x)], &store), ..context(true, 4) };
    let error = dropout.forward(&x, &at).unwrap_err().to_string();
    assert!(error.contains("`dropout` has no description"), "{error}");
}

#[test]
fn numbers_that_were_computed_outside_of_nn_are_found() {
    let store = ParamStore::new(1);
    let trace = |seed| {
        let x = random(&[4, 3], seed);
        let at = Context { graph: Graph::trace(&[("x", &x)], &store), ..context(false, 4) };
        let doubled = (&x * 2.0).unwrap();
        let y = add(&at.graph, &x, &doubled).unwrap();
        assert!(at.graph.program(&[&x.copy().unwrap()]).is_err(), "nothing made it");
        at.graph.program(&[&y]).unwrap()
    };
    trace(1).same_as(&trace(1)).unwrap();
    let error = trace(1).same_as(&trace(2)).unwrap_err().to_string();
    assert!(error.contains("what `Add` reads"), "{error}");
}
