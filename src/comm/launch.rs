//! From the process to the communicator, and from a rank's result to the job's exit code.
//!
//! [`run`] is the top of every command. It starts MPI when a launcher (`mpirun`, `srun`) started this process,
//! runs the job, and makes sure that a failure on any rank ends all of them within seconds, with one
//! message on stderr and one exit code:
//!
//! | result | printed | job ends by |
//! |---|---|---|
//! | `Ok(code)` on every rank | nothing | finalising, then `code` |
//! | `Err` on one rank | `rank 3: …`, by that rank | `MPI_Abort` |
//! | the same [agreed](Error::agreed) `Err` on every rank | `error: …`, by rank 0 | `MPI_Abort` of rank 0 |
//! | panic, on whichever thread | the panic, then `rank 3: …` | `MPI_Abort` |
//! | nothing moves ([`leave_now`]) | `rank 3: …`, by a rank that waits | that process, then the launcher |

#[cfg(feature = "mpi")]
use super::same;
use super::solo::Solo;
use super::{Comm, STOPPED_BY_PANIC, print_failure};
use crate::error::{Error, Result};
use crate::guard;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// How a job is started.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Messages between ranks are cut into pieces of at most this many bytes; the same on every rank.
    pub chunk_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { chunk_bytes: 256 << 20 }
    }
}

/// Runs `job` on this process's rank and returns the exit code for `main`, after MPI is finalised.
///
/// A failure ends the process inside when there are other ranks, and is printed and returned when there
/// are none.
pub fn run(options: Options, job: impl FnOnce(Comm) -> Result<i32>) -> i32 {
    guard::install();
    let launcher = Launcher::detect(|name| std::env::var(name).ok());
    #[cfg(feature = "mpi")]
    if launcher.starts_mpi {
        return run_mpi(options, &launcher, job);
    }
    // One rank sends no messages.
    #[cfg(not(feature = "mpi"))]
    let _ = options;
    let result = launcher.check_world(1).and_then(|()| unless_it_panics(|| job(Rc::new(Solo))));
    result.unwrap_or_else(|error| {
        print_failure("error", &error.to_string());
        error.exit_code()
    })
}

#[cfg(feature = "mpi")]
fn run_mpi(options: Options, launcher: &Launcher, job: impl FnOnce(Comm) -> Result<i32>) -> i32 {
    let session = match super::mpi::Session::start(options.chunk_bytes) {
        Ok(session) => session,
        Err(error) => {
            print_failure("error", &error.to_string());
            return error.exit_code();
        }
    };
    let comm = session.comm();
    let started = launcher.check_world(comm.size()).and_then(|()| same::check_program(comm.as_ref()));
    let result = started.and_then(|()| unless_it_panics(|| job(Rc::clone(&comm))));
    let code = conclude(comm.as_ref(), result);
    session.finish();
    code
}

/// A panic of a compute thread reaches the main thread past its panic hook, by unwinding. Without this it would
/// end the process with a code of its own, and under MPI leave it to the launcher to notice.
fn unless_it_panics(job: impl FnOnce() -> Result<i32>) -> Result<i32> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(Error::internal(STOPPED_BY_PANIC)))
}

/// Passes on the exit code of success; ends the whole job on an error.
#[cfg(any(feature = "mpi", test))]
fn conclude(comm: &dyn super::Communicator, result: Result<i32>) -> i32 {
    /// How long the other ranks leave rank 0 to print an agreed error and end the job, before they do.
    const RANK_0_SPEAKS_FIRST: std::time::Duration = std::time::Duration::from_secs(5);
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    // What is left in the buffer would be lost when the process is ended.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    if !error.is_agreed() {
        comm.abort(error.exit_code(), &error.to_string());
    }
    if comm.rank() == 0 {
        print_failure("error", &error.to_string());
        comm.abort(error.exit_code(), "");
    }
    std::thread::sleep(RANK_0_SPEAKS_FIRST);
    comm.abort(error.exit_code(), &error.to_string());
}

/// Ends this process at once, from any thread, with a message: for a job whose main threads may be stuck inside MPI,
/// which nobody else may call. The launcher then ends the other ranks, as when a rank dies.
pub fn leave_now(comm: (usize, usize), code: i32, message: &str) -> ! {
    let (rank, size) = comm;
    let label = if size > 1 { format!("rank {rank}") } else { "error".to_string() };
    print_failure(&label, message);
    signal_hook::low_level::exit(code)
}

/// How many tasks the Slurm job has, if `mpirun` in its batch script started fewer ranks.
pub fn tasks_left_idle(world_size: usize) -> Option<usize> {
    let number = |name| std::env::var(name).ok()?.parse::<usize>().ok();
    let tasks = number("SLURM_NTASKS").filter(|_| number("SLURM_STEP_ID").is_none())?;
    (tasks > world_size).then_some(tasks)
}

