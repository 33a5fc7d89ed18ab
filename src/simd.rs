//! Loops in the widest vector instructions of the CPU they run on.

use pulp::{Arch, Simd, WithSimd};

/// Runs `f` in the widest vector instructions that the CPU has; they add and multiply the same numbers in the same order
/// as the narrow ones.
///
/// `f` and what it calls for every number must be marked `#[inline(always)]`, and loops must be `for` loops where their
/// bodies are large or many (`for_each` and `fold` are functions too): what the compiler leaves a function of its own uses the
/// instructions that every CPU has.
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

/// Asks for the cache line at the start of `values`, so that it is near when it is needed. Only a hint: on CPUs other than
/// x86-64, stable Rust has none.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: an address to look at, never read; every x86-64 has the instruction.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
