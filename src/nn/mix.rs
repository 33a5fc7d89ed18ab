//! The mixture of a mixture-of-experts layer: out_b = Σ_e gate_{b,e} · x_{b,e}.

use super::floats::{self, Floats, slice};
use super::graph::{Family, Graph, Operation, Pass, Reached};
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use candle_core::{CpuStorage, CustomOp2, Error, InplaceOp3, Layout, Result, Shape, Tensor, TensorId};

/// Mixes `experts` outputs that stand side by side in `x`.
///
/// `gate` is `[B, m]` and `x` is `[B, experts · h]`; the experts of `x` take the gate's columns `start`,
/// `start + 1`, …, so that one gate can mix several blocks of experts (CGC's own and shared ones) whose
/// results are added. Returns `[B, h]`.
pub fn mix(gate: &Tensor, x: &Tensor, experts: usize, start: usize, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::mix(gate, x, experts, start)?);
    }
    let (gate, x) = (gate.contiguous()?, x.contiguous()?);
    let op = Mix { experts, start, reads: x.id() };
    if let Graph::Candle = context.graph {
        return Ok(gate.apply_op2(&x, op)?);
    }
    let y = gate.apply_op2_no_bwd(&x, &op)?;
    context.graph.record(&[&gate, &x], &y, op)?;
    Ok(y)
}

/// [`mix`] of the same `x` by several gates, as tasks do: x comes from memory once for all of them, on the way back too.
pub fn mix_all(
    gates: &[Tensor],
    x: &Tensor,
    experts: usize,
    start: usize,
    context: &Context,
) -> crate::Result<Vec<Tensor>> {
    let fused = context.kernels == Kernels::Fused && !matches!(context.graph, Graph::Candle);
    let first = match gates {
        [first, _, ..] if fused => first,
        _ => return gates.iter().map(|gate| mix(gate, x, experts, start, context)).collect(),
    };
    let x = x.contiguous()?;
    let op = Mix { experts, start, reads: x.id() };
    let gates = gates.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let (columns, h) = op.widths(first.dims(), x.dims())?;
    if gates.iter().any(|gate| gate.dims() != first.dims()) {
        return Err(Error::Msg(format!("gates of different shapes mix {:?}", x.dims())).into());
    }
    let rows = floats::rows_of(x.dims()).0;
    let mixed = {
        let (values, x) = (gates.iter().map(Floats::of).collect::<Result<Vec<_>>>()?, Floats::of(&x)?);
        parallel::new_matrices(
            rows,
            &vec![h; gates.len()],
            #[inline(always)]
            |gate, row, out| op.mix_row(&values[gate][row * columns..][..columns], &x[row * experts * h..], out),
        )
    };
    let record = |(gate, mixed): (&Tensor, Vec<f32>)| {
        let y = floats::tensor(mixed, (rows, h))?;
        context.graph.record(&[gate, &x], &y, op)?;
        Ok(y)
    };
    gates.iter().zip(mixed).map(record).collect()
}

#[derive(Clone, Copy)]
struct Mix {
    experts: usize,
    start: usize,
    /// x.
    reads: TensorId,
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
            |row, out| self.mix_row(&gate[row * columns..][..columns], &x[row * width..][..width], out),
        );
        floats::stored(out, (rows, h))
    }

    fn bwd(&self, gate: &Tensor, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients(&[gate], x, &[dy.contiguous()?], true)?.into_iter();
        let mut next = |like: &Tensor| gradients.next().map(|values| floats::tensor(values, like.dims())).transpose();
        Ok((next(gate)?, next(x)?))
    }
}

impl Operation for Mix {
    fn family(&self) -> Option<Family> {
        Some(Family { kind: "mix", reads: self.reads, settings: [self.experts, self.start] })
    }

