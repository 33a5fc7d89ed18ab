//! Rows and gradients that travel as bf16.

use super::*;
use crate::comm::WireFormat;

const SGD: &str = "{kind: sgd, lr: 0.05}";
const VOCABULARY: u64 = 60;

/// What one rank has after some steps.
struct End {
    rows: Vec<TableRows>,
    sent_bytes: u64,
    /// Bytes of numbers among them: the rest are ids, counts and flags.
    number_bytes: u64,
}

fn train_with(format: WireFormat, size: usize, steps: u64) -> Vec<End> {
    threads::ranks(size, |comm| {
        let mut embeddings = build("{}", SGD, comm).with_wire(format);
        let mut number_bytes = 0;
        for step in 0..steps {
            train_step(&mut embeddings, comm, step, VOCABULARY);
            number_bytes += numbers_sent(&embeddings, comm.rank()) * if format == WireFormat::F32 { 4 } else { 2 };
        }
        let sent_bytes = comm.traffic().sent_bytes;
        End { rows: vec![export(&embeddings, 0), export(&embeddings, 1)], sent_bytes, number_bytes }
    })
}

/// Numbers that the last step sent to other ranks: values as owner, gradients as reader.
fn numbers_sent(embeddings: &Embeddings, rank: usize) -> u64 {
    let Some(routes) = &embeddings.spare else { return 0 };
    let others = (0..embeddings.size).filter(|&peer| peer != rank);
    let of = |peer: usize, dim: usize, route: &exchange::TableRoute| {
        (route.sent(peer).len() + route.slots_of(peer).len()) * dim
    };
    let tables = routes.iter().zip(&embeddings.dims);
    tables.map(|(route, &dim)| others.clone().map(|peer| of(peer, dim, route) as u64).sum::<u64>()).sum()
}

fn rows_of(ends: Vec<End>) -> BTreeMap<(usize, u64), Row> {
    let ranks: Vec<_> = ends.into_iter().map(|end| end.rows).collect();
    collect(&ranks)
}

#[test]
fn bf16_halves_the_bytes_of_rows_and_changes_nothing_else() {
    for size in [2, 4] {
        let (whole, halved) = (train_with(WireFormat::F32, size, 5), train_with(WireFormat::Bf16, size, 5));
        for (whole, halved) in whole.iter().zip(&halved) {
            assert!(whole.number_bytes > 0 && halved.number_bytes * 2 == whole.number_bytes);
            assert_eq!(whole.sent_bytes - whole.number_bytes, halved.sent_bytes - halved.number_bytes);
        }
    }
}

#[test]
fn rounded_rows_train_close_to_whole_ones_on_any_number_of_ranks() {
    let exact = rows_of(train_with(WireFormat::F32, 1, 30));
    for size in [1, 2, 4] {
        let rounded = rows_of(train_with(WireFormat::Bf16, size, 30));
        let pairs = exact.values().zip(rounded.values());
        let difference = pairs.flat_map(|(a, b)| a.values.iter().zip(&b.values).map(|(x, y)| (x - y).abs()));
        let difference = difference.fold(0.0, f32::max);
        // Gradients of about 1 and a rate of 0.05 move a row by less than 1 a run; rounding is 2⁻⁸ of that a step.
        assert!(difference < 5e-3, "{size} ranks: {difference}");
        assert_eq!(difference == 0.0, size == 1, "one rank rounds nothing, several do");
    }
}

#[test]
fn evaluation_reads_rows_whole_and_training_reads_them_rounded_on_every_rank() {
    threads::ranks(3, |comm| {
        let mut embeddings = build("{}", SGD, comm).with_wire(WireFormat::Bf16);
        train_step(&mut embeddings, comm, 0, VOCABULARY);
        let ids: Vec<IdColumn> = (0..4).map(|f| column(&batch(0, f, VOCABULARY))).collect();
        let whole = embeddings.lookup(comm, &ids, ROWS, Mode::Evaluate).unwrap().sequences.swap_remove(0).values;
        let lookup = embeddings.lookup(comm, &ids, ROWS, Mode::Train { step: 1 }).unwrap();
        let rounded = &lookup.sequences[0].values;
        let want: Vec<f32> = whole.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        assert_eq!(*rounded, want);
        assert_ne!(*rounded, whole);
    });
}
