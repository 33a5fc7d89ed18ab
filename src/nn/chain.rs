//! Chains of events of which each needs the one before (click, cart, purchase), as logits of their probabilities.

use super::floats::{self, Floats, slice};
use super::program::{Describe, Primitive, Program, Value, exactly, only_in_training};
use super::{Context, Kernels, parallel, reference};
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};

/// The logit of σ(a)·σ(b): −ln(exp(−a) + exp(−b) + exp(−a−b)), for logits `[B, 1]`. That both events happen, where b is
/// the logit of the second given the first.
pub fn joint(a: &Tensor, b: &Tensor, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::joint(a, b)?);
    }
    context.graph.two(&a.contiguous()?, &b.contiguous()?, Joint)
}

/// max(σ(a) − σ(b), 0) for logits `[B, 1]`: by how much a is held for likelier than the event b that it needs.
pub fn excess(a: &Tensor, b: &Tensor, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::excess(a, b)?);
    }
    context.graph.two(&a.contiguous()?, &b.contiguous()?, Excess)
}

struct Joint;

impl Joint {
    /// The logit, and its slopes by both arguments. In float64, where the sum of exponentials is taken relative to its
    /// largest: nothing overflows, and a slope is the share of those exponentials that hold the argument.
    fn of(a: f32, b: f32) -> (f64, f64, f64) {
        let (a, b) = (f64::from(a), f64::from(b));
        let largest = (-a).max(-b).max(-a - b);
        let [first, second, both] = [-a, -b, -a - b].map(|x| (x - largest).exp());
        let sum = first + second + both;
        (-(largest + sum.ln()), (first + both) / sum, (second + both) / sum)
    }
}

impl Describe for Joint {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [a, b] = exactly(inputs)?;
        let larger = |program: &mut Program, x: Value, y: Value| {
            let more = program.sub(x, y);
            let more = program.node(Primitive::Relu, &[more]);
            program.add(y, more)
        };
        let (first, second) = (program.scale(a, -1.0), program.scale(b, -1.0));
        let both = program.add(first, second);
        let largest = larger(program, first, second);
        let largest = larger(program, largest, both);
        let exponentials = [first, second, both].map(|x| {
            let x = program.sub(x, largest);
            program.node(Primitive::Exp, &[x])
        });
        let sum = program.add(exponentials[0], exponentials[1]);
        let sum = program.add(sum, exponentials[2]);
        let sum = program.node(Primitive::Ln, &[sum]);
        let sum = program.add(sum, largest);
        Ok(program.scale(sum, -1.0))
    }
}

impl CustomOp2 for Joint {
    fn name(&self) -> &'static str {
        "joint"
    }

    fn cpu_fwd(&self, a: &CpuStorage, at_a: &Layout, b: &CpuStorage, at_b: &Layout) -> Result<(CpuStorage, Shape)> {
        by_element((a, at_a), (b, at_b), |a, b| Self::of(a, b).0)
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        pull_back(a, b, dy, |a, b| {
            let (_, by_a, by_b) = Self::of(a, b);
            (by_a, by_b)
        })
    }
}

struct Excess;

impl Excess {
    fn probability(x: f32) -> f64 {
        1.0 / (1.0 + f64::from(-x).exp())
    }
}

impl Describe for Excess {
    fn describe(&self, _: &mut Program, _: &[Value]) -> crate::Result<Value> {
        only_in_training("excess")
    }
}

impl CustomOp2 for Excess {
    fn name(&self) -> &'static str {
        "excess"
    }

    fn cpu_fwd(&self, a: &CpuStorage, at_a: &Layout, b: &CpuStorage, at_b: &Layout) -> Result<(CpuStorage, Shape)> {
        by_element((a, at_a), (b, at_b), |a, b| (Self::probability(a) - Self::probability(b)).max(0.0))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        pull_back(a, b, dy, |a, b| {
            if a <= b {
                return (0.0, 0.0);
            }
            let [a, b] = [a, b].map(Self::probability);
            (a * (1.0 - a), -b * (1.0 - b))
        })
    }
}

