//! Bundles in real systems: Redis, FAISS, DuckDB. Each test installs what it needs, or says that it is skipped; with
//! `CI` set it fails instead.

use super::onnxruntime::{FOLDER, PAIR_FEATURES, PAIRS};
use super::*;
use crate::python::{python, run};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};

fn script(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(FOLDER).join(name));
    command
}

/// A Redis server of this test alone, on a socket in its folder.
struct Redis {
    server: Child,
    socket: PathBuf,
}

impl Redis {
    /// Starts Debian's server, and installs it where it is missing.
    fn start(folder: &Path) -> Option<Self> {
        let install = "command -v redis-server redis-cli || { apt-get update && apt-get install -y redis-server; }";
        if let Err(reason) = run(Command::new("sh").args(["-c", install])) {
            assert!(std::env::var_os("CI").is_none(), "Redis cannot be installed: {reason}");
            eprintln!("SKIPPED: Redis cannot be installed: {reason}");
            return None;
        }
        let socket = folder.join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self { server, socket };
        for _ in 0..200 {
            if redis.cli().arg("ping").output().is_ok_and(|output| output.stdout == b"PONG\n") {
                return Some(redis);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the Redis server does not answer");
    }

    fn cli(&self) -> Command {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(&self.socket);
        command
    }

    /// Inserts a file of commands.
    fn pipe(&self, file: &Path) {
        let file = std::fs::File::open(file).unwrap();
        let output = self.cli().arg("--pipe").stdin(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("errors: 0"), "{said}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn vectors_from_redis_give_what_predict_gives() {
    let Some(python) = python(FOLDER) else { return };
    let trained = Trained::new(log::FEATURES, log::TASKS, "{kind: mmoe, experts: 2, expert: [8], tower: [4]}");
    let Some(redis) = Redis::start(trained.folder.path()) else { return };
    trained.export("bundle", &["--tables", "redis"]);
    tandem(&["predict", &trained.path("run"), "--data", &trained.path("test"), "--out", &trained.path("scored")]);
    let tables = Path::new(&trained.path("bundle/tables")).to_path_buf();
    for name in names(&tables).iter().filter(|name| name.ends_with(".resp")) {
        redis.pipe(&tables.join(name));
    }
    let mut check = script(&python, "check_redis.py");
    check.arg(trained.path("bundle")).arg(&redis.socket).arg(trained.path("scored"));
    println!("{}", String::from_utf8_lossy(&run(&mut check).unwrap().stdout));
}

#[test]
fn neighbours_in_faiss_are_those_of_inspect() {
    let Some(python) = python(FOLDER) else { return };
    let trained = Trained::new(PAIR_FEATURES, PAIRS, "{kind: mf}");
    trained.export("bundle", &[]);
    let mut asked = String::new();
    for user in 0..20 {
        let arguments = ["--neighbours", &format!("user={user}"), "--in", "item", "--top", "10", "--json"];
        let output = tandem(&[&["inspect", &trained.path("run")], arguments.as_slice()].concat());
        asked += std::str::from_utf8(&output.stdout).unwrap();
    }
    let mut check = script(&python, "check_faiss.py");
    check.args([&trained.path("bundle"), "user", "item"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = check.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

#[test]
fn duckdb_reads_the_tables() {
    let Some(python) = python(FOLDER) else { return };
    let trained = Trained::new(log::FEATURES, log::TASKS, "{kind: shared_bottom, bottom: [8], tower: [4]}");
    trained.export("bundle", &[]);
    println!(
        "{}",
        String::from_utf8_lossy(&run(script(&python, "check_duckdb.py").arg(trained.path("bundle"))).unwrap().stdout)
    );
}
