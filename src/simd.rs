//! Loops in the widest vector instructions of the CPU they run on.

use pulp::{Arch, Simd, WithSimd};

/// Runs `f` in the widest vector instructions that the CPU has; they add and multiply the same numbers in the same order
/// as the narrow ones.
///
/// `f` and what it calls for every number must be marked `#[inline(always)]`: what the compiler leaves a function of its own
/// uses the instructions that every CPU has.
pub(crate) fn widest<R>(f: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Loop(f))
}

/// Given to `pulp` by itself, a closure is called through a function that the compiler makes for `FnOnce` and inlines only if
/// it is small.
struct Loop<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Loop<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}
