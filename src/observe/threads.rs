//! CPU threads of a rank. Ranks of one machine share its cores, and would slow each other down if each took
//! them all.

use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sysinfo::System;

/// Starts this rank's [compute threads](count). The calling thread is one of them, so that it works instead of waiting for
/// another thread to wake up. Collective; called once, before anything computes.
pub fn start(wanted: Option<usize>, comm: &dyn Communicator) -> Result<usize> {
    let threads = count(wanted, comm)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .thread_name(|i| format!("compute-{i}"))
        .build_global()
        .map_err(|e| Error::internal(format!("compute threads cannot be started: {e}")))?;
    Ok(threads)
}

/// How many compute threads this rank has: `wanted`, else the cores that it may use divided by the ranks that share them.
/// Rank 0 warns where a rank has other cores than it needs. Collective.
pub fn count(wanted: Option<usize>, comm: &dyn Communicator) -> Result<usize> {
    let ranks = gather(&Cores::given(), comm)?;
    let mine = &ranks[comm.rank()];
    let threads = wanted.unwrap_or(mine.count / mine.sharers(&ranks)).max(1);
    if comm.rank() == 0 {
        let asked = std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|cores| cores.parse().ok());
        if let Some(text) = warning(&ranks, wanted, asked) {
            tracing::warn!("{text}");
        }
    }
    Ok(threads)
}

/// The cores that a rank may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cores {
    host: String,
    /// Which ones, as Linux writes them; empty elsewhere.
    mask: String,
    /// How many, the quota of a control group considered.
    count: usize,
}

impl Cores {
    fn given() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        Self {
            host: System::host_name().unwrap_or_default(),
            mask: mask.trim().to_string(),
            count: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Ranks that share these cores, this one included. Launchers give the ranks of a machine the same cores, or each
    /// its own.
    fn sharers(&self, ranks: &[Self]) -> usize {
        ranks.iter().filter(|other| (&other.host, &other.mask) == (&self.host, &self.mask)).count().max(1)
    }
}

/// Everybody's cores, by rank.
fn gather(mine: &Cores, comm: &dyn Communicator) -> Result<Vec<Cores>> {
    let broken = |e: serde_json::Error| Error::internal(format!("the cores of a rank: {e}"));
    let message = serde_json::to_vec(mine).map_err(broken)?;
    let all = collectives::all_gather_messages(comm, &message)?;
    all.iter().map(|message| serde_json::from_slice(message).map_err(broken)).collect()
}

/// What is wrong with the first rank that has too few cores for its threads, or fewer than `asked` of Slurm for a task.
fn warning(ranks: &[Cores], wanted: Option<usize>, asked: Option<usize>) -> Option<String> {
    ranks.iter().enumerate().find_map(|(rank, cores)| {
        let Cores { host, count, .. } = cores;
        let sharers = cores.sharers(ranks);
        let threads = wanted.unwrap_or(count / sharers).max(1);
        let given = format!("rank {rank} on {host} may use {count} cores, shared by {sharers} ranks");
        if threads * sharers > *count {
            return Some(format!("{given}, with {threads} threads each: they will wait for each other"));
        }
        let asked = asked.filter(|asked| asked * sharers > *count)?;
        Some(format!(
            "{given}, though SLURM_CPUS_PER_TASK={asked}: start with `srun --cpus-per-task={asked}`, or `mpirun \
             --bind-to none`"
        ))
    })
}

/// Keeps candle from starting threads of its own. For element-wise operations it starts one per core of the
/// machine, whatever the ranks on it, and they spin while they wait for each other: with as many ranks as cores a
/// step took twice as long. tandem's layers run on this rank's rayon threads and do not need them.
///
/// # Safety
/// Changes the environment: call it first thing in `main`, while there is no other thread.
pub unsafe fn keep_candle_on_one_thread() {
    // SAFETY: the caller promises that no other thread reads the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(host: &str, mask: &str, count: usize) -> Cores {
        Cores { host: host.to_string(), mask: mask.to_string(), count }
    }

    #[test]
    fn cores_are_divided_by_the_ranks_that_share_them() {
        let bound = [cores("a", "0-3", 4), cores("a", "4-7", 4), cores("b", "0-3", 4)];
        assert!(bound.iter().all(|rank| rank.sharers(&bound) == 1));
        let unbound = [cores("a", "0-7", 8), cores("a", "0-7", 8), cores("b", "0-7", 8)];
        assert_eq!(unbound.each_ref().map(|rank| rank.sharers(&unbound)), [2, 2, 1]);
    }

    #[test]
    fn too_many_threads_are_warned_of() {
        let two = [cores("a", "0-7", 8), cores("a", "0-7", 8)];
        assert_eq!(warning(&two, None, None), None);
        assert_eq!(warning(&two, Some(4), Some(4)), None);
        let text = warning(&two, Some(5), None).expect("10 threads on 8 cores");
        assert!(text.starts_with("rank 0 on a may use 8 cores, shared by 2 ranks, with 5 threads each"), "{text}");
        assert!(warning(&[cores("a", "0", 1), cores("a", "0", 1)], None, None).is_some());
    }

    #[test]
    fn cores_that_slurm_was_asked_for_and_a_rank_does_not_have_are_missed() {
        let text = warning(&[cores("a", "0-3", 4), cores("a", "4", 1)], None, Some(4)).expect("one core of four");
        assert!(text.contains("rank 1 on a may use 1 cores") && text.contains("--cpus-per-task=4"), "{text}");
    }

    #[test]
    fn this_process_may_use_a_core() {
        let given = Cores::given();
        assert!(given.count > 0);
        assert_eq!(given.mask.is_empty(), cfg!(not(target_os = "linux")));
    }
}
