use super::*;
use crate::comm::{WireFormat, collectives, selftest};
use crate::error::Kind;
use proptest::prelude::*;

/// The messages of the ranks that failed, by rank.
fn messages<T>(results: Vec<Result<T>>) -> Vec<Option<String>> {
    results.into_iter().map(|r| r.err().map(|e| e.to_string())).collect()
}

#[test]
fn every_collective_answers_right_at_every_size() {
    for size in [1, 2, 3, 4, 7] {
        for options in [Options::default(), Options::unruly(size as u64)] {
            let results = run(size, options, |comm| selftest::check(comm.as_ref(), 11, 20));
            assert_eq!(messages(results), vec![None; size], "{size} ranks, {options:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn collectives_answer_right_for_any_lengths_and_schedule(
        size in 1usize..6,
        seed in any::<u64>(),
        max_len in 0usize..40,
        max_delay_us in 0u64..30,
        reorder in any::<bool>(),
    ) {
        let options = Options { seed, max_delay_us, reorder, crash: None };
        let results = run(size, options, |comm| selftest::check(comm.as_ref(), seed, max_len));
        prop_assert_eq!(messages(results), vec![None; size]);
    }
}

/// The scheduler must be able to change who arrives first, or it tests nothing.
#[test]
fn an_unruly_schedule_changes_the_order_of_delivery() {
    let orders = |options: Options| -> Vec<Vec<usize>> {
        let rank = Threads::new(Arc::new(World::new(5)), 0, options);
        (0..10).map(|_| rank.delivery_order()).collect()
    };
    let in_rank_order = vec![vec![0, 1, 2, 3, 4]; 10];
    assert_eq!(orders(Options::default()), in_rank_order);
    assert_ne!(orders(Options::unruly(3)), in_rank_order);
    assert_ne!(orders(Options::unruly(3)), orders(Options::unruly(4)));
    assert_eq!(orders(Options::unruly(3)), orders(Options::unruly(3)));
}

#[test]
fn an_error_on_one_rank_ends_the_others() {
    let results = run(4, Options::unruly(1), |comm| {
        comm.barrier()?;
        if comm.rank() == 2 {
            return Err(Error::data("the file is damaged"));
        }
        comm.barrier()
    });
    let said = messages(results);
    assert_eq!(said[2].as_deref(), Some("the file is damaged"));
    for rank in [0, 1, 3] {
        assert_eq!(said[rank].as_deref(), Some("rank 2 failed: the file is damaged"));
    }
}

#[test]
fn a_panic_on_one_rank_ends_the_others() {
    let results = run(3, Options::default(), |comm| {
        if comm.rank() == 0 {
            comm.abort(7, "no way on");
        }
        comm.barrier()
    });
    let said = messages(results);
    assert_eq!(said[0].as_deref(), Some("aborted with code 7: no way on"));
    assert_eq!(said[1].as_deref(), Some("rank 0 failed: aborted with code 7: no way on"));
    assert_eq!(said[1], said[2]);
}

#[test]
fn a_crash_comes_at_the_named_call() {
    for call in 0..3 {
        let options = Options { crash: Some(Crash { rank: 1, call }), ..Options::unruly(call) };
        let done = [const { std::sync::atomic::AtomicU64::new(0) }; 3];
        let results = run(3, options, |comm| {
            for _ in 0..3 {
                comm.barrier()?;
                done[comm.rank()].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        });
        assert_eq!(done[1].load(std::sync::atomic::Ordering::Relaxed), call);
        let said = messages(results);
        assert!(said[1].as_deref().is_some_and(|s| s.starts_with(&format!("crashed at collective call {call}"))));
        assert!(said[0].as_deref().is_some_and(|s| s.starts_with("rank 1 failed: crashed")), "{said:?}");
    }
}

#[test]
fn different_collectives_at_one_call_are_named() {
    let results = run(2, Options::default(), |comm| {
        comm.barrier()?;
        if comm.rank() == 0 { comm.barrier() } else { comm.exchange_counts(&[1, 2]).map(|_| ()) }
    });
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), Kind::Comm);
        let text = error.to_string();
        assert!(text.contains("call 1") && text.contains("barrier") && text.contains("exchange_counts"), "{text}");
    }
}

