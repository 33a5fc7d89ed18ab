//! Where the virtual ranks of a process meet for a call, and where the process's main thread answers it.

use super::share;
use crate::comm::Communicator;
use crate::error::{Error, Result};
use std::mem::discriminant;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What one virtual rank calls.
pub(super) enum Call {
    /// An all-to-all of `bytes`, of which `to[r]` are for rank r, and `expected[r]` are to come from it.
    Letters { bytes: Vec<u8>, to: Vec<Range<usize>>, expected: Vec<usize> },
    /// An all-gather, to which rank r gives `counts[r]` bytes.
    Gather { bytes: Vec<u8>, counts: Vec<usize> },
    /// A barrier.
    Barrier,
}

/// What all virtual ranks of the process are answered.
pub(super) enum Answer {
    /// Letters of the ranks `here` lie in `sent`, by sender and then by receiver; those of others in `received`, by
    /// receiver and then by sender.
    Letters { here: Range<usize>, sent: Vec<Letters>, received: Vec<u8>, places: Vec<Vec<Range<usize>>> },
    /// Everybody's bytes, in rank order.
    Gathered(Vec<u8>),
    /// Everybody was there.
    Passed,
}

/// What one rank sends, and where in it each rank's letter is.
pub(super) type Letters = (Vec<u8>, Vec<Range<usize>>);

impl Answer {
    /// The letter of rank `from` to the rank `to` of this process.
    pub fn letter(&self, from: usize, to: usize) -> &[u8] {
        let Self::Letters { here, sent, received, places } = self else { return &[] };
        if here.contains(&from) {
            let (bytes, at) = &sent[from - here.start];
            return &bytes[at[to].clone()];
        }
        &received[places[to - here.start][from].clone()]
    }

    /// What all ranks gave.
    pub fn gathered(&self) -> &[u8] {
        match self {
            Self::Gathered(bytes) => bytes,
            Self::Letters { .. } | Self::Passed => &[],
        }
    }
}

/// The meeting of one process.
pub(super) struct Meeting {
    here: Range<usize>,
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Of this round, by place in `here`.
    calls: Vec<Option<Call>>,
    /// Rounds that were answered.
    rounds: u64,
    /// The answer to the last of them.
    answer: Option<Arc<Answer>>,
    /// Virtual ranks that may begin to compute.
    turns: usize,
    /// Virtual ranks that take part in no further call.
    ended: usize,
    failure: Option<Error>,
}

