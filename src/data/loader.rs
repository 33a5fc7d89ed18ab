//! All lanes of a rank as one batch a step, decoded ahead of training on threads of its own.
//!
//! The threads take whichever lane is furthest behind, decode its next rows, and put them in their place
//! in a short queue of steps. The content of a batch depends on lanes and steps only, so the timing of
//! threads cannot show. Memory: `prefetch` batches, a window a thread and, for each lane of the rank, one decoded window and
//! one Parquet page a column (about 10 MB a lane with three long sequences), or its share of a row group that several
//! lanes read (`sharing`).

use super::batch::Batch;
use super::decode::{Decoder, empty_batch};
use super::lanes::{Cursor, Layout, Order};
use super::pairs::Pairing;
use super::plan::Plan;
use super::reader::{Columns, Files};
use super::relations::Relations;
use super::schema::Schema;
use super::statistics::Statistics;
use super::store::Store;
use super::stream::{LaneStream, Part, Scratch, pieces_left};
use crate::error::{Error, Result};
use crate::guard;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is read.
#[derive(Clone)]
pub struct Source {
    /// Where the files are.
    pub store: Arc<dyn Store>,
    /// The files.
    pub plan: Arc<Plan>,
    /// What becomes of their columns.
    pub schema: Arc<Schema>,
    /// Statistics of the numeric features.
    pub statistics: Arc<Statistics>,
    /// What negatives are drawn from, for training on pairs.
    pub relations: Option<Arc<Relations>>,
}

/// How it is read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lanes and steps.
    pub layout: Layout,
    /// Order of the rows.
    pub order: Order,
    /// The lanes of this rank ([`Layout::hosted`]).
    pub lanes: Range<usize>,
    /// Batches decoded ahead, at least 1.
    pub prefetch: usize,
    /// Decoding threads, at least 1.
    pub threads: usize,
}

/// What a loader has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Rows handed out, padding not counted.
    pub rows: u64,
    /// Bytes read from the store, those of batches still waiting included.
    pub read_bytes: u64,
    /// Time that threads spent reading and decoding, summed over threads.
    pub busy: Duration,
}

/// Batches of one epoch, from a cursor to the epoch's end. Dropping it stops its threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    cursor: Cursor,
    rows: u64,
    failed: Option<Error>,
}

/// What the threads and the loader share.
struct Shared {
    files: Arc<Files>,
    layout: Layout,
    lanes: Range<usize>,
    prefetch: u64,
    /// Steps to run, from the cursor on.
    steps: u64,
    state: Mutex<State>,
    /// There is a lane to decode, or the loader was dropped.
    work: Condvar,
    /// The first step of the queue is ready.
    ready: Condvar,
    /// Batches that were used, for their memory.
    spare: Mutex<Vec<Batch>>,
    busy_ns: AtomicU64,
}

struct State {
    lanes: Vec<Lane>,
    /// Steps `first..first + queue.len()`.
    queue: VecDeque<Step>,
    first: u64,
    stop: bool,
}

struct Lane {
    /// Absent while a thread decodes it, and after it failed.
    stream: Option<LaneStream>,
    /// Step that it decodes next.
    next: u64,
}

/// What a lane gives to a step, once it has.
type Delivery = Option<Result<Vec<Part>>>;

/// A step being put together.
struct Step {
    /// One entry a lane.
    parts: Vec<Delivery>,
    missing: usize,
    batch: Option<Result<Batch>>,
}

