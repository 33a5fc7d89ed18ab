//! An allocator that counts, and refuses what is beyond all bounds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// A request that no bound of a test allows: refused, so that the test ends instead of the machine.
const ABSURD: usize = 8 << 30;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator with its arguments as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > ABSURD {
            return std::ptr::null_mut();
        }
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Tests of one process take turns: what another allocates would be counted.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `read`, which must not panic and never hold more than `limit_bytes` more than before.
pub fn within<T>(limit_bytes: usize, what: &str, read: impl FnOnce() -> T) -> T {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    let used = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(used <= limit_bytes, "{what}: {used} bytes were allocated at a time, more than {limit_bytes}");
    result.unwrap_or_else(|_| panic!("{what}: a panic"))
}
