//! A few threads that work on the files of a checkpoint side by side, so that the disk and the processors wait for each
//! other less, while what they give is taken in order.

use crate::error::{Error, Result};
use std::sync::mpsc;

/// Files that are worked on at a time, and so held in memory.
pub const THREADS: usize = 4;

/// Runs `work` on every item, on [`THREADS`] threads, and hands the results to `take` on the caller's, in the order of the
/// items. Ends with the first error of either.
pub fn in_order<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let threads = THREADS.min(items.len());
    std::thread::scope(|scope| {
        let work = &work;
        let start = |first: usize| {
            // A thread waits until its result is taken: none runs ahead.
            let (send, receive) = mpsc::sync_channel(0);
            let run = move || {
                let mine = items.iter().skip(first).step_by(threads);
                // Nobody receives any more once another thread has failed.
                let _ = mine.map(work).try_for_each(|result| send.send(result));
            };
            let started = std::thread::Builder::new().spawn_scoped(scope, run);
            started
                .map(|_| receive)
                .map_err(|e| Error::internal(format!("a thread for the files of a checkpoint cannot be started: {e}")))
        };
        let receivers = (0..threads).map(start).collect::<Result<Vec<_>>>()?;
        let gone = |_| Error::internal("a thread for the files of a checkpoint is gone");
        items.iter().zip(receivers.iter().cycle()).try_for_each(|(_, receiver)| take(receiver.recv().map_err(gone)??))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for count in [0, 1, 3, 4, 23] {
            let (items, mut seen): (Vec<u32>, _) = ((0..count).collect(), Vec::new());
            in_order(
                &items,
                |&item| Ok(item * item),
                |square| {
                    seen.push(square);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, items.iter().map(|item| item * item).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let items: Vec<u32> = (0..30).collect();
        let work = |&item: &u32| if item > 11 { Err(Error::internal(format!("item {item}"))) } else { Ok(item) };
        let mut seen = 0;
        let error = in_order(&items, work, |_| {
            seen += 1;
            Ok(())
        })
        .unwrap_err();
        assert_eq!((seen, error.to_string().as_str()), (12, "item 12"));
        let refuse = |item| if item == 5 { Err(Error::internal("refused")) } else { Ok(()) };
        assert_eq!(in_order(&items[..9], |&item| Ok(item), refuse).unwrap_err().to_string(), "refused");
    }
}
