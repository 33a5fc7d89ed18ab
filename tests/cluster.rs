//! What happens to ranks on a cluster: they die, stand still, or were started with something else.
#![cfg(all(feature = "mpi", target_os = "linux"))]

mod common;

use common::job::{Workplace, newest};
use common::state::assert_identical;
use common::{mpirun_command, signal, text_of};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tandem::random::hash;

const RANKS: usize = 2;

/// How often a rank is killed or stopped: `TANDEM_DISTURBANCES`, else few, because each takes seconds.
fn disturbances() -> u64 {
    let wanted = std::env::var("TANDEM_DISTURBANCES").ok();
    wanted.map_or(6, |number| number.parse().expect("TANDEM_DISTURBANCES is a number"))
}

fn tandem() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tandem"))
}

/// A job of some seconds that saves often, in `run_dir`; `None` where there is no `mpirun`.
fn start(job: &Path, run_dir: &Path) -> Option<Child> {
    let run_dir = run_dir.to_str().expect("a plain path");
    let args = ["--quiet", "train", job.to_str().expect("a plain path"), "--run-dir", run_dir, "--resume"];
    let settings = ["train.epochs=40", "train.eval.every=10 epochs", "checkpoint.every=9 steps", "train.watchdog=2 s"];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let args: Vec<&str> = args.into_iter().chain(settings).collect();
    let mut command = mpirun_command(RANKS, tandem(), &args)?;
    Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun starts"))
}

/// The processes of `tandem` below the process `of`, which launchers may start through daemons of their own.
fn ranks_below(of: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // `PID (name) state parent …`; gone by now, perhaps.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((start, rest)) = stat.rsplit_once(')') else { continue };
        let parent = rest.split_whitespace().nth(1).and_then(|parent| parent.parse::<u32>().ok());
        parents.push((process, parent, start.ends_with("(tandem")));
    }
    let (mut found, mut open) = (Vec::new(), vec![of]);
    while let Some(above) = open.pop() {
        for &(process, _, is_rank) in parents.iter().filter(|(_, parent, _)| *parent == Some(above)) {
            open.push(process);
            found.extend(is_rank.then_some(process));
        }
    }
    found.sort();
    found
}

