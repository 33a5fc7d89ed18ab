use super::*;
use crate::comm::solo::Solo;
use crate::comm::{collectives, selftest, threads};
use crate::error::Kind;
use proptest::prelude::*;

/// Runs `body` on `size` virtual ranks in `processes` processes, which are threads; what each process returned.
fn on<T: Send>(
    processes: usize,
    size: usize,
    body: impl Fn(&dyn Communicator) -> Result<T> + Sync,
) -> Vec<Result<Vec<T>>> {
    threads::run(processes, threads::Options::unruly(processes as u64), |comm| {
        run(&comm, size, 2, |rank| body(rank.as_ref()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn collectives_answer_right_on_any_number_of_processes(
        processes in 1usize..5, more in 0usize..5, seed in any::<u64>(), max_len in 0usize..40,
    ) {
        let size = processes + more;
        let ranks = on(processes, size, |rank| {
            selftest::check_whole(rank, seed, max_len)?;
            rank.barrier()?;
            Ok((rank.rank(), rank.size(), rank.in_process()))
        });
        let ranks: Vec<_> = ranks.into_iter().map(|process| process.unwrap()).collect();
        for process in &ranks {
            prop_assert!(process.iter().all(|&(_, ranks, here)| (ranks, here) == (size, process.len())));
        }
        prop_assert_eq!(ranks.concat().into_iter().map(|(rank, ..)| rank).collect::<Vec<_>>(), (0..size).collect::<Vec<_>>());
    }
}

#[test]
fn only_what_leaves_the_process_is_traffic() {
    for (processes, bytes) in [(1, 0), (2, 2 * 8), (4, 3 * 8)] {
        let traffic = on(processes, 4, |rank| {
            rank.exchange_counts(&[7; 4])?;
            Ok(rank.traffic())
        });
        for traffic in traffic.into_iter().flat_map(|process| process.unwrap()) {
            assert_eq!((traffic.sent_bytes, traffic.calls), (bytes, 1), "{processes} processes");
        }
    }
}

#[test]
fn the_first_error_of_a_virtual_rank_is_the_process_s_own() {
    let results = on(2, 6, |rank| {
        rank.barrier()?;
        if rank.rank() == 4 {
            return Err(Error::data("the file is damaged"));
        }
        rank.barrier()
    });
    let text: Vec<String> = results.into_iter().map(|process| process.unwrap_err().to_string()).collect();
    assert!(text[0].contains("rank 1 failed: the file is damaged"), "{text:?}");
    assert_eq!(text[1], "the file is damaged");
}

#[test]
fn an_error_that_all_agree_on_stays_one() {
    let results = on(2, 5, |rank| {
        let mine = if rank.rank() == 3 { Err(Error::job("bad key")) } else { Ok(()) };
        collectives::agree(rank, mine)
    });
    for error in results.into_iter().map(Result::unwrap_err) {
        assert_eq!((error.to_string().as_str(), error.kind(), error.is_agreed()), ("bad key", Kind::Job, true));
    }
}

/// A rank that left, or calls something else, must not leave the others waiting.
#[test]
fn calls_that_do_not_fit_each_other_end_all() {
    let left = on(1, 3, |rank| if rank.rank() == 1 { Ok(()) } else { rank.barrier() });
    let other =
        on(1, 2, |rank| if rank.rank() == 1 { rank.barrier() } else { rank.exchange_counts(&[0; 2]).map(|_| ()) });
    for result in left.into_iter().chain(other) {
        assert!(result.unwrap_err().to_string().contains("different calls, or one ended"));
    }
    let lengths = on(1, 2, |rank| {
        let n = rank.rank() + 1;
        collectives::all_to_all_known(rank, &vec![0u8; 2 * n], &[n; 2], &[n; 2])
    });
    assert!(lengths[0].as_ref().unwrap_err().to_string().contains("bytes to rank"));
}

#[test]
fn a_panic_of_a_virtual_rank_is_an_error() {
    let processes: Comm = Rc::new(Solo);
    let result = run(&processes, 3, 1, |rank| {
        if rank.rank() == 2 {
            resume_unwind(Box::new("a planned panic"));
        }
        rank.barrier()
    });
    assert_eq!(result.unwrap_err().to_string(), STOPPED_BY_PANIC);
}

#[test]
fn virtual_ranks_compute_on_threads_of_their_own() {
    for (threads, each) in [(1, 1), (3, 1), (4, 1), (9, 2)] {
        let processes: Comm = Rc::new(Solo);
        let found = run(&processes, 4, threads, |_| Ok(rayon::current_num_threads())).unwrap();
        assert_eq!(found, [each; 4], "{threads} threads");
    }
}
