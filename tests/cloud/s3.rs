//! The commands against an S3 server: rows are read from it, checkpoints and bundles go there and come back, while one
//! request in a few fails.

use crate::common::job::Workplace;
use crate::common::{mpirun_command, text_of};
use crate::python::{python, run};
use crate::server::{Fault, Server};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// What no log, file or message may hold.
const SECRET: &str = "hunter2";

/// moto's server, with the empty bucket `shop`, behind a server with faults.
struct S3 {
    server: Child,
    port: u16,
    front: Server,
}

impl S3 {
    /// `None` where it cannot be installed.
    fn start() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud");
        let mut server = Command::new(python(folder.to_str().expect("UTF-8"))?);
        server.arg(folder.join("serve.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = server.spawn().expect("Python runs");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut line).expect("a port");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port: {line:?}"));
        Some(Self { server, port, front: Server::before(port) })
    }

    /// Runs a command with what an S3 client reads of its environment.
    fn output(&self, place: &Workplace, mut command: Command) -> Output {
        let output = command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.front.port()))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "open-sesame")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("XDG_CACHE_HOME", place.path("cache"))
            .env("RUST_LOG", "trace")
            .output()
            .expect("tandem runs");
        assert!(!text_of(&output).contains(SECRET), "a secret in the output of {command:?}");
        output
    }

    fn tandem(&self, place: &Workplace, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(args);
        self.output(place, command)
    }

    fn good(&self, place: &Workplace, args: &[&str]) -> Output {
        let output = self.tandem(place, args);
        assert!(output.status.success(), "{args:?}: {}", text_of(&output));
        output
    }

    /// Puts a file into the bucket, as any client does.
    fn put(&self, key: &str, path: &Path) {
        let url = format!("http://127.0.0.1:{}/shop/{key}", self.port);
        let script = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], data=open(sys.argv[2], 'rb').read(), method='PUT', headers={'Content-Type': 'application/octet-stream'}))";
        run(Command::new("python3").args(["-c", script, &url]).arg(path)).unwrap_or_else(|error| panic!("{error}"));
    }

    /// [`Workplace::with_log`], its log in the bucket; and the path of its job.
    fn with_log(&self) -> (Workplace, String) {
        let place = Workplace::with_log(120);
        for name in ["train/a.parquet", "train/b.parquet", "valid/a.parquet"] {
            self.put(&format!("log/{name}"), &place.path(name));
        }
        let job = place.job_file();
        let text = std::fs::read_to_string(&job).unwrap();
        let root = place.path("");
        let text = text.replace(root.to_str().unwrap().trim_end_matches('/'), "s3://shop/log");
        assert!(text.contains("root: s3://shop/log"), "{text}");
        std::fs::write(&job, text).unwrap();
        (place, job.display().to_string())
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Whether a file below `folder` holds the secret.
fn holds_secret(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => holds_secret(&path),
            false => std::fs::read(&path).unwrap().windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()),
        }
    })
}

