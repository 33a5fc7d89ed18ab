//! The mixture of a mixture-of-experts layer: out_b = Σ_e gate_{b,e} · x_{b,e}.

use super::floats::{self, Floats, slice};
use super::graph::{Graph, Operation, Pass};
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use candle_core::{CpuStorage, CustomOp2, Error, InplaceOp3, Layout, Result, Shape, Tensor};

/// Mixes `experts` outputs that stand side by side in `x`.
///
/// `gate` is `[B, m]` and `x` is `[B, experts · h]`; the experts of `x` take the gate's columns `start`,
/// `start + 1`, …, so that one gate can mix several blocks of experts (CGC's own and shared ones) whose
/// results are added. Returns `[B, h]`.
pub fn mix(gate: &Tensor, x: &Tensor, experts: usize, start: usize, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::mix(gate, x, experts, start)?);
    }
    let (gate, x, op) = (gate.contiguous()?, x.contiguous()?, Mix { experts, start });
    if let Graph::Candle = context.graph {
        return Ok(gate.apply_op2(&x, op)?);
    }
    let y = gate.apply_op2_no_bwd(&x, &op)?;
    context.graph.record(&[&gate, &x], &y, op)?;
    Ok(y)
}

struct Mix {
    experts: usize,
    start: usize,
}

impl Mix {
    /// `(gate columns, width of one expert)`.
    fn widths(&self, gate: &[usize], x: &[usize]) -> Result<(usize, usize)> {
        match (gate, x) {
            ([rows, columns], [same, width])
                if rows == same && self.start + self.experts <= *columns && width % self.experts.max(1) == 0 =>
            {
                Ok((*columns, width / self.experts.max(1)))
            }
            _ => Err(Error::Msg(format!("{} experts {x:?} do not fit a gate {gate:?}", self.experts))),
        }
    }
}

impl Describe for Mix {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [gate, x] = exactly(inputs)?;
        let experts = self.experts as i64;
        let gates = program.narrow(gate, 1, self.start, self.experts);
        let gates = program.reshape(gates, &[0, 1, experts]);
        let x = program.reshape(x, &[0, experts, -1]);
        let mixed = program.matmul(gates, x);
        // `reshape` keeps the batch and joins the axis of length 1 with the columns.
        Ok(program.reshape(mixed, &[0, -1]))
    }
}

impl CustomOp2 for Mix {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (columns, h) = self.widths(gate_layout.dims(), x_layout.dims())?;
        let (rows, width) = floats::rows_of(x_layout.dims());
        let (gate, x) = (slice(gate, gate_layout)?, slice(x, x_layout)?);
        let out = parallel::new_rows(
            rows,
            h,
            #[inline(always)]
            |row, out| {
                let gates = &gate[row * columns + self.start..][..self.experts];
                for (expert, &g) in x[row * width..][..width].chunks_exact(h).zip(gates) {
                    out.iter_mut().zip(expert).for_each(|(out, &v)| *out += g * v);
                }
            },
        );
        floats::stored(out, (rows, h))
    }

    fn bwd(&self, gate: &Tensor, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (columns, h) = self.widths(gate.dims(), x.dims())?;
        let (rows, width) = floats::rows_of(x.dims());
        let dy = dy.contiguous()?;
        let (g, v, dy) = (Floats::of(gate)?, Floats::of(x)?, Floats::of(&dy)?);
        let (dgate, dx) = parallel::new_row_pairs(
            rows,
            (columns, width),
            #[inline(always)]
            |row, dgate, dx| {
                let dy = &dy[row * h..(row + 1) * h];
                for e in 0..self.experts {
                    let gate = g[row * columns + self.start + e];
                    let expert = &v[row * width + e * h..][..h];
                    let dx = &mut dx[e * h..(e + 1) * h];
                    dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = gate * dy);
                    dgate[self.start + e] = dot(expert, dy);
                }
            },
        );
        Ok((Some(floats::tensor(dgate, gate.dims())?), Some(floats::tensor(dx, x.dims())?)))
    }
}