/// Waits for what `ready` says, or the end of the job.
fn wait_until(child: &mut Child, mut ready: impl FnMut() -> bool) {
    while child.try_wait().expect("a child").is_none() && !ready() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends `name` to a rank of the job at a moment that `seed` draws; says whether there was still one.
fn disturb(child: &mut Child, run_dir: &Path, name: &str, seed: u64) -> bool {
    let id = child.id();
    if name == "STOP" {
        // Before, the ranks do not know of each other, and wait for long.
        let board = run_dir.join("watchdog");
        let _ = fs::remove_file(&board);
        wait_until(child, || fs::metadata(&board).is_ok_and(|board| board.len() == RANKS as u64 * 512));
    } else {
        wait_until(child, || ranks_below(id).len() == RANKS);
    }
    std::thread::sleep(Duration::from_millis(hash(seed, &[1]) % 1500));
    let ends = fs::read_to_string(run_dir.join("metrics.jsonl")).is_ok_and(|log| log.contains(r#""event":"end""#));
    let ranks = ranks_below(id);
    match ranks.get((hash(seed, &[2]) % RANKS as u64) as usize) {
        Some(&rank) if !ends => {
            // It may end at this moment.
            Command::new("kill").args([&format!("-{name}"), &rank.to_string()]).status().is_ok_and(|s| s.success())
        }
        _ => false,
    }
}

/// Every end of a job that was disturbed: by the launcher, or by the watchdog of a rank that waited.
fn assert_ended(done: &Output, name: &str) {
    let text = text_of(done);
    if name == "STOP" {
        assert_eq!(done.status.code(), Some(76), "{text}");
        assert!(text.contains("is late, silent for"), "{text}");
    } else {
        // Open MPI says 128 + 9, MPICH 9.
        assert!(matches!(done.status.code(), Some(137 | 9)), "{text}");
    }
}

#[test]
fn ranks_that_die_or_stand_still_cost_no_more_than_time_mpi() {
    let place = Workplace::with_log(250);
    let job = place.job_file();
    let undisturbed = place.path("undisturbed");
    let Some(child) = start(&job, &undisturbed) else { return };
    let done = child.wait_with_output().expect("a child");
    assert!(done.status.success(), "{}", text_of(&done));

    let (mut seed, mut disturbed) = (0, 0);
    while disturbed < disturbances() {
        let run_dir = place.path(&format!("run-{seed}"));
        loop {
            seed += 1;
            let name = if hash(seed, &[3]).is_multiple_of(3) { "STOP" } else { "KILL" };
            let mut child = start(&job, &run_dir).expect("mpirun was there before");
            let hit = disturbed < disturbances() && disturb(&mut child, &run_dir, name, seed);
            let done = child.wait_with_output().expect("a child");
            if done.status.success() {
                break;
            }
            assert!(hit, "seed {seed}: {}", text_of(&done));
            assert_ended(&done, name);
            disturbed += 1;
        }
        assert_identical(&newest(&undisturbed), &newest(&run_dir));
    }
}

/// A pipe that nobody writes to is a disk that does not answer.
#[test]
fn commands_that_stand_still_name_the_file_mpi() {
    let place = Workplace::with_log(100);
    let job = place.job_file();
    let run_dir = place.path("run");
    let Some(child) = start(&job, &run_dir) else { return };
    assert!(child.wait_with_output().expect("a child").status.success());
    let pipe = place.path("dead.parquet");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let (run_dir, pipe) = (run_dir.display().to_string(), pipe.display().to_string());
    let out = place.path("scored").display().to_string();
    for command in [&["eval"][..], &["predict", "--out", &out]] {
        let args = [command, &[&run_dir, "--data", &pipe, "--watchdog", "2 s"]].concat();
        let mut mpirun = mpirun_command(RANKS, tandem(), &args).expect("mpirun was there before");
        let done = mpirun.output().expect("mpirun starts");
        let text = text_of(&done);
        assert_eq!(done.status.code(), Some(76), "{text}");
        let late = text.find("rank 0: nothing has moved for 2 s (stage start after step 0, at file").expect(&text);
        assert!(text[late..].lines().next().is_some_and(|line| line.contains("dead.parquet")), "{text}");
        // It waits, and speaks only where the late rank does not.
        assert!(text.find("rank 1: ").is_none_or(|waiting| waiting > late), "{text}");
    }
}

/// Runs two groups of one rank each, with different programs or arguments, as one job.
fn mpirun_two(first: &[&str], second: &[&str]) -> Option<Output> {
    let mut command = mpirun_command(1, Path::new(first[0]), &first[1..])?;
    command.args([":", "-n", "1"]).args(second);
    Some(command.output().expect("mpirun starts"))
}

fn assert_refused(output: &Output, message: &str) {
    let text = text_of(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.matches(&format!("error: {message} (ranks 0 and 1)\n  fix: ")).count(), 1, "{text}");
}

#[test]
fn ranks_with_other_jobs_are_refused_mpi() {
    let place = Workplace::with_log(100);
    let job = place.job_file();
    let (program, job) = (tandem().to_str().expect("a plain path"), job.to_str().expect("a plain path"));
    let run_dir = place.path("run").display().to_string();
    let args = [program, "train", job, "--run-dir", &run_dir];
    let Some(output) = mpirun_two(&args, &[&args[..], &["--set", "seed=7"]].concat()) else { return };
    assert_refused(&output, "the ranks were started with different jobs");
    let Some(output) = mpirun_two(&args, &[&args[..], &["--resume"]].concat()) else { return };
    assert_refused(&output, "the ranks were started with different jobs");
    assert!(!place.path("run").exists());
}

#[test]
fn ranks_of_other_builds_are_refused_mpi() {
    let place = Workplace::with_log(100);
    let job = place.job_file();
    let (program, other) = (tandem().to_str().expect("a plain path"), place.path("tandem"));
    let mut bytes = fs::read(tandem()).expect("the program");
    bytes.push(0);
    fs::write(&other, bytes).expect("a copy");
    fs::set_permissions(&other, fs::metadata(tandem()).expect("the program").permissions()).expect("executable");
    let args = ["train", job.to_str().expect("a plain path"), "--dry-run"];
    let other = other.to_str().expect("a plain path");
    let Some(output) = mpirun_two(&[&[program][..], &args].concat(), &[&[other][..], &args].concat()) else { return };
    assert_refused(&output, "the ranks run different builds of tandem");
}

/// A signal that comes before the first step is one to stop, as a later one.
#[test]
fn a_signal_during_the_start_saves_mpi() {
    let place = Workplace::with_log(100);
    let (job, run_dir) = (place.job_file(), place.path("run"));
    let Some(mut child) = start(&job, &run_dir) else { return };
    let board = run_dir.join("watchdog");
    wait_until(&mut child, || board.exists());
    signal(child.id(), "USR1");
    let done = child.wait_with_output().expect("a child");
    assert_eq!(done.status.code(), Some(75), "{}", text_of(&done));
    assert!(newest(&run_dir).exists());
}
