//! The flat dense vector, and how it is cut over the ranks.
//!
//! ```text
//!   parameters reached by ≥ 2 losses        by one loss
//! | shared ............................ | own ............... |
//! | slice 0 | slice 1 | … | slice R−1   | slice 0 | … | R−1   |     each part padded to R equal slices
//!
//!   what a rank sends, with K gradient rows of the shared part and one of the own part:
//! | to rank 0: g₁ slice 0 … g_K slice 0, own slice 0 | to rank 1: … | … | to rank R−1 … |
//! ```
//!
//! One reduce-scatter of that buffer leaves each rank with its slice of every task's *global* gradient;
//! the optimizer and its moments live on the slice; one all-gather brings the parameters back.

use std::ops::Range;

/// Where each parameter stands in the flat vector of R ranks.
#[derive(Debug, Clone)]
pub struct Layout {
    ranks: usize,
    /// Parameters by index: true if two or more losses reach it.
    shared: Vec<bool>,
    /// Offset of each parameter inside its part (shared or own).
    offsets: Vec<usize>,
    lens: Vec<usize>,
    shared_slice: usize,
    own_slice: usize,
}

impl Layout {
    /// Lays out parameters of `lens[i]` floats; `shared[i]` says that two or more losses reach it.
    pub fn new(lens: &[usize], shared: &[bool], ranks: usize) -> Self {
        let mut totals = [0, 0];
        let offsets = lens
            .iter()
            .zip(shared)
            .map(|(&len, &is_shared)| {
                let total = &mut totals[usize::from(!is_shared)];
                *total += len;
                *total - len
            })
            .collect();
        Self {
            ranks,
            shared: shared.to_vec(),
            offsets,
            lens: lens.to_vec(),
            shared_slice: totals[0].div_ceil(ranks),
            own_slice: totals[1].div_ceil(ranks),
        }
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.lens.len()
    }

    /// Floats of parameter `index`.
    pub fn len_of(&self, index: usize) -> usize {
        self.lens[index]
    }

    /// Floats of the parameters that two or more losses reach.
    pub fn shared_len(&self) -> usize {
        self.lens.iter().zip(&self.shared).filter(|(_, shared)| **shared).map(|(len, _)| len).sum()
    }

    /// Floats of one rank's slice of the shared part.
    pub fn shared_slice(&self) -> usize {
        self.shared_slice
    }

    /// Floats of one rank's slice: shared, then own.
    pub fn slice(&self) -> usize {
        self.shared_slice + self.own_slice
    }

    /// Floats that one rank receives for `rows` gradient rows of the shared part.
    pub fn block(&self, rows: usize) -> usize {
        rows * self.shared_slice + self.own_slice
    }

    /// Adds `weight` times the gradient of parameter `index` to the send buffer of `rows` gradient rows: to row `row`
    /// if it is shared, else to the single own row.
    pub fn accumulate(
        &self,
        index: usize,
        (row, rows): (usize, usize),
        weight: f32,
        gradient: &[f32],
        send: &mut [f32],
    ) {
        debug_assert_eq!(gradient.len(), self.lens[index]);
        let (slice, base) = if self.shared[index] {
            (self.shared_slice, row * self.shared_slice)
        } else {
            (self.own_slice, rows * self.shared_slice)
        };
        for (rank, part, within) in pieces(self.offsets[index]..self.offsets[index] + self.lens[index], slice) {
            let at = rank * self.block(rows) + base + within;
            let sums = &mut send[at..at + part.len()];
            sums.iter_mut().zip(&gradient[part]).for_each(|(sum, &g)| *sum += weight * g);
        }
    }

    /// Whether two or more losses reach parameter `index`.
    pub fn is_shared(&self, index: usize) -> bool {
        self.shared[index]
    }

    /// The parts of `rank`'s slice of the shared part by parameter: its number among the shared ones, and where.
    pub fn shared_tensors(&self, rank: usize) -> Vec<(usize, Range<usize>)> {
        let shared = (0..self.parameters()).filter(|&index| self.shared[index]);
        let parts = shared.enumerate().flat_map(|(number, index)| {
            let whole = self.offsets[index]..self.offsets[index] + self.lens[index];
            pieces(whole, self.shared_slice)
                .map(move |(rank, part, within)| (rank, number, within..within + part.len()))
        });
        parts.filter(|(of, ..)| *of == rank).map(|(_, number, range)| (number, range)).collect()
    }

    /// Copies parameter `index` out of the gathered slices of all ranks (`ranks × slice()` floats).
    pub fn gather(&self, index: usize, gathered: &[f32], parameter: &mut [f32]) {
        self.visit(index, |at, part| parameter[part.clone()].copy_from_slice(&gathered[at..at + part.len()]));
    }