impl Meeting {
    /// Of the virtual ranks `here` of `size`, of which `turns` may compute at the same time.
    pub fn new(here: Range<usize>, size: usize, turns: usize) -> Self {
        let calls = here.clone().map(|_| None).collect();
        let state = State { calls, rounds: 0, answer: None, turns, ended: 0, failure: None };
        Self { here, size, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The virtual ranks of this process.
    pub fn here(&self) -> Range<usize> {
        self.here.clone()
    }

    /// All virtual ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The first failure.
    pub fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Records a failure, unless there was one before, and wakes everybody.
    pub fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Waits until the calling rank may compute: more than there are cores would only push each other out of the caches.
    pub fn take_turn(&self) {
        drop(self.wait_for_turn(self.lock()));
    }

    fn wait_for_turn<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let mut state = self.wait(state, |state| state.turns > 0);
        state.turns -= 1;
        state
    }

    /// The calling rank takes part in no further call.
    pub fn end(&self, error: Option<&Error>) {
        if let Some(error) = error {
            self.fail(error.clone());
        }
        let mut state = self.lock();
        state.ended += 1;
        state.turns += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Makes the call of `rank`; returns when all of the process have made theirs and the main thread has answered.
    pub fn call(&self, rank: usize, call: Call) -> Result<Arc<Answer>> {
        let mut state = self.lock();
        let round = state.rounds;
        state.calls[rank - self.here.start] = Some(call);
        state.turns += 1;
        self.changed.notify_all();
        state = self.wait(state, |state| state.rounds > round || state.failure.is_some());
        let answer = state.answer.clone().filter(|_| state.rounds > round);
        let failure = state.failure.clone();
        drop(self.wait_for_turn(state));
        answer.ok_or_else(|| {
            let what = failure.map_or(String::new(), |error| error.to_string());
            Error::comm(format!("another virtual rank failed: {what}"))
        })
    }

    /// On the main thread: answers calls until all virtual ranks have ended, or one has failed.
    pub fn lead(&self, processes: &dyn Communicator) {
        let ready = |state: &State| {
            let called = state.calls.iter().filter(|call| call.is_some()).count();
            state.failure.is_some() || called + state.ended == self.here.len()
        };
        loop {
            let mut state = self.wait(self.lock(), ready);
            if state.failure.is_some() || state.ended == self.here.len() {
                return;
            }
            let calls: Vec<Call> = state.calls.iter_mut().filter_map(Option::take).collect();
            drop(state);
            match self.answer(processes, calls) {
                Err(error) => return self.fail(error),
                Ok(answer) => {
                    let mut state = self.lock();
                    state.answer = Some(Arc::new(answer));
                    state.rounds += 1;
                    drop(state);
                    self.changed.notify_all();
                }
            }
        }
    }

    fn answer(&self, processes: &dyn Communicator, calls: Vec<Call>) -> Result<Answer> {
        let same = calls.windows(2).all(|pair| discriminant(&pair[0]) == discriminant(&pair[1]));
        if !same || calls.len() < self.here.len() {
            return Err(Error::internal("virtual ranks made different calls, or one ended while others wait for it"));
        }
        match &calls[0] {
            Call::Letters { .. } => self.exchange(processes, calls),
            Call::Gather { counts, .. } => self.gather(processes, counts, &calls),
            Call::Barrier => processes.barrier().map(|()| Answer::Passed),
        }
    }

    /// One message to each other process: the letters of all ranks here to its ranks, by sender and then by receiver.
    fn exchange(&self, processes: &dyn Communicator, calls: Vec<Call>) -> Result<Answer> {
        let mut sent: Vec<Letters> = Vec::with_capacity(calls.len());
        let mut expected = Vec::with_capacity(calls.len());
        for call in calls {
            if let Call::Letters { bytes, to, expected: from } = call {
                sent.push((bytes, to));
                expected.push(from);
            }
        }
        let (mut out, mut sizes) = (Vec::new(), (vec![0; processes.size()], vec![0; processes.size()]));
        let (mut end, mut places) = (0, vec![vec![0..0; self.size]; sent.len()]);
        for process in (0..processes.size()).filter(|process| *process != processes.rank()) {
            let (ranks, before) = (share(process, processes.size(), self.size), (out.len(), end));
            for (bytes, to) in &sent {
                out.extend_from_slice(&bytes[to[ranks.start].start..to[ranks.end - 1].end]);
            }
            for from in ranks {
                for (places, expected) in places.iter_mut().zip(&expected) {
                    places[from] = end..end + expected[from];
                    end += expected[from];
                }
            }
            (sizes.0[process], sizes.1[process]) = (out.len() - before.0, end - before.1);
        }
        let mut received = vec![0; end];
        if processes.size() > 1 {
            processes.all_to_all_bytes(&out, &sizes.0, &mut received, &sizes.1)?;
        }
        Ok(Answer::Letters { here: self.here(), sent, received, places })
    }

    fn gather(&self, processes: &dyn Communicator, counts: &[usize], calls: &[Call]) -> Result<Answer> {
        let bytes = calls.iter().map(|call| if let Call::Gather { bytes, .. } = call { bytes.as_slice() } else { &[] });
        let here = bytes.collect::<Vec<_>>().concat();
        if processes.size() == 1 {
            return Ok(Answer::Gathered(here));
        }
        let of_process = |process| counts[share(process, processes.size(), self.size)].iter().sum();
        let sizes: Vec<usize> = (0..processes.size()).map(of_process).collect();
        let mut all = vec![0; sizes.iter().sum()];
        processes.all_gather_bytes(&here, &mut all, &sizes)?;
        Ok(Answer::Gathered(all))
    }

    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, until: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        while !until(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// No code panics while it holds the lock, so a poisoned lock still guards a whole state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
