//! Every rule of [`super`], broken one at a time.

use super::*;

const JOB: &str = "\
name: small
data: {train: a, valid: b}
features:
  - {name: age, kind: numeric}
  - {name: item, kind: categorical, dim: 8}
  - {name: history, kind: sequence, table: item}
  - {name: pair, kind: cross, columns: [a, b], dim: 4}
  - {name: image, kind: vector, length: 3}
tables:
  item: {}
tasks:
  - {name: click, label: y}
  - {name: buy, label: z, where: y}
model: {kind: mmoe}
";

fn job(from: &str, to: &str) -> Job {
    assert!(JOB.contains(from), "{from}");
    serde_yaml::from_str(&JOB.replacen(from, to, 1)).unwrap()
}

/// Replaces one piece of the job and expects an error at `key` that has `part`.
fn assert_refused(from: &str, to: &str, key: &str, part: &str) {
    match check(&job(from, to)) {
        Ok(()) => panic!("accepted {to}"),
        Err(error) => {
            assert_eq!(error.place("key"), Some(key), "{to}: {error}");
            assert!(error.to_string().contains(part), "{to}: no {part:?} in {error}");
        }
    }
}

#[test]
fn a_right_job_passes_and_stays_right() {
    let checked = Checked::new(job("", "")).unwrap();
    assert_eq!(checked.table_dims().len(), 2);
    assert_eq!(checked.features[2].dim, Some(8));
    Checked::new(checked.into_job()).unwrap();
}

#[test]
fn names_can_be_files() {
    for name in ["''", "a/b", "'..'", ".hidden", "' a'", r#""a\nb""#, r"a\b", &"x".repeat(101)] {
        assert_refused("name: small", &format!("name: {name}"), "name", "named after it");
        assert_refused("name: age", &format!("name: {name}"), "features[0].name", "named after it");
        assert_refused("name: click", &format!("name: {name}"), "tasks[0].name", "named after it");
    }
    assert_refused("dim: 4", "dim: 4, table: a/b", "features[3].table", "slash");
    assert!(check(&job("name: age", "name: Alter_über 7 Jahre-x.y")).is_ok());
}

#[test]
fn data_and_training() {
    for (from, to, key, part) in [
        ("train: a", "train: []", "data.train", "a path is empty"),
        ("valid: b", "valid: ['']", "data.valid", "a path is empty"),
        ("valid: b", "test: ' '", "data.test", "a path is empty"),
        ("valid: b", "lanes: 0", "data.lanes", "1 or more"),
        ("valid: b", "lanes: 5", "data.lanes", "use `lanes: 4`"),
        ("valid: b", "lanes: 8192", "data.lanes", "use `lanes: 4096`"),
        ("valid: b", "shuffle_window: 0", "data.shuffle_window", "1 or more"),
        ("valid: b", "prefetch: 0", "data.prefetch", "1 or more"),
        ("model:", "train: {global_batch: 0}\nmodel:", "train.global_batch", "1 or more"),
        ("model:", "train: {global_batch: 3000000000}\nmodel:", "train.global_batch", "at most"),
        ("model:", "train: {epochs: 0}\nmodel:", "train.epochs", "1 or more"),
        ("model:", "train: {max_steps: 0}\nmodel:", "train.max_steps", "0 steps"),
        ("model:", "train: {log_every: 0}\nmodel:", "train.log_every", "1 or more"),
        ("model:", "train: {eval: {global_batch: 0}}\nmodel:", "train.eval.global_batch", "1 or more"),
        ("model:", "train: {eval: {best: {task: clik}}}\nmodel:", "train.eval.best.task", "did you mean `click`"),
        ("model:", "train: {eval: {stop: {task: x, patience: 1}}}\nmodel:", "train.eval.stop.task", "click, buy, mean"),
        ("model:", "train: {eval: {stop: {patience: 0}}}\nmodel:", "train.eval.stop.patience", "1 or more"),
        ("model:", "optimizer: {clip_norm: 0}\nmodel:", "optimizer.clip_norm", "above 0"),
        ("model:", "optimizer: {clip_norm: .inf}\nmodel:", "optimizer.clip_norm", "finite"),
        ("model:", "checkpoint: {keep: 0}\nmodel:", "checkpoint.keep", "1 or more"),
        ("model:", "checkpoint: {buckets: 0}\nmodel:", "checkpoint.buckets", "use 1"),
        ("model:", "checkpoint: {buckets: 1000}\nmodel:", "checkpoint.buckets", "use 1024"),
        ("model:", "checkpoint: {buckets: 131072}\nmodel:", "checkpoint.buckets", "use 65536"),
        ("model:", "run_dir: ''\nmodel:", "run_dir", "empty"),
        ("model:", "threads: 0\nmodel:", "threads", "1 or more"),
        ("model:", "memory_limit: 0 GiB\nmodel:", "memory_limit", "no memory"),
    ] {
        assert_refused(from, to, key, part);
    }
    let stop = "data: {train: a}\ntrain: {eval: {stop: {patience: 1}}}";
    assert_refused("data: {train: a, valid: b}", stop, "train.eval.stop", "add `data.valid`");
}

