//! What is collected against a plain reading of the rows, and what the loader then draws.

use super::super::super::batch::{Batch, Origin};
use super::super::super::lanes::{Cursor, Layout, Order};
use super::super::super::loader::{Loader, Options, Source};
use super::super::super::plan::Plan;
use super::super::super::reader::Columns;
use super::super::super::schema::Purpose;
use super::super::super::store::{Local, Store};
use super::super::super::testing::{TestFile, ints, job};
use super::*;
use crate::comm::solo::Solo;
use crate::comm::threads;
use arrow::array::{ArrayRef, Int64Array, ListArray};
use arrow::datatypes::Int64Type;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const FEATURES: &str = "
features:
  - {name: user, kind: categorical, dim: 4}
  - {name: item, kind: categorical, dim: 4}
  - {name: tags, kind: categorical, dim: 4}
  - {name: next, kind: categorical, dim: 4, table: item}
tasks:
";
const TASKS: &str = "
  - {name: like, kind: bpr, pair: [user, item], where: like, negatives: {count: 3}}
  - {name: tag, kind: bpr, pair: [item, tags]}
  - {name: next, kind: bpr, pair: [item, next]}
  - {name: rate, label: like, pair: [user, item]}
";

const ROWS: u64 = 200;

fn draw(row: u64, what: u64, n: u64) -> u64 {
    crate::random::hash(7, &[row, what]) % n
}

fn user(row: u64) -> u64 {
    draw(row, 0, 9)
}
fn item(row: u64) -> u64 {
    draw(row, 1, 20)
}
fn likes(row: u64) -> bool {
    draw(row, 2, 2) == 1
}
fn next(row: u64) -> Option<u64> {
    (!row.is_multiple_of(4)).then(|| draw(row, 3, 20))
}
fn tags(row: u64) -> Vec<u64> {
    (0..row % 4).map(|i| 100 + (item(row) + i) % 7).collect()
}

struct Data {
    _folder: tempfile::TempDir,
    source: Source,
}

/// The log in two files of row groups of 30 rows.
fn data(tasks: &str) -> Data {
    let folder = tempfile::tempdir().unwrap();
    for (file, rows) in [(0, 0..80), (1, 80..ROWS)] {
        let of = |f: &dyn Fn(u64) -> u64| ints(rows.clone().map(|row| f(row) as i64));
        let next: Int64Array = rows.clone().map(|row| next(row).map(|id| id as i64)).collect();
        let tags = rows.clone().map(|row| Some(tags(row).into_iter().map(|id| Some(id as i64)).collect::<Vec<_>>()));
        TestFile::new(&[
            ("user", of(&user)),
            ("item", of(&item)),
            ("tags", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(tags)) as ArrayRef),
            ("next", Arc::new(next)),
            ("like", of(&|row| u64::from(likes(row)))),
        ])
        .row_group_rows(30)
        .write(&folder.path().join(format!("{file}.parquet")));
    }
    let schema = Arc::new(Schema::new(&job(&format!("{FEATURES}{tasks}")), Purpose::Train).unwrap());
    let plan = Arc::new(Plan::read(&Solo, &Local, &[folder.path().display().to_string()], &schema).unwrap());
    let store: Arc<dyn Store> = Arc::new(Local);
    let mut source = Source { store, plan, schema, statistics: Arc::default(), relations: None };
    source.relations = Some(Arc::new(collect(&source, 1).unwrap()));
    Data { _folder: folder, source }
}

/// What `ranks` ranks collect, the same on each.
fn collect(source: &Source, ranks: usize) -> Result<Relations> {
    let Source { store, plan, schema, statistics, .. } = source;
    let mut all = threads::ranks(ranks, |comm| {
        let files = Files::new(store.clone(), plan.clone(), schema.clone(), Columns::Needed);
        Relations::collect(comm, &files, statistics)
    });
    let first = all.swap_remove(0)?;
    for other in all {
        assert_eq!(other?.0, first.0);
    }
    Ok(first)
}

/// The known pairs of a relation.
fn pairs(relation: &Relation) -> BTreeSet<(u64, u64)> {
    let known = |&left: &u64| relation.known(left).unwrap().iter().map(move |&i| (left, relation.rights[i as usize]));
    relation.lefts.iter().flat_map(known).collect()
}

