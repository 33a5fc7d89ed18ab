//! It does not matter which client is on which rank.

use super::{How, place, run, states};
use tandem::comm::threads;

#[test]
fn clients_alone_on_a_rank_or_several_on_one_come_to_the_same_bits() {
    let place = place();
    for (i, more) in ["federated.method=pf_msmtrec", "federated.embeddings=true"].into_iter().enumerate() {
        let job = place.job(&[more]);
        let of = |ranks: usize| {
            let run_dir = place.path(&format!("run-{i}-{ranks}"));
            run(&job, ranks, &run_dir, How { threads: threads::Options::unruly(ranks as u64), ..How::default() });
            states(&run_dir)
        };
        let alone = of(1);
        assert_eq!(of(2), alone, "{more}");
        assert_eq!(of(3), alone, "{more}");
        // One client on two ranks: sums in another order.
        for (state, other) in alone.iter().zip(of(4)) {
            state.assert_close(&other, 5e-4, more);
        }
    }
}
