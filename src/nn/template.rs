//! A parameter made of three: what all clients share, what a task adds and what a scenario adds.
//!
//! ```text
//! additive          W = G + T + S                 dG = dT = dS = dW
//! multiplicative    W = G ⊙ (1 + T) ⊙ (1 + S)     dG = dW ⊙ (1 + T) ⊙ (1 + S)     dT = dW ⊙ G ⊙ (1 + S)     dS = dW ⊙ G ⊙ (1 + T)
//! ```

use super::floats::{self, Floats, slice};
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, reference};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use serde::{Deserialize, Serialize};

/// How the three parts become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// Their sum.
    #[default]
    Additive,
    /// The global part, scaled by the two others around 1.
    Multiplicative,
}

/// The weight that `global`, `task` and `scenario`, of one shape, stand for.
pub fn template(
    form: Template,
    global: &Tensor,
    task: &Tensor,
    scenario: &Tensor,
    context: &Context,
) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::template(global, task, scenario, form)?);
    }
    context.graph.three(global, task, scenario, Compose(form))
}

struct Compose(Template);

impl Describe for Compose {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [global, task, scenario] = exactly(inputs)?;
        match self.0 {
            Template::Additive => {
                let sum = program.add(global, task);
                Ok(program.add(sum, scenario))
            }
            Template::Multiplicative => {
                let one = program.scalar(1.0);
                let (task, scenario) = (program.add(task, one), program.add(scenario, one));
                let scaled = program.mul(global, task);
                Ok(program.mul(scaled, scenario))
            }
        }
    }
}

impl CustomOp3 for Compose {
    fn name(&self) -> &'static str {
        "template"
    }

    fn cpu_fwd(
        &self,
        global: &CpuStorage,
        global_layout: &Layout,
        task: &CpuStorage,
        task_layout: &Layout,
        scenario: &CpuStorage,
        scenario_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if global_layout.dims() != task_layout.dims() || task_layout.dims() != scenario_layout.dims() {
            let dims = [global_layout, task_layout, scenario_layout].map(|layout| layout.dims().to_vec());
            return Err(candle_core::Error::Msg(format!("parts of different shapes: {dims:?}")));
        }
        let (g, t, s) = (slice(global, global_layout)?, slice(task, task_layout)?, slice(scenario, scenario_layout)?);
        let parts = g.iter().zip(t).zip(s);
        let values = match self.0 {
            Template::Additive => parts.map(|((g, t), s)| g + t + s).collect(),
            Template::Multiplicative => parts.map(|((g, t), s)| g * (1.0 + t) * (1.0 + s)).collect(),
        };
        floats::stored(values, global_layout.shape().clone())
    }

    fn bwd(
        &self,
        global: &Tensor,
        task: &Tensor,
        scenario: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (g, t, s, dy) = (Floats::of(global)?, Floats::of(task)?, Floats::of(scenario)?, Floats::of(&dy)?);
        let each = |of: &dyn Fn(usize) -> f32| -> Result<Option<Tensor>> {
            Ok(Some(floats::tensor((0..dy.len()).map(of).collect(), global.dims())?))
        };
        match self.0 {
            Template::Additive => Ok((each(&|i| dy[i])?, each(&|i| dy[i])?, each(&|i| dy[i])?)),
            Template::Multiplicative => Ok((
                each(&|i| dy[i] * (1.0 + t[i]) * (1.0 + s[i]))?,
                each(&|i| dy[i] * g[i] * (1.0 + s[i]))?,
                each(&|i| dy[i] * g[i] * (1.0 + t[i]))?,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for form in [Template::Additive, Template::Multiplicative] {
            for shape in [&[1, 1][..], &[3, 5], &[7]] {
                let t = [random(shape, 1), random(shape, 2), random(shape, 3)];
                let fused = |t: &[Tensor]| t[0].apply_op3(&t[1], &t[2], Compose(form));
                check_gradients(&t, fused);
                check_matches(&t, fused, |t| reference::template(&t[0], &t[1], &t[2], form));
            }
        }
    }

    #[test]
    fn parts_of_other_shapes_are_an_error() {
        let (g, t) = (random(&[2, 3], 1), random(&[3, 2], 2));
        assert!(template(Template::Additive, &g, &t, &g, &context(true, 2)).is_err());
    }
}
