//! `.ci/install` on machines that lack something: each is a folder of stand-ins that is the whole `PATH`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// What the script itself runs.
const TOOLS: [&str; 8] = ["bash", "cut", "dirname", "env", "head", "sed", "sort", "touch"];

struct Machine {
    folder: TempDir,
}

impl Machine {
    /// A user's machine with Rust, a compiler and `stand_ins`; without Open MPI and apt-get.
    fn new(stand_ins: &[(&str, &str)]) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for tool in TOOLS {
            let path = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
            symlink(path.iter().find(|path| path.exists()).unwrap(), machine.folder.path().join(tool)).unwrap();
        }
        for tool in ["cc", "make", "ssh"] {
            machine.add(tool, "exit 0");
        }
        machine.add("id", "echo 1000");
        machine.add("cargo", "echo cargo 1.99.0");
        for (tool, body) in stand_ins {
            machine.add(tool, body);
        }
        machine
    }

    fn add(&self, tool: &str, body: &str) {
        let path = self.folder.path().join(tool);
        fs::write(&path, format!("#!/usr/bin/env bash\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn without(self, tool: &str) -> Self {
        fs::remove_file(self.folder.path().join(tool)).unwrap();
        self
    }

    fn install(&self, purpose: &[&str]) -> Output {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/install"))
            .args(purpose)
            .env_clear()
            .env("PATH", self.folder.path())
            .env("HOME", self.folder.path())
            .env("LIBCLANG_PATH", "/somewhere")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    /// Expects a failure that says `part` and prints `line` as it can be pasted.
    fn assert_says(&self, part: &str, line: &str) {
        self.assert_says_for(&[], part, line);
    }

    fn assert_says_for(&self, purpose: &[&str], part: &str, line: &str) {
        let output = self.install(purpose);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(part), "no {part:?} in {said}");
        assert!(said.lines().any(|each| each.trim() == line), "no line {line:?} in {said}");
    }
}

const RUSTUP: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y";

/// An apt-get that brings Open MPI, if it is allowed to.
const APT_GET: &str = r#"
case "$*" in *install*)
    [ "$DEBIAN_FRONTEND" = noninteractive ] || exit 1
    for tool in mpicc mpirun; do touch "$HOME/$tool"; /bin/chmod +x "$HOME/$tool"; done
esac"#;

#[test]
fn nothing_is_said_when_nothing_is_missing() {
    let output = Machine::new(&[("mpicc", ""), ("mpirun", "")]).install(&[]);
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn without_rust_the_line_is_rustup() {
    Machine::new(&[("curl", "")]).without("cargo").assert_says("Rust 1.", RUSTUP);
    let with_curl = format!("sudo apt-get update && sudo apt-get install -y curl ca-certificates && {RUSTUP}");
    Machine::new(&[("apt-get", "")]).without("cargo").assert_says("is missing", &with_curl);
    Machine::new(&[("rustup", ""), ("cargo", "echo cargo 1.9.0")])
        .assert_says("Rust 1.9.0 is too old", "rustup update stable");
}

#[test]
fn without_root_the_line_has_sudo() {
    let line = "sudo apt-get update && sudo apt-get install -y openmpi-bin libopenmpi-dev";
    Machine::new(&[("apt-get", "exit 1")]).assert_says("only root may install", line);
    // A sudo that asks for a password cannot be answered without a terminal.
    Machine::new(&[("apt-get", "exit 1"), ("sudo", "exit 1")]).assert_says("only root may install", line);
}

#[test]
fn without_apt_the_line_is_the_system_s_own() {
    Machine::new(&[]).assert_says(
        "no apt-get here: openmpi-bin libopenmpi-dev",
        "sudo apt-get install -y openmpi-bin libopenmpi-dev    # or whatever installs these on this system",
    );
    Machine::new(&[("pacman", "")])
        .assert_says("no apt-get here", "sudo pacman -S --needed base-devel openssh openmpi clang");
}

#[test]
fn tests_and_lint_need_more() {
    let built = [("mpicc", ""), ("mpirun", ""), ("apt-get", "exit 1")];
    let line = |package: &str| format!("sudo apt-get update && sudo apt-get install -y {package}");
    let old_python = [built.as_slice(), &[("python3", "exit 1")]].concat();
    Machine::new(&old_python).assert_says_for(&["test"], "only root may install", &line("python3-venv"));
    Machine::new(&built).assert_says_for(&["lint"], "only root may install", &line("shellcheck"));
    let whole = [built.as_slice(), &[("python3", ""), ("shellcheck", "")]].concat();
    for purpose in ["test", "lint"] {
        let output = Machine::new(&whole).install(&[purpose]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    Machine::new(&[("mpicc", ""), ("mpirun", ""), ("dnf", "")]).assert_says_for(
        &["lint"],
        "no apt-get here: shellcheck",
        "sudo dnf install -y gcc make openssh-clients clang-devel ShellCheck openmpi-devel && \
         export PATH=$PATH:/usr/lib64/openmpi/bin",
    );
}

#[test]
fn what_will_be_installed_is_said_first() {
    let by_sudo = ("sudo", r#"[ "$1" = -n ] && shift; [ "$1" = true ] || exec "$@""#);
    for stand_ins in [&[("apt-get", APT_GET), ("id", "echo 0")][..], &[("apt-get", APT_GET), by_sudo]] {
        let output = Machine::new(stand_ins).install(&[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert_eq!(said, "tandem: installing openmpi-bin libopenmpi-dev\n");
    }
}

#[test]
fn a_failed_installation_says_the_line() {
    let line = "apt-get update && apt-get install -y openmpi-bin libopenmpi-dev";
    Machine::new(&[("apt-get", "exit 100"), ("id", "echo 0")]).assert_says("could not install them", line);
    Machine::new(&[("apt-get", "exit 0"), ("id", "echo 0")]).assert_says("still missing", line);
}
