//! Rows written by any number of ranks are read by any other.

use super::*;
use crate::comm::solo::Solo;

const OPTIONS: &str = "{admission: {min_count: 2}, eviction: {max_rows: 48}}";
const ADAM: &str = "{kind: adam, lr: 0.05}";
const VOCABULARY: u64 = 200;

/// Loads what `ranks` wrote into `size` ranks, trains `steps` and returns what they write.
fn resume(ranks: &[Vec<TableRows>], size: usize, steps: std::ops::Range<u64>) -> Vec<Vec<TableRows>> {
    threads::ranks(size, |comm| {
        let mut embeddings = build(OPTIONS, ADAM, comm);
        for rank in ranks {
            for (table, rows) in rank.iter().enumerate() {
                embeddings.import(table, rows).unwrap();
            }
        }
        steps.clone().for_each(|step| train_step(&mut embeddings, comm, step, VOCABULARY));
        vec![export(&embeddings, 0), export(&embeddings, 1)]
    })
}

/// The columns of one table over all ranks, as one.
fn whole(ranks: &[Vec<TableRows>], table: usize) -> TableRows {
    let mut all = TableRows { buckets: 0..BUCKETS, ..TableRows::default() };
    for rows in ranks.iter().map(|rank| &rank[table]) {
        all.bucket_rows.extend(&rows.bucket_rows);
        all.ids.extend(&rows.ids);
        all.values.extend(&rows.values);
        all.state.extend(&rows.state);
        all.counts.extend(&rows.counts);
        all.last_steps.extend(&rows.last_steps);
        all.bucket_candidates.extend(&rows.bucket_candidates);
        all.candidate_ids.extend(&rows.candidate_ids);
        all.candidate_counts.extend(&rows.candidate_counts);
    }
    all
}

#[test]
fn any_number_of_ranks_reads_what_any_other_wrote() {
    for from in 1..=4 {
        let written = train(from, OPTIONS, ADAM, 0..10, VOCABULARY);
        assert!(!whole(&written, 0).candidate_ids.is_empty() && whole(&written, 0).ids.len() > 20);
        for to in 1..=4 {
            let read = resume(&written, to, 10..10);
            for table in 0..2 {
                assert_eq!(whole(&read, table), whole(&written, table), "{from} to {to}");
            }
        }
    }
}

#[test]
fn a_resumed_run_is_the_straight_one() {
    let straight = train(3, OPTIONS, ADAM, 0..20, VOCABULARY);
    for to in 1..=4 {
        let resumed = resume(&train(3, OPTIONS, ADAM, 0..10, VOCABULARY), to, 10..20);
        for table in 0..2 {
            let (a, b) = (whole(&straight, table), whole(&resumed, table));
            if to == 3 {
                assert_eq!(a, b, "bit for bit at the same number of ranks");
            }
            assert_eq!((&a.ids, &a.counts, &a.last_steps), (&b.ids, &b.counts, &b.last_steps));
            assert_eq!((&a.candidate_ids, &a.candidate_counts), (&b.candidate_ids, &b.candidate_counts));
            assert!(a.values.iter().zip(&b.values).all(|(x, y)| (x - y).abs() < 1e-3), "3 to {to}");
        }
    }
}

#[test]
fn buckets_can_be_exported_in_pieces() {
    let written = train(1, OPTIONS, ADAM, 0..10, VOCABULARY);
    let mut embeddings = build(OPTIONS, ADAM, &Solo);
    embeddings.import(0, &written[0][0]).unwrap();
    let pieces: Vec<Vec<TableRows>> =
        (0..BUCKETS).step_by(5).map(|b| vec![embeddings.export(0, b..(b + 5).min(BUCKETS))]).collect();
    assert_eq!(whole(&pieces, 0), written[0][0]);
}

#[test]
fn damaged_columns_are_refused() {
    let written = train(1, OPTIONS, ADAM, 0..10, VOCABULARY);
    let damage = |change: fn(&mut TableRows)| {
        let mut rows = written[0][0].clone();
        change(&mut rows);
        build(OPTIONS, ADAM, &Solo).import(0, &rows).map_err(|e| e.to_string())
    };
    let (rows, candidates) = damage(|_| ()).unwrap();
    assert_eq!((rows, candidates), (written[0][0].ids.len(), written[0][0].candidate_ids.len()));
    assert!(damage(|rows| rows.ids[1] = rows.ids[0]).unwrap_err().contains("twice"));
    assert!(damage(|rows| rows.candidate_ids[1] = rows.candidate_ids[0]).unwrap_err().contains("twice"));
    assert!(damage(|rows| _ = rows.values.pop()).unwrap_err().contains("values"));
    assert!(damage(|rows| _ = rows.state.pop()).unwrap_err().contains("optimizer state"));
    assert!(damage(|rows| _ = rows.counts.pop()).unwrap_err().contains("counts"));
    assert!(damage(|rows| _ = rows.last_steps.pop()).unwrap_err().contains("last steps"));
    assert!(damage(|rows| rows.bucket_rows[0] += 1).unwrap_err().contains("row counts"));
    assert!(damage(|rows| _ = rows.candidate_counts.pop()).unwrap_err().contains("candidate"));
}
