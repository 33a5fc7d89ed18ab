//! Lookups that are announced a step before.

use super::*;

const ADAGRAD: &str = "{kind: rowwise_adagrad, lr: 0.05}";
const LIMITED: &str = "{admission: {min_count: 2}, eviction: {max_rows: 32}}";

/// As [`train_step`], with the next step's ids on their way between lookup and update.
fn announcing(embeddings: &mut Embeddings, comm: &dyn Communicator, step: u64) {
    let rows = share(comm).len();
    let lookup = embeddings.lookup(comm, &ids_of_step(comm, step, 60), rows, Mode::Train { step }).unwrap();
    embeddings.announce(comm, &ids_of_step(comm, step + 1, 60), rows, step + 1).unwrap();
    train_with(embeddings, comm, step, lookup);
}

#[test]
fn announced_ids_train_the_same_rows() {
    for (size, options) in [(1, "{}"), (2, "{}"), (3, LIMITED), (4, LIMITED)] {
        let ahead = threads::ranks(size, |comm| {
            let mut embeddings = build(options, ADAGRAD, comm);
            for step in 0..12 {
                announcing(&mut embeddings, comm, step);
                if step % 5 == 2 {
                    let ids = ids_of_step(comm, 99, 60);
                    embeddings.lookup(comm, &ids, share(comm).len(), Mode::Evaluate).unwrap();
                }
            }
            embeddings.call_off(comm).unwrap();
            vec![export(&embeddings, 0), export(&embeddings, 1)]
        });
        assert_eq!(collect(&ahead), collect(&train(size, options, ADAGRAD, 0..12, 60)), "{size} ranks, {options}");
    }
}

#[test]
fn another_step_than_the_announced_one_is_refused() {
    let errors = threads::ranks(2, |comm| {
        let mut embeddings = build("{}", ADAGRAD, comm);
        announcing(&mut embeddings, comm, 0);
        let lookup = embeddings.lookup(comm, &ids_of_step(comm, 2, 60), share(comm).len(), Mode::Train { step: 2 });
        lookup.unwrap_err().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("step 1 was announced, and step 2 taken")), "{errors:?}");
}