impl Loader {
    /// Starts decoding from `cursor`.
    pub fn start(source: Source, options: Options, cursor: Cursor) -> Result<Self> {
        let Options { layout, order, lanes, prefetch, threads } = options;
        let Source { store, plan, schema, statistics, relations } = source;
        assert!(!lanes.is_empty(), "every rank hosts a lane: see Layout::hosted");
        let sequence = order.row_groups(plan.row_groups.len(), cursor.epoch);
        let pieces = lanes.clone().map(|lane| pieces_left(&plan, &layout, &order, &sequence, lane, cursor));
        let pieces: Vec<_> = pieces.collect();
        let files = Files::new(store, plan, schema, Columns::Needed).sharing(pieces.iter().flatten().copied());
        let files = Arc::new(files);
        let pairing = Pairing { relations, seed: order.seed, epoch: cursor.epoch };
        let stream = |(lane, pieces)| {
            let decoder = Decoder::new(files.schema().clone(), &statistics)?.with_pairing(pairing.clone());
            LaneStream::new(files.clone(), decoder, layout, order, pieces, lane, cursor)
        };
        let streams = lanes.clone().zip(pieces).map(stream).collect::<Result<Vec<_>>>()?;
        let lane = |stream| Lane { stream: Some(stream), next: 0 };
        let state =
            State { lanes: streams.into_iter().map(lane).collect(), queue: VecDeque::new(), first: 0, stop: false };
        let shared = Arc::new(Shared {
            files,
            layout,
            lanes,
            prefetch: prefetch.max(1) as u64,
            steps: layout.steps_after(cursor.taken),
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
            spare: Mutex::default(),
            busy_ns: AtomicU64::new(0),
        });
        let mut loader = Self { shared: shared.clone(), threads: Vec::new(), cursor, rows: 0, failed: None };
        for index in 0..threads.max(1) {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("decode-{index}")).spawn(move || shared.run());
            loader.threads.push(thread.map_err(|e| Error::data(format!("cannot start a decoding thread: {e}")))?);
        }
        Ok(loader)
    }

    /// The batch of the next step; `None` at the end of the epoch. After an error, that error again.
    #[allow(clippy::should_implement_trait)] // an iterator of results would let a caller skip an error
    pub fn next(&mut self) -> Result<Option<Batch>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.shared.next() {
            Ok(Some(batch)) => {
                self.cursor.taken += self.shared.layout.rows_per_lane as u64;
                self.rows += batch.present.iter().filter(|&&present| present).count() as u64;
                Ok(Some(batch))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Takes a batch back, so that a later one can have its memory.
    pub fn recycle(&self, batch: Batch) {
        let mut spare = self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if (spare.len() as u64) < self.shared.prefetch {
            spare.push(batch);
        }
    }

    /// Where a loader must start to return the batch after the last one returned here.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Steps from the cursor it was started at to the end of the epoch: the same on every rank.
    pub fn steps(&self) -> u64 {
        self.shared.steps
    }

    /// What it has done so far.
    pub fn progress(&self) -> Progress {
        Progress {
            rows: self.rows,
            read_bytes: self.shared.files.read_bytes(),
            busy: Duration::from_nanos(self.shared.busy_ns.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread's panic was caught and reported; there is nothing more to say here.
            let _ = thread.join();
        }
    }
}

impl State {
    /// The lane that is furthest behind and may go on, and the step it is to decode.
    fn claim(&mut self, prefetch: u64, steps: u64) -> Option<(usize, LaneStream)> {
        let limit = steps.min(self.first + prefetch);
        let open = self.lanes.iter().enumerate().filter(|(_, lane)| lane.stream.is_some() && lane.next < limit);
        let (index, _) = open.min_by_key(|(_, lane)| lane.next)?;
        let stream = self.lanes[index].stream.take()?;
        let needed = (self.lanes[index].next - self.first) as usize + 1;
        let lanes = self.lanes.len();
        while self.queue.len() < needed {
            let parts = (0..lanes).map(|_| None).collect();
            self.queue.push_back(Step { parts, missing: lanes, batch: None });
        }
        Some((index, stream))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of a decoding thread.
    fn run(&self) {
        let mut scratch = Scratch::default();
        loop {
            let mut state = self.lock();
            let (lane, mut stream) = loop {
                if state.stop {
                    return;
                }
                if let Some(claimed) = state.claim(self.prefetch, self.steps) {
                    break claimed;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let taken = self
                .timed(|| stream.take(self.layout.rows_per_lane, &mut scratch))
                .map_err(|error| stream.named(error));
            if let Some((step, parts)) = self.deliver(lane, stream, taken) {
                let batch = self.timed(|| self.assemble(parts));
                let mut state = self.lock();
                // The step is still queued: only a finished one is taken off.
                let index = (step - state.first) as usize;
                state.queue[index].batch = Some(batch);
                drop(state);
                self.ready.notify_all();
            }
        }
    }

    /// Runs `f`, turning a panic into an error: a thread that dies silently would leave the step waiting for
    /// ever.
    fn timed<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = guard::run(f);
        self.busy_ns.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result.unwrap_or_else(|panic| Err(Error::internal(format!("decoding failed: {panic}"))))
    }

    /// Puts a lane's rows in their step and the lane back. Returns the step's parts if they are complete.
    fn deliver(&self, lane: usize, stream: LaneStream, taken: Result<Vec<Part>>) -> Option<(u64, Vec<Delivery>)> {
        let mut state = self.lock();
        let number = state.lanes[lane].next;
        state.lanes[lane].next += 1;
        if taken.is_ok() {
            state.lanes[lane].stream = Some(stream);
        }
        let index = (number - state.first) as usize;
        let step = &mut state.queue[index];
        step.parts[lane] = Some(taken);
        step.missing -= 1;
        let complete = (step.missing == 0).then(|| (number, std::mem::take(&mut step.parts)));
        drop(state);
        self.work.notify_one();
        complete
    }

    /// Lane by lane; the error of the first lane that has one.
    fn assemble(&self, parts: Vec<Delivery>) -> Result<Batch> {
        let schema = self.files.schema();
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut batch = spare.unwrap_or_else(|| empty_batch(schema));
        batch.clear();
        for (lane, parts) in self.lanes.clone().zip(parts) {
            let first = lane * self.layout.rows_per_lane;
            let before = batch.rows;
            for part in parts.unwrap_or_else(|| Ok(Vec::new()))? {
                batch.append_range(&part.block, part.rows);
            }
            batch.slots.extend((first..first + batch.rows - before).map(|slot| slot as u32));
        }
        if batch.rows == 0 {
            batch.append_padding(schema, (self.lanes.start * self.layout.rows_per_lane) as u32);
        }
        Ok(batch)
    }

    fn next(&self) -> Result<Option<Batch>> {
        let mut state = self.lock();
        if state.first == self.steps {
            return Ok(None);
        }
        while state.queue.front().is_none_or(|step| step.batch.is_none()) {
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let batch = state.queue.pop_front().and_then(|step| step.batch);
        state.first += 1;
        drop(state);
        self.work.notify_all();
        batch.transpose()
    }
}

#[cfg(test)]
mod tests;
