//! Two hosts with addresses of their own and a slow network between them, made of network namespaces: the traffic of
//! training over TCP, beside the least that its exchanges must move. Needs root, `ip` and `tc`, and Open MPI.
#![cfg(all(feature = "mpi", target_os = "linux"))]

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use arrow::array::{ArrayRef, Int64Array};
use common::{MPI_SETTINGS, text_of};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// Of both directions.
const RATE: &str = "400mbit";

/// Two network namespaces, taken away when dropped.
struct Hosts {
    names: [String; 2],
    folder: TempDir,
}

impl Hosts {
    /// `None` where this process may not make any, having said so.
    fn new() -> Option<Self> {
        let version = Command::new("mpirun").arg("--version").output();
        if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("Open MPI")) {
            eprintln!("SKIPPED: there is no Open MPI, whose way to start ranks on hosts this test uses");
            return None;
        }
        let id = std::process::id();
        let hosts = Self {
            names: [format!("tandem-{id}-a"), format!("tandem-{id}-b")],
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        match hosts.connect() {
            Ok(()) => Some(hosts),
            Err(what) => {
                eprintln!("SKIPPED: two network namespaces cannot be made here: {what}");
                None
            }
        }
    }

    fn connect(&self) -> Result<(), String> {
        let [a, b] = &self.names;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["link", "add", "wire", "netns", a, "type", "veth", "peer", "name", "wire", "netns", b])?;
        for (name, address) in self.names.iter().zip(ADDRESSES) {
            ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", "wire"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", "wire", "up"])?;
            let limit = format!("tc qdisc add dev wire root tbf rate {RATE} burst 128kb latency 100ms");
            ip(&[&["netns", "exec", name][..], &limit.split(' ').collect::<Vec<_>>()].concat())?;
        }
        self.write_agent();
        Ok(())
    }

    /// What `mpirun` calls in place of `ssh`: `agent HOST COMMAND…`. The second host has a name and a folder for
    /// temporary files of its own, as a machine has.
    fn write_agent(&self) {
        let text = format!(
            "#!/bin/sh\nshift\nexec ip netns exec {host} unshare --uts sh -c 'hostname b; TMPDIR={tmp} exec sh -c \"$0\"' \"$*\"\n",
            host = self.names[1],
            tmp = self.folder("b").display(),
        );
        fs::write(self.agent(), text).expect("a script");
        fs::set_permissions(self.agent(), fs::Permissions::from_mode(0o755)).expect("a script that runs");
    }

    fn agent(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// Runs `tandem` with one rank on each host.
    fn run(&self, args: &[&str]) -> Output {
        let network = format!("{}/24", ADDRESSES[0]);
        let agent = self.agent();
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.names[0],
                "unshare",
                "--uts",
                "sh",
                "-c",
                "hostname a; exec \"$@\"",
                "mpirun",
            ])
            .args(["mpirun", "-n", "2", "-H", &ADDRESSES.join(",")])
            .args(["--mca", "plm_rsh_agent", agent.to_str().expect("a plain path"), "--mca", "btl", "tcp,self"])
            .args(["--mca", "btl_tcp_if_include", &network, "--mca", "oob_tcp_if_include", &network])
            .arg(env!("CARGO_BIN_EXE_tandem"))
            .args(args)
            .envs(MPI_SETTINGS)
            .env("TMPDIR", self.folder("a"))
            .env("MPIEXEC_TIMEOUT", "120");
        command.output().expect("ip runs")
    }

    /// Bytes that both hosts have sent to each other, headers included.
    fn sent(&self) -> u64 {
        let sent = |name: &String| {
            let path = "/sys/class/net/wire/statistics/tx_bytes";
            let text = ip(&["netns", "exec", name, "cat", path]).unwrap_or_else(|what| panic!("{path}: {what}"));
            text.trim().parse::<u64>().expect("a number")
        };
        self.names.iter().map(sent).sum()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // The first one to go takes the wire with it.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// Runs `ip`; what it printed, or why it failed.
fn ip(args: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(args).output().map_err(|e| format!("ip: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

const ROWS: usize = 1 << 15;
const DIM: usize = 32;
const STEPS: usize = 8;

/// A log in which every row has an id of its own, and its job.
fn write_job(folder: &Path) -> PathBuf {
    let ints = |f: fn(usize) -> i64| -> ArrayRef { Arc::new((0..ROWS).map(f).collect::<Int64Array>()) };
    let columns = vec![("user", ints(|row| row as i64)), ("click", ints(|row| (row % 3 == 0) as i64))];
    fixture::write_parquet(&folder.join("train/0.parquet"), columns);
    let text = format!(
        "name: hosts\ndata: {{root: {}, train: train}}\n\
         features: [{{name: user, kind: categorical, dim: {DIM}}}]\ntasks: [{{name: click, label: click}}]\n\
         model: {{kind: shared_bottom, bottom: [256, 128], tower: [32]}}\n\
         train: {{global_batch: {}}}\nthreads: 1\n",
        folder.display(),
        ROWS / STEPS
    );
    let job = folder.join("job.yaml");
    fs::write(&job, text).expect("a job");
    job
}

/// The least that both ranks together send, as `docs/performance.md` counts it. Half of the ids are another rank's, of
/// which each is sent, its row back, and its gradient; each rank sends half of the dense gradient and half of the
/// parameters.
fn least(dense_parameters: u64) -> f64 {
    let ids = ROWS as f64 / 2.0 * (8 + 2 * 4 * DIM) as f64;
    let dense = (STEPS * 2 * 4) as f64 * dense_parameters as f64;
    ids + dense
}

#[test]
fn two_hosts_send_little_more_than_they_must_mpi() {
    let Some(hosts) = Hosts::new() else { return };
    let (job, run_dir) = (write_job(&hosts.folder("job")), hosts.folder.path().join("run"));
    let args = ["train", job.to_str().expect("a plain path"), "--run-dir", run_dir.to_str().expect("a plain path")];
    let before = hosts.sent();
    let done = hosts.run(&args);
    assert!(done.status.success(), "{}", text_of(&done));
    let sent = hosts.sent() - before;

    let log = fs::read_to_string(run_dir.join("metrics.jsonl")).expect("a log");
    let start: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&start["ranks"], &start["total_steps"]), (&2.into(), &STEPS.into()), "{start}");
    let board = fs::read_to_string(run_dir.join("watchdog")).expect("the ranks' lines");
    assert!(board.contains(r#""host":"a""#) && board.contains(r#""host":"b""#), "{board}");

    let least = least(start["dense_parameters"].as_u64().expect("a number"));
    let ratio = sent as f64 / least;
    println!("{sent} bytes sent, least {least}, ratio {ratio:.3}");
    assert!((1.0..1.15).contains(&ratio), "{sent} bytes sent, least {least}: {ratio}");
}
