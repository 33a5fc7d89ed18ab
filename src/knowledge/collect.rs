//! Passes over the training log, split over the ranks by row groups: what it says of each scenario and user.
//!
//! ```text
//! bucket of a user   mix(id) mod 1024            the same on any number of ranks
//! pass p of P        buckets [1024 p/P, 1024 (p+1)/P)
//! owner in a pass    its buckets in equal ranges over the ranks
//! ```
//!
//! What a rank found of a user goes to the user's owner. A pass holds, over all ranks, two copies of the tallies of its
//! users: for each user and scenario the counts of tasks, and one entry for every distinct value of a `top` column; for
//! each user the kept history. More passes divide that by their number, and read the log as often.

use super::tally::{Event, ScenarioTally, Tally, UserTally};
use super::template::Template;
use super::value::{Value, values};
use crate::comm::{Communicator, collectives};
use crate::config::Job;
use crate::config::job::Feature;
use crate::data::batch::Target;
use crate::data::decode::Decoder;
use crate::data::lanes::Piece;
use crate::data::lists;
use crate::data::plan::Plan;
use crate::data::reader::{Columns, Files};
use crate::data::scenarios::MAX_SCENARIOS;
use crate::data::schema::{Purpose, Schema};
use crate::data::statistics::Statistics;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::random::mix;
use arrow::array::{Array, ArrayRef};
use arrow::error::ArrowError;
use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Users are cut into so many parts, whatever the number of ranks and passes.
const BUCKETS: u64 = 1024;
/// Rows decoded at a time.
const BATCH_ROWS: usize = 8192;

/// The training log, as a template reads it.
pub struct Log {
    files: Files,
    columns: Used,
    /// Column of the scenario.
    pub scenario: String,
    /// Names of the tasks that have labels.
    pub tasks: Vec<String>,
    /// Only rows where this task's label is positive enter the history.
    history_task: Option<usize>,
    last: usize,
}

/// Where the columns of the template stand in those that are read.
struct Used {
    scenario: usize,
    user: Option<usize>,
    order: Option<usize>,
    history: Option<usize>,
    fields: Vec<usize>,
    top: Vec<usize>,
}

/// What a pass found: on each rank the users that it owns, by bucket and id, and all scenarios.
pub struct Found {
    /// Sorted by (bucket, id). All ranks' users one after another are those of the pass, in the same order at any
    /// number of ranks.
    pub users: Vec<UserTally>,
    /// The same on every rank.
    pub scenarios: BTreeMap<Value, ScenarioTally>,
    /// All rows and users of the pass's log.
    pub all: ScenarioTally,
}

/// What some row groups hold.
#[derive(Default)]
struct Part {
    users: HashMap<Value, UserTally>,
    scenarios: BTreeMap<Value, Tally>,
    all: Tally,
}

impl Log {
    /// Reads the footers of the job's training files. Collective.
    ///
    /// # Errors
    /// A job without `data.scenario`, a history of a task that the job does not have, and what reading a plan finds.
    pub fn open(comm: &dyn Communicator, store: Arc<dyn Store>, job: &Job, template: &Template) -> Result<Self> {
        let checked = reading(job, template).and_then(|(job, scenario)| {
            let schema = Schema::new(&job, Purpose::Train)?;
            Ok((job, scenario, Arc::new(schema)))
        });
        let (job, scenario, schema) = collectives::agree(comm, checked)?;
        let plan = Plan::read(comm, store.as_ref(), &job.data.resolve(&job.data.train), &schema)?;
        let tasks: Vec<String> = schema.tasks.iter().map(|task| task.name.clone()).collect();
        let history = template.user.as_ref().and_then(|user| user.history.as_ref());
        let task = history.and_then(|history| history.task.as_ref());
        let history_task = collectives::agree(comm, task.map(|task| position(&tasks, task)).transpose())?;
        let columns = Used::new(template, &scenario, &schema);
        let last = history.map_or(0, |history| history.last);
        let files = Files::new(store, Arc::new(plan), schema, Columns::Needed);
        Ok(Self { files, columns, scenario, tasks, history_task, last })
    }