#[test]
fn a_run_lives_in_a_bucket() {
    let Some(s3) = S3::start() else { return };
    let (place, job) = s3.with_log();
    s3.front.fail_every(9);
    let dir = |name: &str| place.path(name).display().to_string();
    let copy = "checkpoint.copy_to=s3://shop/runs/x";
    let eval = |ckpt: &str| {
        let output = s3.good(&place, &["eval", ckpt, "--data", "s3://shop/log/valid/*.parquet", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["step"].clone(), report["tasks"].clone())
    };

    // Rows come from the bucket, and every checkpoint goes there; the manifest goes last.
    s3.front.requests();
    let steps = ["--set", "train.max_steps=3", "--set", "checkpoint.every=1 steps", "--set", "checkpoint.keep=1"];
    s3.good(&place, &[&["train", &job, "--run-dir", &dir("run"), "--set", copy], &steps[..]].concat());
    let requests = s3.front.requests();
    let puts: Vec<&String> =
        requests.iter().filter(|request| request.contains("/step-00000003/") && request.starts_with("PUT")).collect();
    let first_manifest = puts.iter().position(|put| put.contains("manifest.json")).expect("a manifest");
    assert!(first_manifest > 0 && puts[first_manifest..].iter().all(|put| put.contains("manifest.json")), "{puts:#?}");
    assert_eq!(eval(&dir("run")), eval("s3://shop/runs/x"));

    // Another machine goes on from the copy.
    s3.good(&place, &["train", &job, "--run-dir", &dir("other"), "--resume", "--set", copy]);
    s3.good(&place, &["train", &job, "--run-dir", &dir("run"), "--resume"]);
    assert_eq!(eval(&dir("other")), eval(&dir("run")));
    assert_eq!(eval(&dir("other")), eval("s3://shop/runs/x"));
    assert!(!holds_secret(&place.path("")), "a secret in a file");

    // A run begins with a checkpoint of the bucket.
    let begun = s3.good(
        &place,
        &[
            "train",
            &job,
            "--run-dir",
            &dir("begun"),
            "--set",
            "init_from=s3://shop/runs/x",
            "--set",
            "train.max_steps=1",
        ],
    );
    assert!(text_of(&begun).contains("parameters"), "{}", text_of(&begun));
}

#[test]
fn commands_read_addresses() {
    let Some(s3) = S3::start() else { return };
    let (place, job) = s3.with_log();
    s3.front.fail_every(11);
    let dir = |name: &str| place.path(name).display().to_string();
    let stdout = |args: &[&str]| String::from_utf8(s3.good(&place, args).stdout).unwrap();
    s3.good(
        &place,
        &[
            "train",
            &job,
            "--run-dir",
            &dir("run"),
            "--set",
            "checkpoint.copy_to=s3://shop/runs/y",
            "--set",
            "train.max_steps=2",
        ],
    );
    assert!(stdout(&["inspect", "s3://shop/runs/y", "--json"]).contains("\"step\":2"));
    let differs = stdout(&["inspect", "s3://shop/runs/y", "--diff", &dir("run"), "--json"]);
    assert!(differs.contains("\"changed\":0"), "{differs}");
    // The listing breaks off twice.
    s3.front.fail(&[Fault::None, Fault::Truncated, Fault::Truncated]);
    assert!(stdout(&["inspect", "s3://shop/log/train"]).contains("log         2 files"));
    s3.front.fail_every(11);
    assert!(stdout(&["inspect", "s3://shop/log/*/a.parquet"]).contains("log         2 files"));
    assert!(stdout(&["new", "s3://shop/log/train", "--label", "click"]).contains("s3://shop/log/train"));
    let doctor = |to: &str| {
        let to = format!("checkpoint.copy_to={to}");
        String::from_utf8(s3.tandem(&place, &["doctor", &job, "--json", "--set", &to]).stdout).unwrap()
    };
    let found = doctor("s3://shop/runs/y");
    assert!(found.contains("\"rows\":120") && found.contains("holds a checkpoint of step 2"), "{found}");
    assert!(doctor("s3://none/runs").contains("NoSuchBucket"), "{}", doctor("s3://none/runs"));
    s3.good(&place, &["predict", "s3://shop/runs/y", "--data", "s3://shop/log/valid", "--out", &dir("scored")]);

    // What stays on a disk says so.
    for args in [
        &["train", &job, "--run-dir", "s3://shop/runs/z"][..],
        &["predict", "s3://shop/runs/y", "--data", "s3://shop/log/valid", "--out", "s3://shop/scored"],
        &["synth", "s3://shop/synth", "--rows", "10"],
        &["ingest", "s3://shop/x.csv", "--out", &dir("ingested")],
    ] {
        let output = s3.tandem(&place, args);
        assert!(
            output.status.code() == Some(2) && text_of(&output).contains("must be on this machine"),
            "{}",
            text_of(&output)
        );
    }
    for (place_of, what) in
        [("s3://shop/runs/none", "no checkpoint or bundle here"), ("s3://none/runs/x", "NoSuchBucket")]
    {
        let output = s3.tandem(&place, &["eval", place_of, "--data", "s3://shop/log/valid"]);
        assert!(!output.status.success() && text_of(&output).contains(what), "{}", text_of(&output));
    }
}

/// A bundle goes there whole, and verifies from there; a delta is folded in there, too.
#[cfg(feature = "serving")]
#[test]
fn bundles_are_published_to_a_bucket() {
    let Some(s3) = S3::start() else { return };
    let (place, job) = s3.with_log();
    s3.front.fail_every(13);
    let run = place.path("run").display().to_string();
    s3.good(
        &place,
        &["train", &job, "--run-dir", &run, "--set", "train.max_steps=2", "--set", "checkpoint.every=1 steps"],
    );
    let older = format!("{run}/checkpoints/step-00000001");
    s3.good(&place, &["export", &older, "--out", "s3://shop/bundles/old", "--data", "s3://shop/log/valid"]);
    s3.front.requests();
    s3.good(
        &place,
        &["export", &run, "--out", "s3://shop/bundles/delta", "--since", &older, "--data", "s3://shop/log/valid"],
    );
    let requests = s3.front.requests();
    let last = requests.iter().rfind(|request| request.starts_with("PUT")).unwrap();
    assert!(last.contains("manifest.json"), "{requests:#?}");
    s3.good(&place, &["apply", "s3://shop/bundles/old", "s3://shop/bundles/delta", "--out", "s3://shop/bundles/new"]);
    s3.good(&place, &["verify", "s3://shop/bundles/new"]);
    let again = s3.tandem(&place, &["export", &run, "--out", "s3://shop/bundles/new"]);
    assert!(text_of(&again).contains("is not empty"), "{}", text_of(&again));
}

/// The commands of docs/object-stores.md.
#[test]
fn the_documented_commands_run() {
    let Some(s3) = S3::start() else { return };
    let (place, _) = s3.with_log();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/object-stores.md")).unwrap();
    let block = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("commands");
    let bin = Path::new(env!("CARGO_BIN_EXE_tandem")).parent().unwrap();
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", block]).current_dir(place.path(""));
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    let output = s3.output(&place, command);
    assert!(output.status.success(), "{}", text_of(&output));
}

#[test]
fn ranks_share_the_work() {
    let Some(s3) = S3::start() else { return };
    let (place, job) = s3.with_log();
    let program = Path::new(env!("CARGO_BIN_EXE_tandem"));
    let dir = place.path("run").display().to_string();
    let args = [
        "train",
        &job,
        "--run-dir",
        &dir,
        "--set",
        "checkpoint.copy_to=s3://shop/runs/ranks",
        "--set",
        "train.max_steps=4",
    ];
    let Some(command) = mpirun_command(2, program, &args) else { return };
    let output = s3.output(&place, command);
    assert!(output.status.success(), "{}", text_of(&output));
    let args = ["eval", "s3://shop/runs/ranks", "--data", "s3://shop/log/valid", "--json"];
    let Some(command) = mpirun_command(2, program, &args) else { return };
    let far = s3.output(&place, command);
    let tasks = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["tasks"].clone();
    let near = s3.good(&place, &["eval", &dir, "--data", "s3://shop/log/valid", "--json"]);
    assert_eq!(tasks(&far), tasks(&near));
}
