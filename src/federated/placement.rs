//! Which rank works for which clients.
//!
//! With no more ranks than clients, rank r of R hosts the clients [N·r/R, N·(r+1)/R), each on that rank alone; with more, client i of
//! N is spread over the ranks [R·i/N, R·(i+1)/N).

use std::ops::Range;

/// The clients of `rank`.
pub fn hosted(clients: usize, rank: usize, ranks: usize) -> Range<usize> {
    if ranks <= clients {
        return clients * rank / ranks..clients * (rank + 1) / ranks;
    }
    let client = (0..clients).find(|i| rank < ranks * (i + 1) / clients).unwrap_or(0);
    client..client + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_rank_and_every_rank_a_client() {
        for clients in 1..8 {
            for ranks in 1..12 {
                let hosted: Vec<Range<usize>> = (0..ranks).map(|rank| hosted(clients, rank, ranks)).collect();
                assert!(hosted.iter().all(|h| !h.is_empty()), "{clients} on {ranks}: {hosted:?}");
                let mut all: Vec<usize> = hosted.iter().cloned().flatten().collect();
                assert!(all.is_sorted());
                all.dedup();
                assert_eq!(all, (0..clients).collect::<Vec<_>>());
            }
        }
        assert_eq!((0..4).map(|rank| hosted(3, rank, 4)).collect::<Vec<_>>(), [0..1, 1..2, 2..3, 2..3]);
    }
}