    /// Reads the log for the users of one pass. Collective.
    pub fn read(&self, comm: &dyn Communicator, pass: usize, passes: usize) -> Result<Found> {
        let buckets = BUCKETS * pass as u64 / passes as u64..BUCKETS * (pass as u64 + 1) / passes as u64;
        let groups = self.files.plan().row_groups.len() as u32;
        let mine: Vec<u32> = (comm.rank() as u32..groups).step_by(comm.size()).collect();
        let read: Vec<_> = mine.par_iter().map(|&group| self.read_group(group, &buckets)).collect();
        let read = collectives::agree(comm, read.into_iter().collect::<Result<Vec<Part>>>())?;
        let mut part = Part { all: self.tally(), ..Part::default() };
        read.into_iter().for_each(|other| part.merge(other, self.last));
        let users = self.to_owners(comm, part.users.into_values().collect(), &buckets)?;
        let (scenarios, all) = together(comm, part.scenarios, part.all, &users)?;
        Ok(Found { users, scenarios, all })
    }

    fn tally(&self) -> Tally {
        Tally::new(self.tasks.len(), self.columns.top.len())
    }

    fn read_group(&self, row_group: u32, buckets: &Range<u64>) -> Result<Part> {
        let schema = self.files.schema();
        let columns: Vec<usize> = (0..schema.columns.len()).collect();
        let piece = Piece { row_group, start: 0, rows: self.files.plan().row_groups[row_group as usize].rows };
        let mut reader = self.files.read(piece, &columns, BATCH_ROWS)?;
        let mut decoder = Decoder::new(schema.clone(), &Statistics::default())?;
        let mut part = Part { all: self.tally(), ..Part::default() };
        while let Some(slice) = reader.take(BATCH_ROWS)? {
            let mut batch = decoder.empty();
            let place = reader.place(slice.first_row);
            decoder.append(&slice.columns, slice.batch.num_rows(), &place, &mut batch)?;
            let unreadable = |(column, error): (usize, ArrowError)| {
                Error::data(format!("values of a column cannot be used in a text: {error}"))
                    .at("file", self.files.plan().path(row_group))
                    .at("column", &schema.columns[column].name)
            };
            let rows = Rows::new(&self.columns, &slice.columns).map_err(unreadable)?;
            for row in 0..batch.rows {
                let place = (row_group, slice.first_row + row as u32);
                self.take_row(&mut part, &rows, &batch.targets, row, place, buckets);
            }
            if part.scenarios.len() > MAX_SCENARIOS {
                return Err(too_many_scenarios());
            }
        }
        part.users.values_mut().for_each(|user| user.shorten(self.last));
        Ok(part)
    }

    fn take_row(
        &self,
        part: &mut Part,
        rows: &Rows,
        targets: &[Target],
        row: usize,
        place: (u32, u32),
        buckets: &Range<u64>,
    ) {
        let count = |tally: &mut Tally| {
            tally.rows += 1;
            for (labels, target) in tally.tasks.iter_mut().zip(targets) {
                if target.weight[row] != 0.0 {
                    labels.add(target.label[row]);
                }
            }
            for (counts, column) in tally.top.iter_mut().zip(&rows.top) {
                for value in &column[row] {
                    *counts.entry(value.clone()).or_default() += 1;
                }
            }
        };
        count(&mut part.all);
        let scenario = &rows.scenario[row];
        if let Some(scenario) = scenario {
            count(part.scenarios.entry(scenario.clone()).or_insert_with(|| self.tally()));
        }
        let Some(key) = rows.user.get(row).and_then(Option::as_ref) else { return };
        if !buckets.contains(&bucket(key)) {
            return;
        }
        let new = || UserTally::new(key.clone(), rows.fields.len());
        let user = part.users.entry(key.clone()).or_insert_with(new);
        count(user.scenarios.entry(scenario.clone()).or_insert_with(|| self.tally()));
        // A row without a time comes before all others.
        let order = match rows.order.get(row) {
            Some(Some(Value::Int(order))) => *order,
            Some(_) => i64::MIN,
            None => 0,
        };
        for (field, column) in rows.fields.iter().enumerate() {
            if let Some(value) = &column[row] {
                user.see(field, Event { order, place, value: value.clone() });
            }
        }
        let positive = |task: usize| targets[task].weight[row] != 0.0 && targets[task].label[row] > 0.0;
        if self.history_task.is_none_or(positive)
            && let Some(values) = rows.history.get(row)
        {
            user.history.extend(values.iter().map(|value| Event { order, place, value: value.clone() }));
            // Not at every row: sorting is for many at a time.
            if user.history.len() > 8 * self.last + 64 {
                user.shorten(self.last);
            }
        }
    }

