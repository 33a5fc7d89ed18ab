use super::*;
use crate::comm::threads;
use crate::data::batch::Target;
use crate::model::{Term, TermKind};
use crate::nn::testing::{assert_close, numbers, random};

const ROWS: usize = 8;

/// Two binary tasks, the second of weight 0.5, and a third that is not trained.
fn tasks() -> Vec<TaskSpec> {
    let task = |name: &str, weight| TaskSpec {
        name: name.to_string(),
        loss: Loss::BinaryCrossEntropy,
        outputs: 1,
        weight,
        reaches: true,
    };
    vec![task("click", 1.0), task("buy", 0.5), task("rate", 0.0)]
}

/// Row 5 is padding; `buy` has labels in rows 0 to 2 only.
fn batch(rows: std::ops::Range<usize>) -> Batch {
    let weight = |row: usize, task: usize| match (row, task) {
        (5, _) | (3.., 1) => 0.0,
        (row, _) => 0.5 + row as f32,
    };
    let target = |task: usize| Target {
        label: rows.clone().map(|row| (row % 2) as f32).collect(),
        weight: rows.clone().map(|row| weight(row, task)).collect(),
    };
    Batch {
        rows: rows.len(),
        targets: (0..3).map(target).collect(),
        present: rows.map(|row| row != 5).collect(),
        ..Batch::default()
    }
}

/// Logits of the three tasks, a penalty, other logits of `buy`, and three classes; the number in row 5 is no number.
fn tensors() -> Vec<Tensor> {
    let of = |columns: usize, seed| {
        let mut values: Vec<f32> = numbers(&random(&[ROWS, columns], seed)).iter().map(|&v| v as f32).collect();
        values[5 * columns..6 * columns].fill(f32::NAN);
        Tensor::from_vec(values, (ROWS, columns), &candle_core::Device::Cpu).unwrap()
    };
    vec![of(1, 1), of(1, 2), of(1, 3), of(1, 4), of(1, 5), of(3, 6)]
}

fn output(tensors: &[Tensor], rows: std::ops::Range<usize>) -> Output {
    let part = |t: &Tensor| t.narrow(0, rows.start, rows.len()).unwrap();
    let targets = rows.clone().map(|row| (row % 3 != 1).then_some((row % 3) as u32)).collect();
    let terms = [
        (0, 3, 0.3, TermKind::Penalty),
        (1, 4, 0.7, TermKind::Label),
        (0, 5, 2.0, TermKind::Class { targets }),
        (2, 3, 9.0, TermKind::Penalty),
    ];
    let term = |(task, tensor, weight, kind)| Term { task, tensor: part(&tensors[tensor]), weight, kind };
    Output { terms: terms.map(term).to_vec(), ..Output::new(tensors[..3].iter().map(part).collect(), Vec::new()) }
}

fn losses(comm: &dyn Communicator, tensors: &[Tensor], rows: std::ops::Range<usize>) -> Losses {
    compute(comm, &tasks(), &output(tensors, rows.clone()), &batch(rows), Asks::default()).unwrap()
}

#[test]
fn what_one_rank_asks_for_is_asked_by_all() {
    for (stop, wait) in [(None, None), (Some(0), None), (None, Some(1)), (Some(1), Some(0))] {
        let found = threads::ranks(2, |comm| {
            let mine = |rank: Option<usize>| rank == Some(comm.rank());
            let asks = Asks { stop: mine(stop), wait: mine(wait) };
            compute(comm, &tasks(), &output(&tensors(), 0..ROWS), &batch(0..ROWS), asks).unwrap().asks
        });
        assert_eq!(found, [Asks { stop: stop.is_some(), wait: wait.is_some() }; 2]);
    }
}

/// Binary cross-entropy of a task's labelled rows of the whole batch, written out.
fn entropy(logits: &Tensor, task: usize) -> f64 {
    let (batch, logits) = (batch(0..ROWS), numbers(logits));
    let target = &batch.targets[task];
    let (mut sum, mut count) = (0.0, 0.0);
    for row in (0..ROWS).filter(|&row| target.weight[row] > 0.0) {
        let probability = 1.0 / (1.0 + (-logits[row]).exp());
        let likelihood = if target.label[row] == 1.0 { probability } else { 1.0 - probability };
        sum -= f64::from(target.weight[row]) * likelihood.ln();
        count += f64::from(target.weight[row]);
    }
    sum / count
}

