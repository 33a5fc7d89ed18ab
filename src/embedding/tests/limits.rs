//! Admission, eviction, evaluation, memory, and things that are empty.

use super::*;
use crate::comm::solo::Solo;
use crate::error::Result;

const SGD: &str = "{kind: sgd, lr: 0.1}";

/// One table of dim 2 behind one sum bag.
fn single(options: &str, comm: &dyn Communicator) -> Embeddings {
    let tables = vec![table("item", 2, options, SGD)];
    Embeddings::new(tables, vec![bag("item", 0, SUM)], BUCKETS, SEED, comm.rank(), comm.size()).unwrap()
}

/// One step that reads `ids`, one a row, with a gradient of 1 everywhere; what was read.
fn see(embeddings: &mut Embeddings, comm: &dyn Communicator, step: u64, ids: &[u64]) -> Result<Vec<f32>> {
    let rows: Vec<Vec<u64>> = ids.iter().map(|&id| vec![id]).collect();
    let lookup = embeddings.lookup(comm, &[column(&rows)], rows.len(), Mode::Train { step })?;
    let pooled = lookup.pooled.clone();
    embeddings.update(comm, lookup, BatchGradient { pooled: &vec![1.0; rows.len() * 2], sequences: &[] }, 1.0)?;
    Ok(pooled)
}