    /// Each user of the pass on the rank that owns it, merged.
    fn to_owners(
        &self,
        comm: &dyn Communicator,
        users: Vec<UserTally>,
        buckets: &Range<u64>,
    ) -> Result<Vec<UserTally>> {
        let owner = |key: &Value| {
            let width = (buckets.end - buckets.start).max(1);
            ((bucket(key) - buckets.start) * comm.size() as u64 / width) as usize
        };
        let mut by_owner: Vec<Vec<UserTally>> = (0..comm.size()).map(|_| Vec::new()).collect();
        users.into_iter().for_each(|user| by_owner[owner(&user.key)].push(user));
        let messages = by_owner.iter().map(encoded).collect::<Result<Vec<_>>>()?;
        drop(by_owner);
        let counts: Vec<usize> = messages.iter().map(Vec::len).collect();
        let (bytes, counts) = collectives::all_to_all(comm, &messages.concat(), &counts)?;
        let mut owned: BTreeMap<(u64, Value), UserTally> = BTreeMap::new();
        let mut rest = bytes.as_slice();
        for count in counts {
            let (message, others) = rest.split_at(count);
            rest = others;
            for user in decoded::<Vec<UserTally>>(message)? {
                match owned.get_mut(&(bucket(&user.key), user.key.clone())) {
                    Some(mine) => mine.merge(user, self.last),
                    None => {
                        owned.insert((bucket(&user.key), user.key.clone()), user);
                    }
                }
            }
        }
        Ok(owned.into_values().collect())
    }
}

/// The job with the columns of the template in place of its features, and without tasks that have no label; and the
/// name of the scenario column.
fn reading(job: &Job, template: &Template) -> Result<(Job, String)> {
    let mut job = job.clone();
    let scenario = job.data.scenario.take().ok_or_else(|| {
        Error::job("the job names no scenarios")
            .at("key", "data.scenario")
            .fix("name the column that tells the scenarios apart, as in `data: {scenario: domain}`")
    })?;
    let mut names = vec![scenario.clone()];
    if let Some(user) = &template.user {
        names.push(user.column.clone());
        names.extend(user.order.clone());
        names.extend(user.history.as_ref().map(|history| history.column.clone()));
        names.extend(user.fields.iter().cloned());
    }
    names.extend(template.top.iter().cloned());
    let mut features: Vec<Feature> = Vec::new();
    for name in names {
        if features.iter().all(|feature| feature.name != name) {
            let feature = serde_json::from_value(serde_json::json!({"name": name, "kind": "categorical"}));
            features.push(feature.map_err(|e| Error::internal(format!("a column as a feature: {e}")))?);
        }
    }
    job.features = features;
    job.tasks.retain(|task| task.label.is_some());
    for task in &mut job.tasks {
        (task.pair, task.negatives, task.ranking) = (None, None, None);
    }
    Ok((job, scenario))
}

fn position(tasks: &[String], task: &str) -> Result<usize> {
    tasks.iter().position(|name| name == task).ok_or_else(|| {
        Error::job(format!("the job has no task `{task}` with a label"))
            .at("key", "user.history.task")
            .fix(format!("name one of: {}", tasks.join(", ")))
    })
}

fn too_many_scenarios() -> Error {
    Error::data(format!("the scenario column has more than {MAX_SCENARIOS} values"))
        .at("key", "data.scenario")
        .fix("name a column of few values, such as a market, a page or an age group")
}

/// The bucket of a user.
fn bucket(key: &Value) -> u64 {
    mix(key.id()) % BUCKETS
}

impl Part {
    fn merge(&mut self, other: Self, last: usize) {
        for (key, user) in other.users {
            match self.users.get_mut(&key) {
                Some(mine) => mine.merge(user, last),
                None => {
                    self.users.insert(key, user);
                }
            }
        }
        merge_scenarios(&mut self.scenarios, other.scenarios);
        self.all.merge(&other.all);
    }
}

fn merge_scenarios(into: &mut BTreeMap<Value, Tally>, other: BTreeMap<Value, Tally>) {
    for (scenario, tally) in other {
        match into.get_mut(&scenario) {
            Some(mine) => mine.merge(&tally),
            None => {
                into.insert(scenario, tally);
            }
        }
    }
}

