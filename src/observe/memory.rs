//! How the allocator keeps memory.

/// Memory once used stays with the process, in pages as large as the system has: a step's buffers are those of the step
/// before, and giving them back in between would have each page cleared anew. A fifth of a step in bf16.
///
/// For programs whose allocator is mimalloc; without effect in others.
pub fn keep() {
    use libmimalloc_sys::{mi_option_large_os_pages, mi_option_set, mi_option_t};
    // `mi_option_purge_delay` of `mimalloc.h`, which the crate does not name; in milliseconds, −1 for never.
    const PURGE_DELAY: mi_option_t = 15;
    // SAFETY: options may be set at any time.
    unsafe {
        mi_option_set(PURGE_DELAY, -1);
        mi_option_set(mi_option_large_os_pages, 1);
    }
}