    fn backward_together(&self, family: &[Reached], pass: &mut Pass) -> crate::Result<Vec<Vec<Option<Tensor>>>> {
        let x = match family.first().map(|first| first.inputs) {
            Some([_, x]) if pass.grads.get(x).is_none() => x,
            // What is there already is added to, gate by gate.
            _ => {
                let each = family.iter().map(|Reached { inputs, output, dy }| self.backward(inputs, output, dy, pass));
                return each.collect();
            }
        };
        let gates: Vec<&Tensor> = family.iter().filter_map(|reached| reached.inputs.first()).collect();
        let dys = family.iter().map(|reached| reached.dy.contiguous()).collect::<Result<Vec<_>>>()?;
        let mut gradients = self.gradients(&gates, x, &dys, true)?;
        let mut dx = gradients.pop();
        let dgates = gradients.into_iter().zip(&gates);
        // The gradient of x stands with the first, and is the sum of all.
        dgates
            .map(|(dgate, gate)| {
                Ok(vec![
                    Some(floats::tensor(dgate, gate.dims())?),
                    dx.take().map(|dx| floats::tensor(dx, x.dims())).transpose()?,
                ])
            })
            .collect()
    }

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
        let dgate = self.gradients(&[gate], x, &[dy], false)?.pop();
        Ok(vec![dgate.map(|dgate| floats::tensor(dgate, gate.dims())).transpose()?, None])
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
        parallel::rows(
            floats::slice_mut(dx, dx_layout)?,
            self.experts * h,
            #[inline(always)]
            |row, dx| {
                let gates = &gate[row * columns + self.start..][..self.experts];
                for (dx, &g) in dx.chunks_exact_mut(h).zip(gates) {
                    add_scaled(dx, g, &dy[row * h..][..h]);
                }
            },
        );
        Ok(())
    }
}

impl Mix {
    /// out += Σ_e gate_e · x_e of one row.
    #[inline(always)]
    fn mix_row(&self, gate: &[f32], x: &[f32], out: &mut [f32]) {
        let gates = &gate[self.start..][..self.experts];
        for (expert, &g) in x.chunks_exact(out.len()).zip(gates) {
            add_scaled(out, g, expert);
        }
    }

    /// The gradient of each gate, then, if it is wanted, that of x, which is the sum over the gates.
    fn gradients(&self, gates: &[&Tensor], x: &Tensor, dys: &[Tensor], wants_dx: bool) -> Result<Vec<Vec<f32>>> {
        let Some(gate) = gates.first() else { return Ok(Vec::new()) };
        let (columns, h) = self.widths(gate.dims(), x.dims())?;
        let (rows, width) = floats::rows_of(x.dims());
        let values = gates.iter().map(|gate| Floats::of(gate)).collect::<Result<Vec<_>>>()?;
        let dys = dys.iter().map(Floats::of).collect::<Result<Vec<_>>>()?;
        let x = Floats::of(x)?;
        let widths: Vec<usize> = gates.iter().map(|_| columns).chain(wants_dx.then_some(width)).collect();
        Ok(parallel::new_matrices(
            rows,
            &widths,
            #[inline(always)]
            |matrix, row, out| match dys.get(matrix) {
                Some(dy) => {
                    let experts = x[row * width..][..width].chunks_exact(h);
                    for (dgate, expert) in out[self.start..].iter_mut().zip(experts) {
                        *dgate = dot(expert, &dy[row * h..][..h]);
                    }
                }
                None => {
                    for (gate, dy) in values.iter().zip(&dys) {
                        let gates = &gate[row * columns + self.start..][..self.experts];
                        for (dx, &g) in out.chunks_exact_mut(h).zip(gates) {
                            add_scaled(dx, g, &dy[row * h..][..h]);
                        }
                    }
                }
            },
        ))
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

/// `to` += `from`.
#[inline(always)]
pub(crate) fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// `to` += `factor` · `from`.
#[inline(always)]
pub(crate) fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

#[cfg(test)]
mod tests;