    /// Copies parameter `index` into the slices of all ranks (`ranks × slice()` floats).
    pub fn spread(&self, index: usize, parameter: &[f32], slices: &mut [f32]) {
        self.visit(index, |at, part| slices[at..at + part.len()].copy_from_slice(&parameter[part]));
    }

    /// Floats of all ranks' slices together, padding included.
    pub fn gathered_len(&self) -> usize {
        self.ranks * self.slice()
    }

    fn visit(&self, index: usize, mut each: impl FnMut(usize, Range<usize>)) {
        let (slice, base) =
            if self.shared[index] { (self.shared_slice, 0) } else { (self.own_slice, self.shared_slice) };
        for (rank, part, within) in pieces(self.offsets[index]..self.offsets[index] + self.lens[index], slice) {
            each(rank * self.slice() + base + within, part);
        }
    }
}

/// The layer of each shared parameter, numbered from 0 as they come: parameters of one layer have one name up to the last
/// dot.
pub fn layers(names: &[&str], shared: &[bool]) -> Vec<usize> {
    let mut known: Vec<&str> = Vec::new();
    let mut numbers = Vec::new();
    for (name, _) in names.iter().zip(shared).filter(|(_, shared)| **shared) {
        let layer = name.rsplit_once('.').map_or(*name, |(layer, _)| layer);
        numbers.push(known.iter().position(|name| *name == layer).unwrap_or(known.len()));
        if numbers.last() == Some(&known.len()) {
            known.push(layer);
        }
    }
    numbers
}

/// Cuts `range` of a vector of equal slices: (slice index, the part of the range's own elements, position
/// inside the slice).
fn pieces(range: Range<usize>, slice: usize) -> impl Iterator<Item = (usize, Range<usize>, usize)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let rank = at / slice;
        let end = range.end.min((rank + 1) * slice);
        let piece = (rank, at - range.start..end - range.start, at - rank * slice);
        at = end;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layouts() -> impl Strategy<Value = (Vec<usize>, Vec<bool>, usize)> {
        (prop::collection::vec((1usize..40, any::<bool>()), 1..8), 1usize..6).prop_map(|(parameters, ranks)| {
            let (lens, shared) = parameters.into_iter().unzip();
            (lens, shared, ranks)
        })
    }

    #[test]
    fn weights_and_bias_of_one_name_are_a_layer() {
        let names = ["a.0.weight", "a.0.bias", "gate.weight", "a.1.weight", "scale", "a.0.norm"];
        assert_eq!(layers(&names, &[true, true, false, true, true, true]), [0, 0, 1, 2, 0]);
    }

    proptest! {
        #[test]
        fn parameters_survive_slicing((lens, shared, ranks) in layouts()) {
            let layout = Layout::new(&lens, &shared, ranks);
            let mut slices = vec![f32::NAN; layout.gathered_len()];
            for (i, &len) in lens.iter().enumerate() {
                let values: Vec<f32> = (0..len).map(|j| (i * 100 + j) as f32).collect();
                layout.spread(i, &values, &mut slices);
            }
            for (i, &len) in lens.iter().enumerate() {
                let mut back = vec![0.0; len];
                layout.gather(i, &slices, &mut back);
                prop_assert_eq!(back, (0..len).map(|j| (i * 100 + j) as f32).collect::<Vec<_>>());
            }
            // No two parameters share a place: exactly the padding is untouched.
            let padding = slices.iter().filter(|v| v.is_nan()).count();
            prop_assert_eq!(padding, layout.gathered_len() - lens.iter().sum::<usize>());
        }

        #[test]
        fn each_rank_is_sent_its_slice_of_every_row((lens, shared, ranks) in layouts(), rows in 1usize..4) {
            let layout = Layout::new(&lens, &shared, ranks);
            let mut send = vec![0.0; ranks * layout.block(rows)];
            for row in 0..rows {
                for (i, &len) in lens.iter().enumerate() {
                    let tag = if shared[i] { (row + 1) as f32 } else { 9.0 };
                    if row == 0 || shared[i] {
                        layout.accumulate(i, (row, rows), 1.0, &vec![tag; len], &mut send);
                    }
                }
            }
            for block in send.chunks_exact(layout.block(rows).max(1)) {
                for (row, values) in block[..rows * layout.shared_slice()].chunks_exact(layout.shared_slice().max(1)).enumerate() {
                    prop_assert!(values.iter().all(|&v| v == (row + 1) as f32 || v == 0.0));
                }
            }
            let sent = send.iter().filter(|&&v| v != 0.0).count();
            let shared_len: usize = lens.iter().zip(&shared).filter(|(_, s)| **s).map(|(l, _)| l).sum();
            prop_assert_eq!(sent, shared_len * rows + lens.iter().sum::<usize>() - shared_len);
        }
    }
}