#[test]
fn relations_are_those_of_a_plain_reading_at_any_number_of_ranks() {
    let Data { source, _folder } = data(TASKS);
    let one = collect(&source, 1).unwrap();
    let rows = || 0..ROWS;
    let liked: BTreeSet<_> = rows().filter(|&row| likes(row)).map(|row| (user(row), item(row))).collect();
    let tagged: BTreeSet<_> = rows().flat_map(|row| tags(row).into_iter().map(move |tag| (item(row), tag))).collect();
    let mut next_of: BTreeSet<_> = rows().filter_map(|row| Some((item(row), next(row)?))).collect();
    // Both sides are items: none is its own negative, as far as it is a candidate.
    let nexts: BTreeSet<u64> = rows().filter_map(next).collect();
    let firsts: BTreeSet<u64> = next_of.iter().map(|&(item, _)| item).collect();
    next_of.extend(firsts.intersection(&nexts).map(|&id| (id, id)));
    for (task, expected) in [liked, tagged, next_of].into_iter().enumerate() {
        assert_eq!(pairs(one.of(task).unwrap()), expected, "task {task}");
    }
    let items: BTreeSet<u64> = rows().map(item).collect();
    assert!(one.of(0).unwrap().candidates().iter().copied().eq(items), "disliked items are candidates too");
    assert!(one.of(3).is_none(), "a label needs no negatives");
    assert_eq!(one.of(0).unwrap().known(999), None);
    for ranks in 2..=4 {
        assert_eq!(collect(&source, ranks).unwrap().0, one.0, "{ranks} ranks");
    }
}

#[test]
fn more_pairs_than_a_rank_may_hold_are_an_error_on_any_number_of_ranks() {
    let of = |limit: usize| {
        let tasks = format!("  - {{name: like, kind: bpr, pair: [user, item], negatives: {{max_pairs: {limit}}}}}");
        let folder = data("  - {name: like, kind: bpr, pair: [user, item]}");
        let schema = Schema::new(&job(&format!("{FEATURES}{tasks}")), Purpose::Train).unwrap();
        (Source { schema: Arc::new(schema), ..folder.source.clone() }, folder)
    };
    let distinct = (0..ROWS).map(|row| (user(row), item(row))).collect::<BTreeSet<_>>().len();
    for ranks in 1..=3 {
        assert_eq!(collect(&of(distinct).0, ranks).unwrap().of(0).unwrap().pairs(), distinct);
        let error = collect(&of(distinct - 1).0, ranks).unwrap_err().to_string();
        assert!(error.contains("max_pairs") && error.contains("task like"), "{error}");
    }
}

/// The ids of a row by address: of each column of its batch.
type Drawn = BTreeMap<Origin, Vec<Vec<u64>>>;

fn add(drawn: &mut Drawn, batch: &Batch) {
    for row in (0..batch.rows).filter(|&row| batch.present[row]) {
        let ids = batch.ids.iter().map(|column| column.row(row).to_vec()).collect();
        assert!(drawn.insert(batch.origin[row], ids).is_none(), "a row twice");
    }
}

/// What the rows of an epoch hold, read by `ranks` ranks from `cursor` on.
fn epoch(source: &Source, ranks: usize, cursor: Cursor) -> Drawn {
    let layout = Layout { rows: ROWS, lanes: 4, rows_per_lane: 5 };
    let mut drawn = Drawn::new();
    for rank in 0..ranks {
        let lanes = layout.hosted(rank, ranks).unwrap();
        let options = Options { layout, order: Order::shuffled(5, 16), lanes, prefetch: 2, threads: 1 + rank % 2 };
        let mut loader = Loader::start(source.clone(), options, cursor).unwrap();
        while let Some(batch) = loader.next().unwrap() {
            check_weights(&batch);
            add(&mut drawn, &batch);
        }
    }
    drawn
}

/// A row has ids for a task exactly where it has a weight.
fn check_weights(batch: &Batch) {
    // Columns of the tasks: left, right, drawn; the last has none drawn.
    for (target, columns) in batch.targets.iter().zip([0..3, 3..6, 6..9, 9..11]) {
        for (row, &weight) in target.weight.iter().enumerate() {
            let has = batch.ids[columns.clone()].iter().all(|column| !column.row(row).is_empty());
            let hasnt = batch.ids[columns.clone()].iter().all(|column| column.row(row).is_empty());
            assert!(if weight > 0.0 { has } else { hasnt }, "row {row}: weight {weight}");
        }
    }
}

