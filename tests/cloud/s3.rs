//! The commands against an S3 server: rows are read from it, checkpoints and bundles go there and come back.

use crate::common::job::Workplace;
use crate::common::text_of;
use crate::python::{python, run};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// moto's server, with the empty bucket `shop`.
struct S3 {
    server: Child,
    port: u16,
}

impl S3 {
    /// `None` where it cannot be installed.
    fn start() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud");
        let python = python(folder.to_str().expect("UTF-8"))?;
        let mut server = Command::new(python);
        server.arg(folder.join("serve.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = server.spawn().expect("Python runs");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut line).expect("a port");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port: {line:?}"));
        Some(Self { server, port })
    }

    /// Runs `tandem` with what an S3 client reads of its environment.
    fn tandem(&self, place: &Workplace, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tandem"))
            .args(args)
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "open-sesame")
            .env("AWS_SECRET_ACCESS_KEY", "hunter2")
            .env("XDG_CACHE_HOME", place.path("cache"))
            .env("RUST_LOG", "trace")
            .output()
            .expect("tandem runs")
    }

    fn good(&self, place: &Workplace, args: &[&str]) -> Output {
        let output = self.tandem(place, args);
        let text = text_of(&output);
        assert!(output.status.success(), "{args:?}: {text}");
        assert!(!text.contains("hunter2"), "a secret in the log of {args:?}");
        output
    }

    /// Puts a file into the bucket, as any client does.
    fn put(&self, key: &str, path: &Path) {
        let url = format!("http://127.0.0.1:{}/shop/{key}", self.port);
        let script = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], data=open(sys.argv[2], 'rb').read(), method='PUT'))";
        run(Command::new("python3").args(["-c", script, &url]).arg(path)).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_run_lives_in_a_bucket() {
    let Some(s3) = S3::start() else { return };
    let place = Workplace::with_log(120);
    for name in ["train/a.parquet", "train/b.parquet", "valid/a.parquet"] {
        s3.put(&format!("log/{name}"), &place.path(name));
    }
    let job = place.job_file();
    let text = std::fs::read_to_string(&job).unwrap();
    let text = text.replace(&place.path("").display().to_string().trim_end_matches('/').to_string(), "s3://shop/log");
    std::fs::write(&job, &text).unwrap();
    assert!(text.contains("root: s3://shop/log"), "{text}");
    let job = job.display().to_string();
    let dir = |name: &str| place.path(name).display().to_string();
    let copy = "checkpoint.copy_to=s3://shop/runs/x";

    // Rows and copies.
    s3.good(
        &place,
        &[
            "train",
            &job,
            "--run-dir",
            &dir("run"),
            "--set",
            copy,
            "--set",
            "train.max_steps=3",
            "--set",
            "checkpoint.keep=1",
        ],
    );
    let eval = |ckpt: &str| {
        let output = s3.good(&place, &["eval", ckpt, "--data", "s3://shop/log/valid/*.parquet", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["step"].clone(), report["tasks"].clone())
    };
    assert_eq!(eval(&dir("run")), eval("s3://shop/runs/x"));

    // Another machine goes on from the copy.
    s3.good(&place, &["train", &job, "--run-dir", &dir("other"), "--resume", "--set", copy]);
    s3.good(&place, &["train", &job, "--run-dir", &dir("run"), "--resume"]);
    assert_eq!(eval(&dir("other")), eval(&dir("run")));
    let inspected = s3.good(&place, &["inspect", "s3://shop/runs/x", "--json"]);
    assert!(String::from_utf8_lossy(&inspected.stdout).contains("\"step\""));

    // A bundle goes there whole, and verifies from there.
    #[cfg(feature = "serving")]
    {
        s3.good(&place, &["export", &dir("run"), "--out", "s3://shop/bundles/x", "--data", "s3://shop/log/valid"]);
        s3.good(&place, &["verify", "s3://shop/bundles/x"]);
    }
    let missing = s3.tandem(&place, &["eval", "s3://shop/runs/none", "--data", "s3://shop/log/valid"]);
    assert!(!missing.status.success() && text_of(&missing).contains("no checkpoint here"), "{}", text_of(&missing));
}