#[test]
fn features_have_the_keys_of_their_kind() {
    for (from, to, key, part) in [
        ("name: item", "name: age", "features[1].name", "two features are named `age`"),
        ("kind: numeric", "kind: numeric, dim: 4", "features[0].dim", "transform: quantile"),
        ("kind: numeric", "kind: numeric, buckets: 4", "features[0].buckets", "transform: quantile"),
        ("kind: numeric", "kind: numeric, transform: quantile", "features[0].dim", "add `dim: 16`"),
        ("kind: numeric", "kind: numeric, transform: quantile, dim: 4, buckets: 1", "features[0].buckets", "from 2"),
        ("kind: numeric", "kind: numeric, pooling: sum", "features[0].pooling", "column, transform"),
        ("kind: numeric", "kind: numeric, column: ''", "features[0].column", "empty"),
        ("dim: 8", "dim: 0", "features[1].dim", "from 1 to 65536"),
        ("dim: 8", "dim: 8, transform: log1p", "features[1].transform", "which is categorical"),
        ("dim: 8", "dim: 8, columns: [a, b]", "features[1].columns", "kind: cross"),
        ("dim: 8", "dim: 8, pooling: none", "features[1].pooling", "order of a sequence"),
        ("dim: 8", "dim: 8, pooling: attention", "features[1].pooling", "order of a sequence"),
        ("dim: 8", "dim: 8, target: age", "features[1].target", "does not go with"),
        ("table: item", "table: item, max_len: 0", "features[2].max_len", "from 1"),
        ("table: item", "table: item, length: 3", "features[2].length", "does not go with"),
        ("columns: [a, b]", "column: a", "features[3].column", "columns: [a, b]"),
        ("columns: [a, b]", "columns: [a]", "features[3].columns", "two or more"),
        ("columns: [a, b]", "columns: [a, a]", "features[3].columns", "different"),
        ("columns: [a, b]", "columns: [a, '']", "features[3].columns", "empty"),
        ("length: 3", "column: x", "features[4].length", "add `length: …`"),
        ("length: 3", "length: 0", "features[4].length", "from 1"),
        ("length: 3", "length: 3, dim: 3", "features[4].dim", "does not go with"),
    ] {
        assert_refused(from, to, key, part);
    }
    assert!(check(&job("kind: numeric", "kind: numeric, transform: quantile, dim: 4, buckets: 10")).is_ok());
    let none = serde_yaml::from_str("name: x\ndata: {train: a}\nfeatures: []\ntasks: []\nmodel: {kind: m}").unwrap();
    assert_eq!(check(&none).unwrap_err().place("key"), Some("features"));
}

#[test]
fn attention_has_a_target_of_its_own_length() {
    for (to, part) in [
        ("table: item, pooling: attention", "names no target"),
        ("table: item, target: item", "not pooled by attention"),
        ("table: item, pooling: attention, target: itm", "did you mean `item`"),
        ("table: item, pooling: attention, target: age", "one id a row"),
        ("dim: 4, pooling: attention, target: item", "dim 4 and its target `item` has dim 8"),
    ] {
        assert_refused("table: item", to, "features[2].target", part);
    }
    assert!(check(&job("table: item", "dim: 8, pooling: attention, target: item")).is_ok());
    let mut many = job("table: item", "table: item, pooling: attention, target: item");
    assert!(check(&many).is_ok());
    many.features[1].max_len = Some(5);
    assert!(check(&many).unwrap_err().to_string().contains("one id a row"));
}

