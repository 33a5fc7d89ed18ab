//! Processes, threads and cores. That several processes do not each believe to be alone is checked whenever a command starts
//! ([`crate::comm::launch`]); here is what a launch that is still planned would do.

use super::Patient;
use super::report::{Finding, error, note, warning};

const NAME: &str = "launch";

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    of(patient.options.ranks, patient.options.ranks_per_node, patient.job.threads, cores, |name| {
        std::env::var(name).ok()
    })
}

fn of(
    ranks: usize,
    here: usize,
    threads: Option<usize>,
    cores: usize,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let each = threads.unwrap_or(cores / here.max(1)).max(1);
    let mut found = vec![note(NAME, format!("{here} ranks on this machine × {each} threads, {cores} cores"))];
    if ranks > 1 && !cfg!(feature = "mpi") {
        let what = format!("{ranks} ranks are planned, and this tandem was built without MPI");
        found.push(error(NAME, what).fix("rebuild it with `cargo build --release --features mpi`"));
    }
    if here * each > cores {
        let what = format!("{here} ranks × {each} threads want more than the {cores} cores that this process may use");
        found.push(warning(NAME, what).fix(
            "start fewer ranks a machine, or set `threads`; if `mpirun` binds ranks to cores, use `--bind-to none`",
        ));
    } else if here * each * 2 <= cores {
        let what = format!("{here} ranks × {each} threads leave more than half of {cores} cores idle");
        found.push(warning(NAME, what).fix("leave `threads` out, or start more ranks"));
    }
    let number = |name: &str| variable(name).and_then(|value| value.parse::<usize>().ok());
    if let Some(tasks) = number("SLURM_NTASKS").filter(|&tasks| tasks > 1 && tasks != ranks) {
        let what = format!("Slurm was asked for {tasks} tasks, and {ranks} ranks are planned");
        found.push(
            warning(NAME, what)
                .fix("start one rank a task: `srun --mpi=pmix` or `mpirun`, and give doctor the same --ranks"),
        );
    }
    if let Some(given) = number("SLURM_CPUS_PER_TASK").filter(|&given| given < each) {
        let what = format!("Slurm gives each task {given} cores, and a rank would start {each} threads");
        found.push(warning(NAME, what).fix(format!("set `threads: {given}`, or ask for `--cpus-per-task={each}`")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn found(ranks: usize, here: usize, threads: Option<usize>, slurm: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &str| slurm.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        let worse = of(ranks, here, threads, 8, variable).into_iter().filter(|f| f.severity > Severity::Note);
        worse.filter(|f| !f.what.contains("without MPI")).map(|f| f.what).collect()
    }

    #[test]
    fn threads_are_compared_with_cores() {
        assert_eq!(found(8, 8, None, &[]), [] as [String; 0]);
        assert_eq!(found(16, 4, None, &[]), [] as [String; 0]);
        assert!(found(4, 4, Some(4), &[])[0].contains("more than the 8 cores"));
        assert!(found(1, 1, Some(4), &[])[0].contains("half of 8 cores idle"));
    }

    #[test]
    fn slurm_must_have_been_asked_for_the_same() {
        assert!(found(4, 4, None, &[("SLURM_NTASKS", "8")])[0].contains("asked for 8 tasks, and 4 ranks"));
        assert_eq!(found(8, 8, None, &[("SLURM_NTASKS", "8"), ("SLURM_CPUS_PER_TASK", "1")]), [] as [String; 0]);
        assert!(found(2, 2, None, &[("SLURM_CPUS_PER_TASK", "1")])[0].contains("a rank would start 4 threads"));
    }
}
