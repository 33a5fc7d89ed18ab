//! Element-wise activations with their derivatives.

use super::program::{Primitive, Program, Value};
use serde::{Deserialize, Serialize};

/// An activation function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The identity.
    None,
    /// max(z, 0), with derivative 0 at 0.
    #[default]
    Relu,
    /// z · Φ(z), the exact form with the error function (Hendrycks & Gimpel 2016).
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(−z)).
    Sigmoid,
    /// z for z > 0, else 0.01 z.
    LeakyRelu,
    /// z · sigmoid(z), also called swish.
    Silu,
}

const LEAK: f32 = 0.01;

impl Activation {
    /// Whether the derivative is computed from the activation's input z; else from its output.
    pub(crate) fn needs_input(self) -> bool {
        matches!(self, Self::Gelu | Self::Silu)
    }

    /// Replaces every z by its activation.
    #[inline(always)]
    pub(crate) fn forward(self, z: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Relu => {
                for z in z {
                    *z = if *z < 0.0 { 0.0 } else { *z };
                }
            }
            Self::Gelu => {
                for z in z {
                    *z *= normal_cdf(*z);
                }
            }
            Self::Tanh => {
                for z in z {
                    *z = z.tanh();
                }
            }
            Self::Sigmoid => {
                for z in z {
                    *z = sigmoid(*z);
                }
            }
            Self::LeakyRelu => {
                for z in z {
                    *z *= if *z > 0.0 { 1.0 } else { LEAK };
                }
            }
            Self::Silu => {
                for z in z {
                    *z *= sigmoid(*z);
                }
            }
        }
    }

    /// The activation of `z` in primitives.
    pub(crate) fn describe(self, program: &mut Program, z: Value) -> Value {
        match self {
            Self::None => z,
            Self::Relu => program.node(Primitive::Relu, &[z]),
            Self::Gelu => {
                let scaled = program.scale(z, std::f32::consts::FRAC_1_SQRT_2);
                let erf = program.node(Primitive::Erf, &[scaled]);
                let one = program.scalar(1.0);
                let twice_cdf = program.add(erf, one);
                let half = program.scale(z, 0.5);
                program.mul(half, twice_cdf)
            }
            Self::Tanh => program.node(Primitive::Tanh, &[z]),
            Self::Sigmoid => program.node(Primitive::Sigmoid, &[z]),
            Self::LeakyRelu => program.node(Primitive::LeakyRelu { slope: LEAK }, &[z]),
            Self::Silu => {
                let sigmoid = program.node(Primitive::Sigmoid, &[z]);
                program.mul(z, sigmoid)
            }
        }
    }

    /// Multiplies every element of `gradient` by the derivative. `saved` holds the inputs z if
    /// [`Activation::needs_input`], else the outputs.
    #[inline(always)]
    pub(crate) fn backward(self, saved: &[f32], gradient: &mut [f32]) {
        debug_assert_eq!(saved.len(), gradient.len());
        let pairs = gradient.iter_mut().zip(saved);
        match self {
            Self::None => {}
            Self::Relu => {
                for (g, &y) in pairs {
                    *g = if y > 0.0 { *g } else { 0.0 };
                }
            }
            Self::Gelu => {
                for (g, &z) in pairs {
                    *g *= normal_cdf(z) + z * normal_density(z);
                }
            }
            Self::Tanh => {
                for (g, &y) in pairs {
                    *g *= 1.0 - y * y;
                }
            }
            Self::Sigmoid => {
                for (g, &y) in pairs {
                    *g *= y * (1.0 - y);
                }
            }
            Self::LeakyRelu => {
                for (g, &y) in pairs {
                    *g *= if y > 0.0 { 1.0 } else { LEAK };
                }
            }
            Self::Silu => {
                for (g, &z) in pairs {
                    let s = sigmoid(z);
                    *g *= s * (1.0 + z * (1.0 - s));
                }
            }
        }
    }
}

#[inline(always)]
pub(crate) fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

#[inline(always)]
fn normal_density(z: f32) -> f32 {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    INV_SQRT_TAU * (-0.5 * z * z).exp()
}

#[inline(always)]
fn normal_cdf(z: f32) -> f32 {
    0.5 + 0.5 * erf(z * std::f32::consts::FRAC_1_SQRT_2)
}

/// A polynomial whose highest coefficient comes first.
#[inline(always)]
fn horner(coefficients: &[f32], x: f32) -> f32 {
    let mut sum = 0.0;
    for c in coefficients {
        sum = sum * x + c;
    }
    sum
}

/// The error function as the rational minimax approximation that Eigen and oneDNN use; unlike the
/// library's, the compiler turns it into vector instructions. Absolute error below 5e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    x * horner(&P, square) / horner(&Q, square)
}

#[cfg(test)]
pub(crate) const ALL: [Activation; 7] = [
    Activation::None,
    Activation::Relu,
    Activation::Gelu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::LeakyRelu,
    Activation::Silu,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_accurate() {
        for i in -6000..=6000 {
            let x = i as f32 * 1e-3;
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - exact).abs() < 5e-7, "{x}");
        }
    }

    #[test]
    fn derivatives_match_differences() {
        for activation in ALL {
            for z in [-30.0f32, -2.5, -0.7, 0.3, 1.9, 30.0] {
                let at = |z: f32| {
                    let mut value = [z];
                    activation.forward(&mut value);
                    f64::from(value[0])
                };
                let step = 1e-2f32;
                let slope = (at(z + step) - at(z - step)) / f64::from((z + step) - (z - step));
                let saved = if activation.needs_input() { z } else { at(z) as f32 };
                let mut gradient = [1.0];
                activation.backward(&[saved], &mut gradient);
                assert!((f64::from(gradient[0]) - slope).abs() < 1e-3, "{activation:?} at {z}");
            }
        }
    }

    #[test]
    fn relu_has_slope_zero_at_zero_and_lets_nan_through() {
        let mut values = [0.0, -1.0, f32::NAN];
        Activation::Relu.forward(&mut values);
        assert!(values[0] == 0.0 && values[1] == 0.0 && values[2].is_nan());
        let mut gradient = [5.0];
        Activation::Relu.backward(&values[..1], &mut gradient);
        assert_eq!(gradient, [0.0]);
    }
}