#[test]
fn tables_have_one_dim_and_a_reader() {
    for (from, to, key, part) in [
        ("table: item", "table: item, dim: 4", "features[2].dim", "dim 4 by feature `history` and 8 by feature `item`"),
        ("item: {}", "item: {dim: 4}", "features[1].dim", "8 by feature `item` and 4 by `tables.item`"),
        (", dim: 4", "", "features[3].dim", "table `pair` has no dimension"),
        ("item: {}", "itme: {}", "tables.itme", "did you mean `item`"),
        ("item: {}", "item: {dim: 0}", "tables.item.dim", "from 1"),
        ("item: {}", "item: {admission: {}}", "tables.item.admission", "set `min_count`"),
        ("item: {}", "item: {admission: {min_count: 0}}", "tables.item.admission.min_count", "1 or more"),
        ("item: {}", "item: {admission: {probability: 0}}", "tables.item.admission.probability", "above 0"),
        ("item: {}", "item: {admission: {probability: 1.1}}", "tables.item.admission.probability", "at most 1"),
        ("item: {}", "item: {admission: {probability: .nan}}", "tables.item.admission.probability", "NaN"),
        ("item: {}", "item: {eviction: {policy: lfu}}", "tables.item.eviction", "set `max_rows`"),
        ("item: {}", "item: {eviction: {max_rows: 0}}", "tables.item.eviction.max_rows", "1 or more"),
        ("item: {}", "item: {eviction: {max_age_steps: 0}}", "tables.item.eviction.max_age_steps", "1 or more"),
    ] {
        assert_refused(from, to, key, part);
    }
    // One statement is enough, wherever it stands.
    let by_table = "  - {name: item, kind: categorical}\n";
    let mut by_table = job("  - {name: item, kind: categorical, dim: 8}\n", by_table);
    assert!(check(&by_table).is_err());
    by_table.tables.get_mut("item").unwrap().dim = Some(6);
    assert_eq!(Checked::new(by_table).unwrap().table_dims()["item"], 6);
}

#[test]
fn tasks_are_learnable() {
    for (from, to, key, part) in [
        ("name: buy", "name: click", "tasks[1].name", "two tasks are named"),
        ("name: buy", "name: mean", "tasks[1].name", "cannot name one"),
        ("label: z", "label: ''", "tasks[1].label", "empty"),
        ("where: y", "where: z", "tasks[1].where", "only see rows whose label is true"),
        ("where: y", "kind: multiclass", "tasks[1].classes", "add `classes: …`"),
        ("where: y", "kind: multiclass, classes: 1", "tasks[1].classes", "from 2"),
        ("where: y", "classes: 3", "tasks[1].classes", "kind: multiclass"),
        ("where: y", "kind: regression, positive: [1]", "tasks[1].positive", "is not binary"),
        ("where: y", "weight: -1", "tasks[1].weight", "not negative"),
        ("where: y", "weight: .nan", "tasks[1].weight", "NaN"),
        ("where: y", "kind: regression, gauc: user", "tasks[1].gauc", "binary"),
        ("name: age", "name: y", "features[0]", "the label of task `click`"),
        ("kind: numeric", "kind: numeric, column: z", "features[0]", "the label of task `buy`"),
        ("columns: [a, b]", "columns: [a, y]", "features[3]", "the label of task `click`"),
    ] {
        assert_refused(from, to, key, part);
    }
    assert!(check(&job("where: y", "kind: multiclass, classes: 3")).is_ok());
    let mut unweighted = job("", "");
    unweighted.tasks.iter_mut().for_each(|task| task.weight = 0.0);
    assert_eq!(check(&unweighted).unwrap_err().place("key"), Some("tasks"));
    unweighted.tasks.clear();
    assert!(check(&unweighted).unwrap_err().to_string().contains("no tasks"));
}

const PAIRS: &str = "\
name: pairs
data: {train: a, valid: b}
features:
  - {name: user, kind: categorical, dim: 8}
  - {name: item, kind: categorical, dim: 8}
  - {name: seen, kind: sequence, table: item, max_len: 1}
tasks:
  - {name: like, kind: bpr, pair: [user, item], where: y, negatives: {count: 2}}
  - {name: view, label: z, pair: [item, seen], ranking: {at: [5]}}
model: {kind: mf}
";

fn pairs(from: &str, to: &str) -> Job {
    assert!(PAIRS.contains(from), "{from}");
    serde_yaml::from_str(&PAIRS.replacen(from, to, 1)).unwrap()
}

