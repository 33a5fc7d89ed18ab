//! Panics of code that reads bytes from outside, as errors.
//!
//! A damaged Parquet page can make the decoder panic instead of failing. That is no bug of tandem and must not
//! look like one: inside [`run`] a panic is neither printed nor does it end the process, and its text goes into
//! the error that names the file. Hooks that print or end a job ask [`is_active`] first.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f`; if it panics, says what the panic said. What `f` was changing must not be used afterwards.
pub fn run<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(f));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|panic| text(panic.as_ref()).to_string())
}

/// Whether this thread is inside [`run`].
pub fn is_active() -> bool {
    DEPTH.get() > 0
}

/// Makes the current panic hook say nothing of panics inside [`run`].
pub fn install() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_active() {
            print(panic);
        }
    }));
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_text() {
        assert_eq!(run(|| 7), Ok(7));
        assert_eq!(run(|| panic!("index {} of {}", 5, 3)), Err::<(), _>("index 5 of 3".to_string()));
        assert_eq!(run(|| std::panic::panic_any(3)), Err::<(), _>("unknown panic".to_string()));
    }

    #[test]
    fn it_is_active_only_inside_and_on_this_thread() {
        assert!(!is_active());
        let seen = run(|| (is_active(), std::thread::spawn(is_active).join().unwrap()));
        assert_eq!(seen, Ok((true, false)));
        run(|| panic!("one")).unwrap_err();
        assert!(!is_active());
    }
}