/// The scenarios of all ranks, with the users that each has.
fn together(
    comm: &dyn Communicator,
    scenarios: BTreeMap<Value, Tally>,
    all: Tally,
    users: &[UserTally],
) -> Result<(BTreeMap<Value, ScenarioTally>, ScenarioTally)> {
    let mut with_user: BTreeMap<&Value, u64> = BTreeMap::new();
    users.iter().flat_map(|user| user.scenarios.keys().flatten()).for_each(|scenario| {
        *with_user.entry(scenario).or_default() += 1;
    });
    let with_user: Vec<(&Value, u64)> = with_user.into_iter().collect();
    let scenarios: Vec<(Value, Tally)> = scenarios.into_iter().collect();
    let mine = encoded(&(scenarios, &all, with_user, users.len() as u64))?;
    let mut sum: BTreeMap<Value, Tally> = BTreeMap::new();
    let mut all = ScenarioTally { users: 0, rows: Tally::new(all.tasks.len(), all.top.len()) };
    let mut users: BTreeMap<Value, u64> = BTreeMap::new();
    type Message = (Vec<(Value, Tally)>, Tally, Vec<(Value, u64)>, u64);
    for message in collectives::all_gather_messages(comm, &mine)? {
        let (scenarios, rows, with_user, count) = decoded::<Message>(&message)?;
        merge_scenarios(&mut sum, scenarios.into_iter().collect());
        all.rows.merge(&rows);
        all.users += count;
        for (scenario, count) in with_user {
            *users.entry(scenario).or_default() += count;
        }
    }
    if sum.len() > MAX_SCENARIOS {
        return Err(too_many_scenarios().agreed());
    }
    let with_users = |(scenario, rows): (Value, Tally)| {
        let users = users.get(&scenario).copied().unwrap_or(0);
        (scenario, ScenarioTally { users, rows })
    };
    Ok((sum.into_iter().map(with_users).collect(), all))
}

pub(super) fn encoded(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal(format!("tallies cannot be sent: {e}")))
}

pub(super) fn decoded<T: DeserializeOwned>(message: &[u8]) -> Result<T> {
    serde_json::from_slice(message).map_err(|e| Error::internal(format!("tallies cannot be read: {e}")))
}

/// The values of some rows.
struct Rows {
    scenario: Vec<Option<Value>>,
    /// Empty without users.
    user: Vec<Option<Value>>,
    /// Empty without the column.
    order: Vec<Option<Value>>,
    /// Empty without the column.
    history: Vec<Vec<Value>>,
    fields: Vec<Vec<Option<Value>>>,
    top: Vec<Vec<Vec<Value>>>,
}

impl Rows {
    fn new(used: &Used, arrays: &[ArrayRef]) -> std::result::Result<Self, (usize, ArrowError)> {
        let one = |&column: &usize| values(&arrays[column]).map_err(|error| (column, error));
        let many = |&column: &usize| value_lists(&arrays[column]).map_err(|error| (column, error));
        Ok(Self {
            scenario: one(&used.scenario)?,
            user: used.user.as_ref().map(one).transpose()?.unwrap_or_default(),
            order: used.order.as_ref().map(one).transpose()?.unwrap_or_default(),
            history: used.history.as_ref().map(many).transpose()?.unwrap_or_default(),
            fields: used.fields.iter().map(one).collect::<std::result::Result<_, _>>()?,
            top: used.top.iter().map(many).collect::<std::result::Result<_, _>>()?,
        })
    }
}

/// The values of each row: those of its list, or its one value; nulls are left out.
fn value_lists(array: &ArrayRef) -> std::result::Result<Vec<Vec<Value>>, ArrowError> {
    let Some(lists) = lists(array) else {
        return Ok(values(array)?.into_iter().map(|value| value.into_iter().collect()).collect());
    };
    let items = values(&lists.values)?;
    let row = |row: usize| {
        let range = if array.is_null(row) { 0..0 } else { lists.offsets[row]..lists.offsets[row + 1] };
        items[range].iter().flatten().cloned().collect()
    };
    Ok((0..array.len()).map(row).collect())
}

impl Used {
    fn new(template: &Template, scenario: &str, schema: &Schema) -> Self {
        // Every one is the column of a feature, so all are found.
        let at = |name: &str| schema.columns.iter().position(|column| column.name == name).unwrap_or(0);
        let user = template.user.as_ref();
        Self {
            scenario: at(scenario),
            user: user.map(|user| at(&user.column)),
            order: user.and_then(|user| user.order.as_deref()).map(at),
            history: user.and_then(|user| user.history.as_ref()).map(|history| at(&history.column)),
            fields: user.map(|user| user.fields.iter().map(|name| at(name)).collect()).unwrap_or_default(),
            top: template.top.iter().map(|name| at(name)).collect(),
        }
    }
}