impl Operation for Mix {
    fn backward(
        &self,
        inputs: &[Tensor],
        y: &Tensor,
        dy: &Tensor,
        pass: &mut Pass,
    ) -> crate::Result<Vec<Option<Tensor>>> {
        let [gate, x] = inputs else { return Err(crate::Error::internal("a mixture has two inputs")) };
        let Some(sum) = pass.grads.get(x) else {
            let (dgate, dx) = self.bwd(gate, x, y, dy)?;
            return Ok(vec![dgate, dx]);
        };
        // The gates of several tasks mix the same experts: a matrix of their own for each would only be added.
        let dy = dy.contiguous()?;
        sum.inplace_op3(gate, &dy, self)?;
        Ok(vec![Some(self.gate_gradient(gate, x, &dy)?), None])
    }
}

/// dx += gate · dy.
impl InplaceOp3 for Mix {
    fn name(&self) -> &'static str {
        "mix-backward"
    }

    fn cpu_fwd(
        &self,
        dx: &mut CpuStorage,
        dx_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<()> {
        let (columns, h) = self.widths(gate_layout.dims(), dx_layout.dims())?;
        let (gate, dy) = (slice(gate, gate_layout)?, slice(dy, dy_layout)?);
        let (CpuStorage::F32(dx), Some((start, end))) = (dx, dx_layout.contiguous_offsets()) else {
            return Err(Error::Msg("a gradient is not a contiguous f32 tensor".into()));
        };
        parallel::rows(
            &mut dx[start..end],
            self.experts * h,
            #[inline(always)]
            |row, dx| {
                let gates = &gate[row * columns + self.start..][..self.experts];
                for (dx, &g) in dx.chunks_exact_mut(h).zip(gates) {
                    dx.iter_mut().zip(&dy[row * h..][..h]).for_each(|(dx, &dy)| *dx += g * dy);
                }
            },
        );
        Ok(())
    }
}

impl Mix {
    fn gate_gradient(&self, gate: &Tensor, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (columns, h) = self.widths(gate.dims(), x.dims())?;
        let (rows, width) = floats::rows_of(x.dims());
        let (v, dy) = (Floats::of(x)?, Floats::of(dy)?);
        let dgate = parallel::new_rows(
            rows,
            columns,
            #[inline(always)]
            |row, dgate| {
                let experts = v[row * width..][..width].chunks_exact(h);
                for (dgate, expert) in dgate[self.start..].iter_mut().zip(experts) {
                    *dgate = dot(expert, &dy[row * h..][..h]);
                }
            },
        );
        floats::tensor(dgate, gate.dims())
    }
}

/// An inner product in 32 independent sums, which the compiler keeps in two of the widest vector registers. Inlined, so
/// that the caller's instructions are used.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const SUMS: usize = 32;
    let mut sums = [0.0f32; SUMS];
    let (wide_a, wide_b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    let (short_a, short_b) = (wide_a.remainder().chunks_exact(8), wide_b.remainder().chunks_exact(8));
    let tail: f32 = short_a.remainder().iter().zip(short_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in wide_a.zip(wide_b) {
        for i in 0..SUMS {
            sums[i] += a[i] * b[i];
        }
    }
    for (a, b) in short_a.zip(short_b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let mut width = SUMS / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + tail
}

/// `to` += `factor` · `from`.
#[inline(always)]
pub(crate) fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to += factor * from);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    fn plain(experts: usize, start: usize) -> impl Fn(&[Tensor]) -> Result<Tensor> {
        move |t| reference::mix(&t[0], &t[1], experts, start)
    }

    #[test]
    fn matches_differences_and_plain_operations() {
        for (rows, columns, experts, start, h) in
            [(1, 1, 1, 0, 1), (5, 3, 3, 0, 4), (4, 6, 2, 3, 9), (1, 4, 4, 0, 17), (700, 4, 4, 0, 24)]
        {
            let t = [random(&[rows, columns], 1), random(&[rows, experts * h], 2)];
            check_gradients(&t, |t| t[0].apply_op2(&t[1], Mix { experts, start }));
            check_matches(&t, |t| t[0].apply_op2(&t[1], Mix { experts, start }), plain(experts, start));
        }
    }

    #[test]
    fn experts_that_do_not_fit_the_gate_are_an_error() {
        let (gate, x) = (random(&[2, 3], 1), random(&[2, 8], 2));
        let mix = |x: &Tensor, experts, start| mix(&gate, x, experts, start, &context(true, 2));
        assert!(mix(&x, 4, 0).is_err());
        assert!(mix(&x, 2, 2).is_err());
        assert!(mix(&random(&[3, 8], 2), 2, 0).is_err());
        assert!(mix(&x, 2, 1).is_ok());
    }
}