fn by_element(
    (a, at_a): (&CpuStorage, &Layout),
    (b, at_b): (&CpuStorage, &Layout),
    f: impl Fn(f32, f32) -> f64 + Sync,
) -> Result<(CpuStorage, Shape)> {
    if at_a.dims() != at_b.dims() {
        return Err(Error::Msg(format!("logits of shapes {:?} and {:?}", at_a.dims(), at_b.dims())));
    }
    let (a, b) = (slice(a, at_a)?, slice(b, at_b)?);
    let y = parallel::new_rows(
        a.len(),
        1,
        #[inline(always)]
        |i, y| y[0] = f(a[i], b[i]) as f32,
    );
    floats::stored(y, at_a.shape().clone())
}

/// `slopes` times `dy`.
fn pull_back(
    a: &Tensor,
    b: &Tensor,
    dy: &Tensor,
    slopes: impl Fn(f32, f32) -> (f64, f64) + Sync,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let dy = dy.contiguous()?;
    let (x, y, gradient) = (Floats::of(a)?, Floats::of(b)?, Floats::of(&dy)?);
    let (da, db) = parallel::new_row_pairs(
        x.len(),
        (1, 1),
        #[inline(always)]
        |i, da, db| {
            let (by_a, by_b) = slopes(x[i], y[i]);
            let dy = f64::from(gradient[i]);
            (da[0], db[0]) = ((dy * by_a) as f32, (dy * by_b) as f32);
        },
    );
    Ok((Some(floats::tensor(da, a.dims())?), Some(floats::tensor(db, b.dims())?)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradients, check_matches, context, numbers, random};
    use super::*;
    use candle_core::Device;

    fn logits(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap()
    }

    #[test]
    fn match_differences_and_plain_operations() {
        for rows in [1, 7, 40_000] {
            let t = [random(&[rows, 1], 1), random(&[rows, 1], 2)];
            check_gradients(&t, |t| t[0].apply_op2(&t[1], Joint));
            check_matches(&t, |t| t[0].apply_op2(&t[1], Joint), |t| reference::joint(&t[0], &t[1]));
            // Away from the kink, where differences see both of its sides.
            let side =
                ((t[1].ge(0.0).unwrap().to_dtype(candle_core::DType::F32).unwrap() * 0.4).unwrap() - 0.2).unwrap();
            let apart = [t[0].clone(), ((&t[0] + &t[1]).unwrap() + side).unwrap()];
            check_gradients(&apart, |t| t[0].apply_op2(&t[1], Excess));
            check_matches(&t, |t| t[0].apply_op2(&t[1], Excess), |t| reference::excess(&t[0], &t[1]));
        }
    }

    #[test]
    fn the_joint_logit_is_that_of_the_product_and_stays_finite() {
        let product = |a: f64, b: f64| {
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let p = sigmoid(a) * sigmoid(b);
            (p / (1.0 - p)).ln()
        };
        let (a, b) = ([0.3, -4.0, 5.0, 0.0], [1.0, 2.0, 5.0, -3.0]);
        let y = joint(&logits(&a), &logits(&b), &context(true, 4)).unwrap();
        let exact: Vec<f64> = a.iter().zip(b).map(|(&a, b)| product(f64::from(a), f64::from(b))).collect();
        assert_close(&numbers(&y), &exact, 1e-5, "product");

        // A sure event leaves the other's logit; two impossible ones add up.
        let (a, b) = ([1e4, 1e4, -1e4, -1e4, -300.0], [2.0, 1e4, -1e4, 1e4, -300.0]);
        let y = numbers(&joint(&logits(&a), &logits(&b), &context(true, 5)).unwrap());
        assert_close(&y, &[2.0, 1e4 - 2f64.ln(), -2e4, -1e4, -600.0], 1e-6, "extremes");
        for (a, b) in a.into_iter().zip(b) {
            let (_, by_a, by_b) = Joint::of(a, b);
            assert!((0.0..=1.0).contains(&by_a) && (0.0..=1.0).contains(&by_b), "{a} {b}: {by_a} {by_b}");
        }
    }

    #[test]
    fn there_is_no_excess_where_probabilities_fall() {
        let y = excess(&logits(&[-1.0, 2.0, 0.5]), &logits(&[1.0, 2.0, 0.0]), &context(true, 3)).unwrap();
        let above = 1.0 / (1.0 + (-0.5f64).exp()) - 0.5;
        assert_close(&numbers(&y), &[0.0, 0.0, above], 1e-6, "excess");
        assert!(excess(&logits(&[0.0]), &logits(&[0.0, 1.0]), &context(true, 1)).is_err());
    }
}