fn ids_of(ranks: &[TableRows]) -> Vec<u64> {
    let mut ids: Vec<u64> = ranks.iter().flat_map(|rows| rows.ids.clone()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn an_id_is_admitted_by_its_count_over_all_ranks() {
    for size in 1..=4 {
        let ranks = threads::ranks(size, |comm| {
            let mut embeddings = single("{admission: {min_count: 4}}", comm);
            // Id 1 is seen by every rank, 4 times in all over two steps; id 2 is seen 3 times.
            let first: &[u64] = if comm.rank() == 0 { &[1, 2, 2] } else { &[] };
            let second: &[u64] = if comm.rank() == size - 1 { &[1, 1, 1, 2] } else { &[] };
            let read = see(&mut embeddings, comm, 0, first).unwrap();
            assert!(read.iter().all(|&x| x == 0.0), "not admitted: reads as zeros");
            let read = see(&mut embeddings, comm, 1, second).unwrap();
            if !read.is_empty() {
                assert!(read[..6].iter().all(|&x| x != 0.0) && read[6..] == [0.0, 0.0]);
            }
            export(&embeddings, 0)
        });
        assert_eq!(ids_of(&ranks), [1]);
        assert_eq!(ranks.iter().flat_map(|r| r.counts.clone()).collect::<Vec<_>>(), [4]);
        let waiting: Vec<_> =
            ranks.iter().flat_map(|r| r.candidate_ids.iter().zip(&r.candidate_counts).map(|(&i, &c)| (i, c))).collect();
        assert_eq!(waiting, [(2, 3)]);
    }
}

#[test]
fn admission_by_chance_does_not_know_the_ranks() {
    let ids = |size| {
        let options = "{admission: {probability: 0.2, min_count: 2}}";
        collect(&train(size, options, SGD, 0..12, 60)).into_keys().collect::<Vec<_>>()
    };
    let all = collect(&train(1, "{}", SGD, 0..12, 60));
    let one = ids(1);
    assert!(one.len() > 10 && one.len() < all.len() * 9 / 10, "{} of {}", one.len(), all.len());
    for size in 2..=4 {
        assert_eq!(ids(size), one);
    }
}

#[test]
fn eviction_keeps_the_cap_and_does_not_know_the_ranks() {
    for options in ["{eviction: {max_rows: 32}}", "{eviction: {max_rows: 40, policy: lfu}}"] {
        let one = collect(&train(1, options, SGD, 0..15, 400));
        let unlimited = collect(&train(1, "{}", SGD, 0..15, 400));
        for table in 0..2 {
            let rows = |all: &BTreeMap<(usize, u64), Row>| all.keys().filter(|k| k.0 == table).count();
            assert!(rows(&unlimited) > 100 && rows(&one) <= 40 && rows(&one) > 20, "{}", rows(&one));
        }
        for size in 2..=4 {
            let many = collect(&train(size, options, SGD, 0..15, 400));
            assert_eq!(many.keys().collect::<Vec<_>>(), one.keys().collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_least_recent_and_the_least_frequent_rows_go() {
    let buckets = bucket::Buckets::new(BUCKETS, 0, 1).unwrap();
    let ids: Vec<u64> = (0..).filter(|&id| buckets.of(id) == 5).take(4).collect();
    let (a, b, c, d) = (ids[0], ids[1], ids[2], ids[3]);
    for (policy, kept) in [("lru", vec![a, d]), ("lfu", vec![a, b])] {
        let mut embeddings = single(&format!("{{eviction: {{max_rows: 32, policy: {policy}}}}}"), &Solo);
        see(&mut embeddings, &Solo, 0, &[b, b, b]).unwrap();
        see(&mut embeddings, &Solo, 1, &[a, a]).unwrap();
        see(&mut embeddings, &Solo, 2, &[c]).unwrap(); // three rows, a cap of two: b (lru) or c (lfu) goes
        see(&mut embeddings, &Solo, 3, &[a]).unwrap();
        see(&mut embeddings, &Solo, 4, &[d]).unwrap(); // now c (lru) or d (lfu)
        let mut kept = kept;
        kept.sort_unstable();
        assert_eq!(ids_of(&[export(&embeddings, 0)]), kept, "{policy}");
    }
}

#[test]
fn slots_of_dropped_rows_are_used_again_with_fresh_rows() {
    let mut embeddings = single("{eviction: {max_rows: 16}}", &Solo);
    let allocated = |e: &Embeddings| e.stats()[0].total_bytes() - e.stats()[0].index_bytes;
    see(&mut embeddings, &Solo, 0, &(0..1000).collect::<Vec<_>>()).unwrap();
    let before = allocated(&embeddings);
    let first = see(&mut embeddings, &Solo, 1, &[5000]).unwrap();
    for step in 2..20 {
        let ids: Vec<u64> = (step * 1000..step * 1000 + 900).collect();
        see(&mut embeddings, &Solo, step, &ids).unwrap();
    }
    assert!(embeddings.stats()[0].rows <= 16);
    assert_eq!(allocated(&embeddings), before);
    assert_eq!(see(&mut embeddings, &Solo, 20, &[5000]).unwrap(), first, "a dropped id starts anew");
}

#[test]
fn rows_that_nothing_touches_are_dropped_by_age() {
    let ages = |size| {
        let ranks = threads::ranks(size, |comm| {
            let mut embeddings = single("{eviction: {max_age_steps: 24}}", comm);
            see(&mut embeddings, comm, 0, &(0..40).collect::<Vec<_>>()).unwrap();
            let mut rows = Vec::new();
            for step in 1..40 {
                see(&mut embeddings, comm, step, &[7]).unwrap();
                rows.push(embeddings.stats()[0].rows);
            }
            rows
        });
        (0..39).map(|i| ranks.iter().map(|rows| rows[i]).sum::<usize>()).collect::<Vec<usize>>()
    };
    let one = ages(1);
    assert_eq!((one[23], one[27]), (40, 1), "kept for 24 steps, found within an eighth more: {one:?}");
    assert_eq!(ages(3), one);
}

#[test]
fn evaluation_changes_nothing_and_reads_unknown_ids_as_zeros() {
    for size in 1..=3 {
        threads::ranks(size, |comm| {
            let mut embeddings = single("{admission: {min_count: 2}}", comm);
            see(&mut embeddings, comm, 0, &[1, 1, 2, 2, 3]).unwrap();
            let (rows, stats) = (export(&embeddings, 0), embeddings.stats());
            let ids = column(&[vec![1], vec![3], vec![99], vec![], vec![1, 2]]);
            let lookup = embeddings.lookup(comm, &[ids], 5, Mode::Evaluate).unwrap();
            assert_eq!((export(&embeddings, 0), embeddings.stats()), (rows, stats));
            assert!(lookup.pooled[..2].iter().all(|&x| x != 0.0));
            // Id 3 is waiting if this is its only sight; with several ranks each saw it once.
            assert_eq!(lookup.pooled[2..4].iter().all(|&x| x == 0.0), size == 1);
            assert_eq!(lookup.pooled[4..8], [0.0; 4]);
            let refused =
                embeddings.update(comm, lookup, BatchGradient { pooled: &[0.0; 10], sequences: &[] }, 1.0).unwrap_err();
            assert!(refused.to_string().contains("evaluation"));
        });
    }
}

#[test]
fn a_lookup_from_before_an_eviction_is_refused() {
    let mut embeddings = single("{eviction: {max_rows: 16}}", &Solo);
    let ids = column(&[(0..100).collect()]);
    let early = embeddings.lookup(&Solo, std::slice::from_ref(&ids), 1, Mode::Train { step: 0 }).unwrap();
    let lookup = embeddings.lookup(&Solo, &[ids], 1, Mode::Train { step: 1 }).unwrap();
    embeddings.update(&Solo, lookup, BatchGradient { pooled: &[0.0; 2], sequences: &[] }, 1.0).unwrap();
    assert!(embeddings.update(&Solo, early, BatchGradient { pooled: &[0.0; 2], sequences: &[] }, 1.0).is_err());
}

#[test]
fn a_table_too_large_for_memory_is_an_error_that_names_it() {
    let mut embeddings = single("{}", &Solo).with_memory_limit(1 << 20);
    let error = (0..100)
        .find_map(|step| {
            see(&mut embeddings, &Solo, step, &(step * 1000..step * 1000 + 1000).collect::<Vec<_>>()).err()
        })
        .expect("100 000 rows in 1 MiB");
    let text = error.to_string();
    for word in [
        "table `item`",
        "more memory",
        "`memory_limit` leaves",
        "raise `memory_limit`",
        "rows on this rank",
        "bytes on this rank",
        "fix:",
        "max_rows",
    ] {
        assert!(text.contains(word), "{text}");
    }
    assert!(embeddings.stats()[0].total_bytes() <= (1 << 20) + 4096, "{:?}", embeddings.stats());
    assert!(embeddings.stats()[0].rows > 10_000);
}

#[test]
fn a_limit_on_memory_covers_candidates() {
    let mut embeddings = single("{admission: {min_count: 9}}", &Solo).with_memory_limit(1 << 20);
    let ids: Vec<u64> = (0..100_000).collect();
    assert!(see(&mut embeddings, &Solo, 0, &ids).unwrap_err().to_string().contains("more memory"));
}

#[test]
fn nothing_at_all_is_fine() {
    for size in 1..=2 {
        threads::ranks(size, |comm| {
            let mut none = Embeddings::new(vec![], vec![], BUCKETS, SEED, comm.rank(), comm.size()).unwrap();
            let lookup = none.lookup(comm, &[], 3, Mode::Train { step: 0 }).unwrap();
            assert!(lookup.pooled.is_empty());
            none.update(comm, lookup, BatchGradient { pooled: &[], sequences: &[] }, 1.0).unwrap();

            let mut embeddings = build("{}", SGD, comm);
            let ids = vec![column(&[vec![], vec![]]); 4];
            let lookup = embeddings.lookup(comm, &ids, 2, Mode::Train { step: 0 }).unwrap();
            assert_eq!(lookup.pooled, [0.0; 16]);
            assert_eq!(lookup.sequences[0].mask, [0.0; 6]);
            embeddings
                .update(comm, lookup, BatchGradient { pooled: &[1.0; 16], sequences: &[vec![1.0; 12]] }, 1.0)
                .unwrap();
            let empty = export(&embeddings, 1);
            assert!(empty.ids.is_empty() && empty.bucket_rows.iter().all(|&n| n == 0));
            assert_eq!(empty.bucket_rows.len(), embeddings.owned_buckets().len());
            assert_eq!(build("{}", SGD, comm).import(1, &empty).unwrap(), (0, 0));
        });
    }
}

#[test]
fn wrong_shapes_and_specs_are_refused() {
    let mut embeddings = single("{}", &Solo);
    assert!(embeddings.lookup(&Solo, &[], 1, Mode::Evaluate).is_err());
    assert!(embeddings.lookup(&Solo, &[column(&[vec![1]])], 2, Mode::Evaluate).is_err());
    let lookup = embeddings.lookup(&Solo, &[column(&[vec![1]])], 1, Mode::Train { step: 0 }).unwrap();
    assert!(embeddings.update(&Solo, lookup, BatchGradient { pooled: &[0.0; 3], sequences: &[] }, 1.0).is_err());
    let new = |tables, bags| Embeddings::new(tables, bags, BUCKETS, SEED, 0, 1);
    assert!(new(vec![table("x", 2, "{}", SGD)], vec![bag("f", 1, SUM)]).is_err());
    assert!(new(vec![table("x", 2, "{}", SGD), table("x", 2, "{}", SGD)], vec![]).is_err());
    assert!(new(vec![table("x", 2, "{}", SGD)], vec![bag("f", 0, BagKind::Sequence { max_len: 0 })]).is_err());
    let mut no_dim = job::Table::default();
    let error = TableSpec::from_job("x", &mut no_dim, &mut Component::named("sgd"), BUCKETS).unwrap_err();
    assert!(error.to_string().contains("tables.x.dim"), "{error}");
}