#[test]
fn lengths_that_sender_and_receiver_see_differently_are_named() {
    let results = run(2, Options::default(), |comm| {
        // Rank 0 believes that everybody sends 1 element, rank 1 sends 2 and believes everybody sends 2.
        let n = comm.rank() + 1;
        collectives::all_gather_into(comm.as_ref(), &vec![0u32; n], &mut vec![0u32; 2 * n])
    });
    for text in messages(results) {
        let text = text.unwrap_or_default();
        assert!(text.contains("mismatched all_gather") && text.contains("bytes"), "{text}");
    }
}

#[test]
fn a_rank_that_leaves_early_is_named() {
    let results = run(3, Options::default(), |comm| if comm.rank() == 1 { Ok(()) } else { comm.barrier() });
    let said = messages(results);
    assert_eq!(said[1], None);
    for rank in [0, 2] {
        let text = said[rank].clone().unwrap_or_default();
        assert!(text.contains("rank 1 has ended"), "{text}");
    }
}

#[test]
fn buffers_that_do_not_fit_their_counts_are_refused() {
    let results = run(2, Options::default(), |comm| {
        let mut recv = [0u8; 2];
        comm.all_to_all_bytes(&[1, 2, 3], &[1, 1], &mut recv, &[1, 1])
    });
    assert!(results.into_iter().all(|r| r.is_err_and(|e| e.to_string().contains("buffer holds 3"))));
}

#[test]
fn agreement_gives_every_rank_the_lowest_failing_ranks_error() {
    let results = run(4, Options::unruly(5), |comm| {
        let mine = if comm.rank() % 2 == 1 { Err(Error::job("bad key").at("rank", comm.rank())) } else { Ok(()) };
        collectives::agree(comm.as_ref(), mine)
    });
    for result in results {
        let error = result.expect_err("two ranks failed");
        assert_eq!((error.to_string().as_str(), error.kind()), ("bad key (rank 1)", Kind::Job));
        assert!(error.is_agreed());
    }
}

#[test]
fn traffic_counts_what_goes_to_other_ranks() {
    let results = run(3, Options::default(), |comm| {
        comm.exchange_counts(&[0, 0, 0])?;
        collectives::all_to_all_known(comm.as_ref(), &[0u8; 6], &[1, 2, 3], &[comm.rank() + 1; 3])?;
        comm.barrier()?;
        Ok(comm.traffic())
    });
    for (rank, traffic) in results.into_iter().enumerate() {
        let traffic = traffic.expect("no rank failed");
        assert_eq!((traffic.calls, traffic.sent_bytes), (3, 16 + 6 - (rank as u64 + 1)));
    }
}

#[test]
fn bf16_halves_the_bytes_of_a_sum_and_rounds_each_ranks_part_once() {
    const BLOCK: usize = 37;
    let number = |from: usize, i: usize| random::unit(9, &[from as u64, i as u64]) as f32 - 0.5;
    for size in [1, 2, 4] {
        let reduce = |format| {
            run(size, Options::unruly(size as u64), |comm| {
                let send: Vec<f32> = (0..size * BLOCK).map(|i| number(comm.rank(), i)).collect();
                let mut block = vec![0.0; BLOCK];
                collectives::reduce_scatter_sum(comm.as_ref(), format, &send, &mut block)?;
                Ok((block, comm.traffic().sent_bytes))
            })
        };
        for (rank, results) in reduce(WireFormat::Bf16).into_iter().zip(reduce(WireFormat::F32)).enumerate() {
            let ((rounded, few), (whole, many)) = (results.0.expect("no failure"), results.1.expect("no failure"));
            assert_eq!((few * 2, many), (many, ((size - 1) * BLOCK * 4) as u64));
            if size == 1 {
                assert_eq!(rounded, whole, "nothing travels");
                continue;
            }
            let part = |from: usize, i: usize| half::bf16::from_f32(number(from, rank * BLOCK + i)).to_f32();
            for (i, (&rounded, &whole)) in rounded.iter().zip(&whole).enumerate() {
                assert_eq!(rounded, (1..size).fold(part(0, i), |sum, from| sum + part(from, i)));
                assert!((rounded - whole).abs() <= size as f32 * 0.5 * 2f32.powi(-8) + 1e-6);
            }
            assert_ne!(rounded, whole);
        }
    }
}