#[test]
fn pairs_are_of_two_id_features_of_one_dim() {
    for (from, to, key, part) in [
        ("[user, item]", "[user, itm]", "tasks[0].pair", "did you mean `item`"),
        ("[user, item]", "[seen, user]", "tasks[0].pair", "put it on the right: `pair: [user, seen]`"),
        (
            "user, kind: categorical, dim: 8",
            "user, kind: categorical, dim: 4",
            "tasks[0].pair",
            "of dim 4 with `item` of dim 8",
        ),
        ("user, kind: categorical, dim: 8", "user, kind: numeric", "tasks[0].pair", "numbers in place of ids"),
        ("max_len: 1", "max_len: 1, pooling: sum", "features[2].pooling", "one id is drawn"),
        (
            "label: z, pair: [item, seen], ranking: {at: [5]}",
            "label: z",
            "tasks[1].pair",
            "task `view` has no pair, and task `like` has one",
        ),
        ("[item, seen]", "[user, item]", "features[2]", "`seen` is in no pair"),
        ("pair: [user, item], ", "", "tasks[0].pair", "bpr and has no pair"),
        ("kind: bpr,", "kind: bpr, label: y,", "tasks[0].label", "name the column that says which in `where`"),
        ("kind: bpr,", "", "tasks[0].label", "`label` is missing"),
        ("kind: bpr,", "label: w,", "tasks[0].negatives", "is not bpr"),
        ("kind: bpr,", "kind: bpr, gauc: user,", "tasks[0].gauc", "binary"),
        ("{count: 2}", "{count: 0}", "tasks[0].negatives.count", "from 1"),
        ("{count: 2}", "{popularity: .nan}", "tasks[0].negatives.popularity", "0.75"),
        ("{count: 2}", "{max_pairs: 0}", "tasks[0].negatives.max_pairs", "1 or more"),
        ("label: z,", "label: z, kind: multiclass, classes: 3,", "tasks[1].pair", "one score"),
        ("label: z,", "label: z, kind: regression,", "tasks[1].ranking", "cannot be ranked"),
        ("[5]", "[0]", "tasks[1].ranking.at", "from 1"),
        ("[5]", "[5, 5]", "tasks[1].ranking.at", "twice"),
    ] {
        match check(&pairs(from, to)) {
            Ok(()) => panic!("accepted {to}"),
            Err(error) => {
                assert_eq!(error.place("key"), Some(key), "{to}: {error}");
                assert!(error.to_string().contains(part), "{to}: no {part:?} in {error}");
            }
        }
    }
    let numbers_only = "name: x\ndata: {train: a}\nfeatures: [{name: age, kind: numeric}]\nmodel: {kind: mf}\n\
                        tasks: [{name: t, kind: bpr, pair: [age, age]}]";
    let error = check(&serde_yaml::from_str(numbers_only).unwrap()).unwrap_err();
    assert!(error.to_string().contains("add the two id columns"), "{error}");
    let mut unjudged = pairs("", "");
    unjudged.tasks.truncate(1);
    unjudged.features.truncate(2);
    assert!(check(&unjudged).is_ok());
    unjudged.tasks[0].ranking = Some(serde_yaml::from_str("{at: []}").unwrap());
    assert_eq!(check(&unjudged).unwrap_err().place("key"), Some("tasks[0].ranking.at"));
}

#[test]
fn a_bpr_task_has_its_defaults() {
    let checked = Checked::new(pairs(", negatives: {count: 2}", "")).unwrap();
    let task = &checked.tasks[0];
    assert_eq!((task.negatives.unwrap().count, task.ranked_at()), (1, &[10, 20][..]));
    assert_eq!((checked.tasks[1].negatives, checked.tasks[1].ranked_at()), (None, &[5][..]));
    Checked::new(checked.into_job()).unwrap();
}

#[test]
fn copies_go_where_they_can_be_written() {
    for to in ["", "https://host/runs"] {
        let to = format!("checkpoint: {{copy_to: \"{to}\"}}\ntables:");
        assert_refused("tables:", &to, "checkpoint.copy_to", "cannot be written to");
    }
    assert_refused(
        "tables:",
        "checkpoint: {copy_to: s3://shop/x}\nfederated: {clients: [{name: a, root: a}, {name: b, root: b}]}\ntables:",
        "checkpoint.copy_to",
        "federation",
    );
}