#[test]
fn draws_belong_to_the_row_and_the_epoch() {
    let Data { source, _folder } = data(TASKS);
    let at = |epoch, taken| Cursor { epoch, taken };
    let one = epoch(&source, 1, at(0, 0));
    assert_eq!(one.len() as u64, ROWS);
    for ranks in 2..=4 {
        assert_eq!(epoch(&source, ranks, at(0, 0)), one, "{ranks} ranks");
        let resumed = epoch(&source, ranks, at(0, 20));
        assert!(!resumed.is_empty() && resumed.iter().all(|(origin, ids)| one[origin] == *ids), "{ranks} ranks");
    }
    let second = epoch(&source, 1, at(1, 0));
    let differ = |column: usize| one.iter().filter(|(origin, ids)| second[origin][column] != ids[column]).count();
    assert!(differ(2) > 50 && differ(4) > 20 && differ(5) > 50, "another epoch draws anew");
    assert_eq!((differ(0), differ(1)), (0, 0), "and pairs the same");
}

#[test]
fn rows_carry_their_pairs_and_no_known_positive_is_drawn() {
    let Data { source, _folder } = data(TASKS);
    let relations = source.relations.clone().unwrap();
    let known: Vec<_> = (0..3).map(|task| pairs(relations.of(task).unwrap())).collect();
    let mut drawn = [0; 3];
    for number in 0..4 {
        for (origin, ids) in epoch(&source, 1, Cursor { epoch: number, taken: 0 }) {
            // Files of 80 and 120 rows in row groups of 30: three and four of them.
            let row = [0, 30, 60, 80, 110, 140, 170][origin.row_group as usize] + u64::from(origin.row);
            let like: &[u64] = if likes(row) { &[user(row)] } else { &[] };
            assert_eq!((&ids[0][..], ids[2].len()), (like, 3 * like.len()));
            assert!(ids[4].iter().all(|tag| tags(row).contains(tag)), "one of the list");
            assert_eq!((ids[3].len(), ids[4].len()), (usize::from(row % 4 > 0), usize::from(row % 4 > 0)));
            assert_eq!(ids[7], Vec::from_iter(next(row)));
            assert_eq!((&ids[9], &ids[10]), (&vec![user(row)], &vec![item(row)]), "a label of 0 carries the pair too");
            for task in 0..3 {
                let (left, negatives) = (&ids[3 * task], &ids[3 * task + 2]);
                for negative in negatives {
                    assert!(!known[task].contains(&(left[0], *negative)), "task {task}: {left:?}, {negative}");
                    assert!(relations.of(task).unwrap().index_of(*negative).is_some());
                    drawn[task] += 1;
                }
            }
        }
    }
    assert!(drawn.iter().all(|&n| n > 100), "{drawn:?}");
}

#[test]
fn an_id_that_goes_with_everything_has_no_pair() {
    let mut data = data("  - {name: like, kind: bpr, pair: [user, item]}");
    let whole = Relation {
        rights: (0..20).collect(),
        lefts: vec![3, 5],
        starts: vec![0, 20, 39],
        known: (0..20).chain(0..19).collect(),
        draw: Draw::Uniform,
    };
    data.source.relations = Some(Arc::new(Relations(vec![Some(whole)])));
    let mut seen = 0;
    let layout = Layout { rows: ROWS, lanes: 1, rows_per_lane: ROWS as usize };
    let options = Options { layout, order: Order::sequential(), lanes: 0..1, prefetch: 1, threads: 1 };
    let batch = Loader::start(data.source.clone(), options, Cursor::default()).unwrap().next().unwrap().unwrap();
    for row in 0..batch.rows {
        match user(row as u64) {
            3 => {
                assert!(batch.ids.iter().all(|column| column.row(row).is_empty()));
                assert_eq!(batch.targets[0].weight[row], 0.0);
                seen += 1;
            }
            5 => assert_eq!(batch.ids[2].row(row), [19], "the only one left"),
            _ => assert_eq!(batch.ids[2].row(row).len(), 1),
        }
    }
    assert!(seen > 5);
}