/// What the environment says about who started this process.
#[derive(Debug, PartialEq, Eq)]
struct Launcher {
    /// A launcher that speaks to MPI started this process.
    starts_mpi: bool,
    /// How many processes were started beside each other, and the variable that says so.
    tasks: Option<(&'static str, usize)>,
}

/// Variables that only an MPI launcher sets: Open MPI, Hydra (MPICH, Intel MPI), MVAPICH, `srun --mpi=…`.
const MPI_VARIABLES: [&str; 5] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_SIZE"];

/// Step ids from here on are not of `srun`: the batch script, the extern and the interactive step.
const FIRST_SPECIAL_STEP: u64 = 0xffff_fff0;

impl Launcher {
    fn detect(variable: impl Fn(&str) -> Option<String>) -> Self {
        let starts_mpi = MPI_VARIABLES.iter().any(|name| variable(name).is_some());
        // `mpirun` in a Slurm job starts its daemons by `srun`, whose variables then count daemons. So what an
        // MPI launcher says goes before what Slurm says.
        let mut says = vec!["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];
        let step: Option<u64> = variable("SLURM_STEP_ID").and_then(|id| id.parse().ok());
        // In a batch script Slurm sets SLURM_NTASKS too, though the script itself is one process.
        if step.is_some_and(|id| id < FIRST_SPECIAL_STEP) {
            says.extend(["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"]);
        }
        let tasks = says.into_iter().find_map(|name| Some((name, variable(name)?.parse().ok()?)));
        Self { starts_mpi, tasks }
    }

    /// Refuses to train as many separate worlds, mostly of one rank, each writing over the others' files.
    fn check_world(&self, world_size: usize) -> Result<()> {
        let Some((variable, tasks)) = self.tasks else { return Ok(()) };
        // One world may also span several groups of tasks (a heterogeneous job).
        if world_size >= tasks {
            return Ok(());
        }
        let seen = if world_size == 1 { "no other rank".to_string() } else { format!("{world_size} ranks only") };
        let error = Error::job(format!("{tasks} processes were started, but this one sees {seen}"))
            .at("environment", format!("{variable}={tasks}"));
        Err(if !cfg!(feature = "mpi") {
            error.fix("this tandem was built without MPI: rebuild it with `cargo build --release --features mpi`")
        } else if self.starts_mpi {
            error.fix("start tandem with the `mpirun` of the MPI library it was built with")
        } else {
            error.fix("use `srun --mpi=pmix` (see `srun --mpi=list`), or `mpirun` in place of `srun`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{collectives, threads};

    fn detect(variables: &[(&str, &str)]) -> Launcher {
        Launcher::detect(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn a_plain_process_is_one_rank_without_mpi() {
        let launcher = detect(&[("HOME", "/root")]);
        assert_eq!(launcher, Launcher { starts_mpi: false, tasks: None });
        assert!(launcher.check_world(1).is_ok());
    }

    #[test]
    fn every_mpi_launcher_is_recognised() {
        for name in MPI_VARIABLES {
            assert!(detect(&[(name, "2")]).starts_mpi, "{name}");
        }
        assert_eq!(detect(&[("OMPI_COMM_WORLD_SIZE", "4")]).tasks, Some(("OMPI_COMM_WORLD_SIZE", 4)));
    }

    #[test]
    fn many_worlds_of_one_are_refused() {
        let srun = detect(&[("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_NTASKS", "8")]);
        let text = srun.check_world(1).expect_err("8 tasks are no world of 1").to_string();
        assert!(text.contains("8 processes") && text.contains("SLURM_STEP_NUM_TASKS=8"), "{text}");
        assert!(srun.check_world(8).is_ok());
        assert!(srun.check_world(16).is_ok());
        let text = srun.check_world(4).expect_err("two worlds of 4").to_string();
        assert!(text.contains("8 processes were started, but this one sees 4 ranks only"), "{text}");

        let older = detect(&[("SLURM_STEP_ID", "3"), ("SLURM_NPROCS", "2")]);
        assert!(older.check_world(1).is_err());

        let other_library = detect(&[("PMI_SIZE", "4"), ("PMI_RANK", "1")]);
        assert!(other_library.check_world(1).is_err());
        assert!(other_library.check_world(4).is_ok());
    }

    #[test]
    fn a_batch_script_is_one_process_whatever_it_asked_for() {
        for step in [None, Some("4294967291"), Some("4294967290")] {
            let mut variables = vec![("SLURM_NTASKS", "8"), ("SLURM_NPROCS", "8"), ("SLURM_PROCID", "0")];
            variables.extend(step.map(|id| ("SLURM_STEP_ID", id)));
            assert!(detect(&variables).check_world(1).is_ok(), "{step:?}");
        }
    }

    #[test]
    fn mpirun_inside_slurm_is_believed_before_slurm() {
        let one_rank = detect(&[("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "2")]);
        assert!(one_rank.check_world(1).is_ok());
    }

    #[test]
    fn a_failing_rank_ends_the_others() {
        let codes = threads::run(3, threads::Options::default(), |comm| {
            let mine = if comm.rank() == 1 { Err(Error::job("bad key")) } else { comm.barrier().map(|()| 0) };
            match comm.rank() {
                1 => Ok(conclude(comm.as_ref(), mine)),
                _ => mine,
            }
        });
        assert!(codes.into_iter().all(|code| code.is_err_and(|e| e.to_string().contains("code 2: bad key"))));
    }

    #[test]
    fn an_agreed_error_is_left_to_rank_0() {
        let codes = threads::run(2, threads::Options::default(), |comm| {
            let mine = if comm.rank() == 1 { Err(Error::data("damaged")) } else { Ok(0) };
            let agreed = collectives::agree(comm.as_ref(), mine);
            match comm.rank() {
                0 => Ok(conclude(comm.as_ref(), agreed)),
                _ => comm.barrier().map(|()| 0),
            }
        });
        // An empty message: rank 0 has printed it without a rank.
        let texts: Vec<String> = codes.into_iter().filter_map(|c| c.err().map(|e| e.to_string())).collect();
        assert_eq!(texts, ["aborted with code 1: ", "rank 0 failed: aborted with code 1: "]);
    }

    #[test]
    fn a_panic_of_a_compute_thread_is_an_error() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let error = unless_it_panics(|| pool.install(|| panic!("a planned panic"))).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert_eq!(error.to_string(), STOPPED_BY_PANIC);
    }

    #[test]
    fn success_passes_the_code_on() {
        assert_eq!(conclude(&Solo, Ok(75)), 75);
    }
}
