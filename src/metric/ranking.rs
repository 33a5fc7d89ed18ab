//! Recall@k and NDCG@k of full rankings (Järvelin & Kekäläinen 2002, with gains of 0 and 1).
//!
//! For a query with the set R of relevant candidates and the k best candidates, whose relevant ones stand at places
//! p = 1, 2, …:
//!
//! ```text
//! recall@k = hits / |R|          ndcg@k = Σ_hits 1/log₂(p + 1) / Σ_{p ≤ min(k, |R|)} 1/log₂(p + 1)
//! ```
//!
//! Both are means over queries, all alike. Who ranks the candidates is [`crate::train`]'s business.

use super::sum::ExactSum;
use super::{Name, Value, quotient};
use crate::comm::{Communicator, collectives};
use crate::error::Result;

/// The means over the queries of one rank, being gathered.
#[derive(Debug)]
pub struct Ranking {
    at: Vec<usize>,
    recall: Vec<ExactSum>,
    ndcg: Vec<ExactSum>,
    queries: u64,
    skipped: u64,
}

impl Ranking {
    /// For rankings cut at each of `at`.
    pub fn new(at: &[usize]) -> Self {
        let sums = vec![ExactSum::default(); at.len()];
        Self { at: at.to_vec(), recall: sums.clone(), ndcg: sums, queries: 0, skipped: 0 }
    }

    /// The longest ranking that is looked at.
    pub fn longest(&self) -> usize {
        self.at.iter().copied().max().unwrap_or(0)
    }

    /// Takes in one query with `relevant` relevant candidates, at least one: `hits` are the places of the ranking,
    /// from 0, that hold one, in order and complete up to [`Ranking::longest`].
    pub fn add(&mut self, hits: &[usize], relevant: usize) {
        debug_assert!(relevant > 0 && hits.is_sorted());
        let gain = |place: usize| 1.0 / (place as f64 + 2.0).log2();
        for ((&k, recall), ndcg) in self.at.iter().zip(&mut self.recall).zip(&mut self.ndcg) {
            let hits = &hits[..hits.partition_point(|&place| place < k)];
            recall.add(hits.len() as f64 / relevant as f64);
            let best: f64 = (0..k.min(relevant)).map(gain).sum();
            ndcg.add(hits.iter().map(|&place| gain(place)).sum::<f64>() / best);
        }
        self.queries += 1;
    }

    /// Counts a query that cannot be ranked.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    /// The values over all ranks: recalls, NDCGs, the queries they are means over, and those left out. Collective.
    pub fn finish(self, comm: &dyn Communicator) -> Result<Vec<(Name, Value)>> {
        let mut counts = [self.queries, self.skipped];
        collectives::all_reduce_sum(comm, &mut counts)?;
        let mut values = Vec::new();
        for (metric, sums) in [(RECALL, self.recall), (NDCG, self.ndcg)] {
            for (k, sum) in self.at.iter().zip(sums) {
                values.push((name(metric, *k), quotient(sum.finish(comm)?, counts[0] as f64)));
            }
        }
        values.push(("queries".into(), Value::Count(counts[0])));
        values.push(("queries_skipped".into(), Value::Count(counts[1])));
        Ok(values)
    }
}

const RECALL: &str = "recall";
const NDCG: &str = "ndcg";

fn name(metric: &str, k: usize) -> Name {
    format!("{metric}@{k}").into()
}

/// Names of the values that a task with rankings cut at `at` can be judged by.
pub(super) fn names(at: &[usize]) -> impl Iterator<Item = Name> {
    [RECALL, NDCG].into_iter().flat_map(move |metric| at.iter().map(move |&k| name(metric, k)))
}

/// Whether `name` is one of these, for some k.
pub(super) fn is_name(name: &str) -> bool {
    let k = |(metric, k): (&str, &str)| [RECALL, NDCG].contains(&metric) && k.parse::<usize>().is_ok_and(|k| k > 0);
    name.split_once('@').is_some_and(k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{solo::Solo, threads};
    use crate::metric::testing::dealt;
    use proptest::prelude::*;

    type Query = (Vec<usize>, usize);

    fn values(queries: &[Query], ranks: usize, at: &[usize]) -> Vec<Value> {
        let values = threads::ranks(ranks, |comm| {
            let mut ranking = Ranking::new(at);
            let refs: Vec<&Query> = queries.iter().collect();
            dealt(&refs, comm).into_iter().for_each(|(hits, relevant)| ranking.add(hits, *relevant));
            ranking.finish(comm).unwrap().into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        });
        assert!(values.iter().all(|v| *v == values[0]));
        values[0].clone()
    }

    #[test]
    fn hits_are_counted_up_to_k_and_discounted_by_place() {
        let mut ranking = Ranking::new(&[1, 3]);
        ranking.add(&[0, 2, 3], 5);
        ranking.add(&[1], 1);
        ranking.skip();
        let values = ranking.finish(&Solo).unwrap();
        let ideal = 1.0 + 1.0 / 3f64.log2() + 0.5;
        let expected = [
            ("recall@1", (1.0 / 5.0 + 0.0) / 2.0),
            ("recall@3", (2.0 / 5.0 + 1.0) / 2.0),
            ("ndcg@1", 0.5),
            ("ndcg@3", ((1.0 + 0.5) / ideal + 1.0 / 3f64.log2()) / 2.0),
            ("queries", 2.0),
            ("queries_skipped", 1.0),
        ];
        for ((name, value), (wanted, number)) in values.iter().zip(expected) {
            assert!(name == wanted && (value.get().unwrap() - number).abs() < 1e-15, "{name}: {value:?}, {number}");
        }
    }

    #[test]
    fn without_a_query_there_is_no_mean() {
        let values = Ranking::new(&[10]).finish(&Solo).unwrap();
        assert_eq!(values[..2], [("recall@10".into(), Value::Undefined), ("ndcg@10".into(), Value::Undefined)]);
    }

    #[test]
    fn names_are_told_from_others() {
        assert!(["recall@20", "ndcg@1"].iter().all(|name| is_name(name)));
        assert!(["recall", "recall@", "recall@0", "recall@x", "auc@3", "@3"].iter().all(|name| !is_name(name)));
        assert!(names(&[10, 20]).all(|name| is_name(&name)));
    }

    proptest! {
        #![proptest_config(crate::metric::testing::fixed())]

        #[test]
        fn the_ranks_do_not_matter_and_all_is_within_0_and_1(
            queries in prop::collection::vec((prop::collection::btree_set(0usize..12, 0..6), 0usize..4), 1..30),
        ) {
            let queries: Vec<Query> =
                queries.into_iter().map(|(hits, more)| { let n = hits.len(); (hits.into_iter().collect(), (n + more).max(1)) }).collect();
            let one = values(&queries, 1, &[3, 12]);
            prop_assert!(one[..4].iter().all(|value| value.get().is_some_and(|v| (0.0..=1.0).contains(&v))));
            prop_assert!(one[0].get() <= one[1].get());
            for ranks in 2..=4 {
                prop_assert_eq!(&values(&queries, ranks, &[3, 12]), &one);
            }
        }
    }
}