#[test]
fn a_task_s_loss_is_its_labels_and_its_terms_by_the_counts_of_all_ranks() {
    let tensors = tensors();
    let (penalties, classes) = (numbers(&tensors[3]), numbers(&tensors[5]));
    let penalty = (0..ROWS).filter(|&row| row != 5).map(|row| penalties[row]).sum::<f64>() / 7.0;
    let class = |row: usize| {
        let row = &classes[row * 3..][..3];
        row.iter().map(|z| z.exp()).sum::<f64>().ln()
    };
    // Rows 0, 2, 3 and 6 have a class; so would row 5, which is padding.
    let class = [0, 2, 3, 6].map(|row| class(row) - classes[row * 3 + row % 3]).iter().sum::<f64>() / 4.0;
    let plain = [entropy(&tensors[0], 0), entropy(&tensors[1], 1), entropy(&tensors[2], 2)];
    let click = plain[0] + 0.3 * penalty + 2.0 * class;
    let buy = 0.5 * (plain[1] + 0.7 * entropy(&tensors[4], 1));

    // The second and fourth quarter have no label of `buy`, and of two ranks the second has none.
    for cuts in [vec![0, 8], vec![0, 3, 8], vec![0, 2, 3, 5, 8], vec![0, 5, 6, 8]] {
        let ranks = threads::ranks(cuts.len() - 1, |comm| {
            losses(comm, &tensors, cuts[comm.rank()]..cuts[comm.rank() + 1]).into_numbers()
        });
        for (means, all_plain, present, _) in &ranks {
            assert_close(means, &[click, buy, 0.0], 1e-6, "losses");
            assert_close(all_plain, &plain, 1e-6, "plain losses");
            assert_eq!(present, &[true, true, false]);
        }
        // Every number of the cotangents is finite, and side by side they are those of one rank.
        let [(_, _, _, whole)] = &threads::ranks(1, |comm| losses(comm, &tensors, 0..ROWS).into_numbers())[..] else {
            panic!("one rank");
        };
        for (start, whole) in whole.iter().enumerate() {
            let joined: Vec<f64> = ranks.iter().flat_map(|(_, _, _, starts)| starts[start].clone()).collect();
            assert_close(&joined, whole, 1e-6, "cotangents");
        }
    }
}

#[test]
fn cotangents_match_finite_differences() {
    const STEP: f32 = 1e-2;
    let tensors = tensors();
    let alone = |tensors: &[Tensor]| threads::ranks(1, |comm| losses(comm, tensors, 0..ROWS).into_numbers()).remove(0);
    let (_, _, _, starts) = alone(&tensors);
    // Task and tensor of each start, in the order of the tasks.
    for (start, (task, tensor)) in [(0, 0), (0, 3), (0, 5), (1, 1), (1, 4)].into_iter().enumerate() {
        let gradient = &starts[start];
        for (i, gradient) in gradient.iter().enumerate() {
            let columns = gradient_columns(tensor);
            let moved = |step: f32| {
                let mut values: Vec<f32> = numbers(&tensors[tensor]).iter().map(|&v| v as f32).collect();
                values[i] += step;
                let mut moved = tensors.clone();
                moved[tensor] = Tensor::from_vec(values, (ROWS, columns), &candle_core::Device::Cpu).unwrap();
                alone(&moved).0[task]
            };
            let numeric = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
            assert!((numeric - gradient).abs() < 1e-4, "start {start}, {i}: {numeric} by differences, {gradient}");
        }
    }
    assert_eq!(starts.len(), 5, "a task that is not trained starts nowhere");
}

fn gradient_columns(tensor: usize) -> usize {
    if tensor == 5 { 3 } else { 1 }
}

#[test]
fn a_term_that_is_not_finite_names_its_task_and_one_of_another_shape_is_refused() {
    let with = |term: Term| {
        let output = Output { terms: vec![term], ..Output::new(tensors()[..3].to_vec(), Vec::new()) };
        let results = threads::ranks(1, |comm| {
            let losses = compute(comm, &tasks(), &output, &batch(0..ROWS), Asks::default());
            losses.map(|losses| (losses.finite, losses.bad)).map_err(|error| error.to_string())
        });
        results.into_iter().next().unwrap()
    };
    let mut values = vec![0.5f32; ROWS];
    values[6] = f32::INFINITY;
    let infinite = Tensor::from_vec(values, (ROWS, 1), &candle_core::Device::Cpu).unwrap();
    let found = with(Term { task: 1, tensor: infinite, weight: 1.0, kind: TermKind::Penalty });
    assert_eq!(found, Ok((false, Some(BadLoss { task: 1, term: true, rows: vec![6] }))));
    for (tensor, kind) in [
        (random(&[ROWS, 2], 1), TermKind::Penalty),
        (random(&[ROWS - 1, 1], 1), TermKind::Label),
        (random(&[ROWS, 2], 1), TermKind::Class { targets: vec![None] }),
    ] {
        let refused = with(Term { task: 1, tensor, weight: 1.0, kind }).unwrap_err();
        assert!(refused.contains("does not fit 8 rows"), "{refused}");
    }
}

#[test]
fn all_ranks_see_that_one_is_not_finite() {
    let mut tensors = tensors();
    let mut values: Vec<f32> = numbers(&tensors[1]).iter().map(|&v| v as f32).collect();
    values[1] = f32::NAN;
    tensors[1] = Tensor::from_vec(values, (ROWS, 1), &candle_core::Device::Cpu).unwrap();
    let found = threads::ranks(2, |comm| {
        let losses = losses(comm, &tensors, 4 * comm.rank()..4 * (comm.rank() + 1));
        (losses.finite, losses.bad)
    });
    assert_eq!(found, [(false, Some(BadLoss { task: 1, term: false, rows: vec![1] })), (false, None)]);
}

impl Losses {
    /// What can be sent between threads: means, plain means, presence, and the cotangents of all starts in order.
    fn into_numbers(self) -> (Vec<f64>, Vec<f64>, Vec<bool>, Vec<Vec<f64>>) {
        let starts = self.starts.iter().flatten().map(|start| numbers(&start.cotangent)).collect();
        (self.means, self.plain, self.present, starts)
    }
}
