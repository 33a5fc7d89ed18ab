//! Times the fused layers against the same layers in plain candle operations, and a step of an MMoE.
//!
//! ```text
//! cargo bench --bench dense
//! ```
//!
//! Prints medians in milliseconds; `RAYON_NUM_THREADS` sets the threads.

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use std::time::Instant;
use tandem::config::Component;
use tandem::model::{Field, Input, InputSpec, build};
use tandem::nn::{Activation, Context, Graph, Linear, ParamStore, Precision};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 4096;
const INPUT: usize = 429;
const TASKS: usize = 3;

/// Median milliseconds of a call.
fn time(mut call: impl FnMut()) -> f64 {
    call();
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn random(shape: (usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("a random tensor")
}

fn context(rows: usize, graph: &Graph, precision: Precision) -> Context {
    let alone = Context::alone(rows, graph.clone()).expect("a context");
    Context { train: true, seed: 1, step: 1, precision, ..alone }
}

fn plain_linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> CandleResult<Tensor> {
    x.matmul(weight)?.broadcast_add(bias)?.relu()
}

fn main() -> anyhow::Result<()> {
    tandem::observe::memory::keep();
    // SAFETY: no other thread has been started yet.
    unsafe { tandem::observe::threads::keep_candle_on_one_thread() };
    println!("{} threads, medians in ms; bf16 is {}", rayon::current_num_threads(), Precision::Bf16.unit());
    linear_layers()?;
    mmoe_step()
}

fn linear_layers() -> anyhow::Result<()> {
    println!("\nlinear + bias + relu, forward and backward      plain   fused   ratio   GFLOP/s    bf16   ratio");
    for (rows, input, output) in [(4096, 429, 1024), (4096, 256, 128), (4096, 128, 64), (512, 429, 256)] {
        let mut store = ParamStore::new(1);
        let layer = Linear::new(store.builder().at("layer"), input, output, Activation::Relu)?;
        let (x, dy) = (Var::from_tensor(&random((rows, input)))?, random((rows, output)));
        let fused = |precision| {
            time(|| {
                let graph = Graph::tape();
                let y = layer.forward(&x, &context(rows, &graph, precision)).expect("forward");
                graph.backward(&[(&y, dy.clone())]).expect("backward");
            })
        };
        let (f32_ms, bf16_ms) = (fused(Precision::F32), fused(Precision::Bf16));
        let (weight, bias) = (store.vars()[0].as_tensor(), store.vars()[1].as_tensor());
        let plain = time(|| {
            let y = plain_linear(&x, weight, bias).expect("forward");
            Graph::Candle.backward(&[(&y, dy.clone())]).expect("backward");
        });
        let (speed, name) = (6.0 * (rows * input * output) as f64 / f32_ms / 1e6, format!("{input} -> {output}"));
        println!(
            "{rows:>5} x {name:<34} {plain:>9.2} {f32_ms:>7.2} {:>7.2} {speed:>9.0} {bf16_ms:>7.2} {:>7.2}",
            plain / f32_ms,
            plain / bf16_ms
        );
    }
    Ok(())
}

/// x[4096, 429], four experts [256, 128], three towers [64].
fn mmoe_step() -> anyhow::Result<()> {
    let field = Field { name: "x".to_string(), start: 0, width: INPUT };
    let tasks: Vec<String> = (0..TASKS).map(|k| format!("t{k}")).collect();
    let spec = InputSpec { fields: vec![field], outputs: vec![1; TASKS], tasks, ..InputSpec::default() };
    let mut store = ParamStore::new(1);
    let model = build(&mut Component::named("mmoe"), &spec, &mut store)?;
    let pooled = Var::from_tensor(&random((ROWS, INPUT)))?;
    let input = Input {
        pooled: pooled.as_tensor().clone(),
        sequences: Vec::new(),
        dense: random((ROWS, 0)),
        scenarios: [].into(),
        repeats: [].into(),
        classes: [].into(),
    };
    let seeds: Vec<Tensor> = (0..TASKS).map(|_| random((ROWS, 1))).collect();

    let plain = plain_mmoe(&pooled, &seeds)?;
    println!("\nMMoE x[{ROWS}, {INPUT}], 4 experts [256, 128], {TASKS} towers [64]; plain candle: {plain:.1}");
    for (name, precision) in [("f32 ", Precision::F32), ("bf16", Precision::Bf16)] {
        let forward = |graph: &Graph| model.forward(&input, &context(ROWS, graph, precision)).expect("forward").logits;
        // The gradients of the towers and experts in `passes` passes, then that of the input.
        let step = |passes: usize| {
            let graph = Graph::tape();
            let logits = forward(&graph);
            let outputs: Vec<_> = logits.iter().zip(seeds.iter().cloned()).collect();
            let pass = |outputs: &[(&Tensor, Tensor)]| graph.backward(outputs).expect("backward");
            let passes: Vec<_> = outputs.chunks(TASKS / passes).map(pass).collect();
            let at_input: Vec<_> = passes.iter().map(|pass| (1.0, &pass.at_input)).collect();
            graph.backward_input(&at_input).expect("backward of the input");
        };
        let (forward_only, one, each) = (time(|| drop(forward(&Graph::None))), time(|| step(1)), time(|| step(TASKS)));
        println!("{name}  forward                               {forward_only:>9.1}");
        println!("      forward, one backward                 {one:>9.1}   {:.2} x faster than plain", plain / one);
        println!("      forward, {TASKS} backwards                  {each:>9.1}   {:.2} x one", each / one);
    }
    Ok(())
}

/// The same network in candle's operations, expert by expert: milliseconds of a forward and one backward.
fn plain_mmoe(x: &Tensor, seeds: &[Tensor]) -> anyhow::Result<f64> {
    let layer = |input, output| -> CandleResult<(Var, Var)> {
        let weight = (random((input, output)) * 0.05)?;
        Ok((Var::from_tensor(&weight)?, Var::zeros(output, DType::F32, &Device::Cpu)?))
    };
    let layers = |widths: [usize; 3], count: usize| -> CandleResult<Vec<[(Var, Var); 2]>> {
        (0..count).map(|_| Ok([layer(widths[0], widths[1])?, layer(widths[1], widths[2])?])).collect()
    };
    let experts = layers([INPUT, 256, 128], 4)?;
    let towers = layers([128, 64, 1], TASKS)?;
    let gates = (0..TASKS).map(|_| layer(INPUT, 4)).collect::<CandleResult<Vec<_>>>()?;
    let step = || -> CandleResult<()> {
        let expert = |[a, b]: &[(Var, Var); 2]| plain_linear(&plain_linear(x, &a.0, &a.1)?, &b.0, &b.1);
        let experts = Tensor::stack(&experts.iter().map(expert).collect::<CandleResult<Vec<_>>>()?, 1)?;
        let mut logits = Vec::new();
        for ((weight, bias), [a, b]) in gates.iter().zip(&towers) {
            let scores = x.matmul(weight)?.broadcast_add(bias)?.exp()?;
            let gate = scores.broadcast_div(&scores.sum_keepdim(1)?)?.unsqueeze(2)?;
            let mixed = experts.broadcast_mul(&gate)?.sum(1)?;
            logits.push(plain_linear(&mixed, &a.0, &a.1)?.matmul(&b.0)?.broadcast_add(&b.1)?);
        }
        let terms =
            logits.iter().zip(seeds).map(|(z, seed)| (z * seed)?.sum_all()).collect::<CandleResult<Vec<_>>>()?;
        Tensor::stack(&terms, 0)?.sum_all()?.backward()?;
        Ok(())
    };
    step()?;
    Ok(time(|| step().expect("plain step")))
}
