//! What scenarios share and what each has of its own, joined to one row for each scenario.
//!
//! ```text
//! shared  [n]       own  [S, n]
//! y       [S + 1, n]    y_s = shared ⊙ own_s (factors), or shared + own_s (terms); the last, of "other", is shared alone
//!
//! factors    dshared = Σ_s dy_s ⊙ own_s + dy_other    down_s = dy_s ⊙ shared
//! terms      dshared = Σ_s dy_s + dy_other            down_s = dy_s
//! ```

use super::floats::{self, Floats, slice};
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel};
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};

/// How the two are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// shared ⊙ own.
    Factors,
    /// shared + own.
    Terms,
}

/// `shared`, of n numbers in any shape, with each row of `own` `[S, n]`, and alone: `[S + 1, n]`.
pub fn join_shared(shared: &Tensor, own: &Tensor, join: Join, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(plain(shared, own, join)?);
    }
    context.graph.two(shared, own, SharedOwn(join))
}

/// In candle's own operations.
fn plain(shared: &Tensor, own: &Tensor, join: Join) -> Result<Tensor> {
    let shared = shared.flatten_all()?.unsqueeze(0)?;
    let each = match join {
        Join::Factors => own.broadcast_mul(&shared)?,
        Join::Terms => own.broadcast_add(&shared)?,
    };
    Tensor::cat(&[each, shared], 0)
}

struct SharedOwn(Join);

impl SharedOwn {
    /// Scenarios and n.
    fn sizes(shared: usize, own: &[usize]) -> Result<(usize, usize)> {
        match own {
            &[scenarios, n] if n == shared => Ok((scenarios, n)),
            _ => Err(Error::Msg(format!("{shared} shared numbers and {own:?} of scenarios"))),
        }
    }
}

impl Describe for SharedOwn {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [shared, own] = exactly(inputs)?;
        let shared = program.reshape(shared, &[1, -1]);
        let each = match self.0 {
            Join::Factors => program.mul(own, shared),
            Join::Terms => program.add(own, shared),
        };
        Ok(program.concat(&[each, shared], 0))
    }
}

impl CustomOp2 for SharedOwn {
    fn name(&self) -> &'static str {
        "shared-own"
    }

    fn cpu_fwd(
        &self,
        shared: &CpuStorage,
        shared_layout: &Layout,
        own: &CpuStorage,
        own_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (scenarios, n) = Self::sizes(shared_layout.shape().elem_count(), own_layout.dims())?;
        let (shared, own) = (slice(shared, shared_layout)?, slice(own, own_layout)?);
        let mut y = vec![0.0; (scenarios + 1) * n];
        parallel::rows(&mut y, n, |row, y| {
            y.copy_from_slice(shared);
            if row < scenarios {
                let pairs = y.iter_mut().zip(&own[row * n..]);
                match self.0 {
                    Join::Factors => pairs.for_each(|(y, own)| *y *= own),
                    Join::Terms => pairs.for_each(|(y, own)| *y += own),
                }
            }
        });
        floats::stored(y, (scenarios + 1, n))
    }

    fn bwd(&self, shared: &Tensor, own: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (scenarios, n) = Self::sizes(shared.elem_count(), own.dims())?;
        let dy = dy.contiguous()?;
        let (values, factors, dy) = (Floats::of(shared)?, Floats::of(own)?, Floats::of(&dy)?);
        let mut down = dy[..scenarios * n].to_vec();
        let mut dshared = dy[scenarios * n..].to_vec();
        for (dy, factors) in dy.chunks_exact(n.max(1)).zip(factors.chunks_exact(n.max(1))) {
            let pairs = dshared.iter_mut().zip(dy);
            match self.0 {
                Join::Factors => pairs.zip(factors).for_each(|((sum, dy), own)| *sum += dy * own),
                Join::Terms => pairs.for_each(|(sum, dy)| *sum += dy),
            }
        }
        if self.0 == Join::Factors {
            parallel::rows(&mut down, n, |_, down| {
                down.iter_mut().zip(&*values).for_each(|(down, shared)| *down *= shared);
            });
        }
        Ok((Some(floats::tensor(dshared, shared.dims())?), Some(floats::tensor(down, own.dims())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, numbers, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for (shape, scenarios) in [(&[1][..], 1), (&[3, 2], 4), (&[70, 50], 9)] {
            let t = [random(shape, 1), random(&[scenarios, shape.iter().product()], 2)];
            for join in [Join::Factors, Join::Terms] {
                let fused = |t: &[Tensor]| t[0].apply_op2(&t[1], SharedOwn(join));
                check_gradients(&t, fused);
                check_matches(&t, fused, |t| plain(&t[0], &t[1], join));
            }
        }
    }

    #[test]
    fn the_last_row_is_what_is_shared() {
        let (shared, own) = (random(&[2, 3], 1), random(&[4, 6], 2));
        for join in [Join::Factors, Join::Terms] {
            let y = join_shared(&shared, &own, join, &context(true, 1)).unwrap();
            assert_eq!(numbers(&y.get(4).unwrap()), numbers(&shared));
        }
        assert!(join_shared(&shared, &random(&[4, 5], 2), Join::Terms, &context(true, 1)).is_err());
    }
}
