//! Python with packages from its index, for comparisons with other systems.
//!
//! Where there is none the tests say so and pass, except in CI (environment variable `CI`), where they fail.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a command to its end; what it said is the error of one that fails.
pub fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr)))
}

/// The Python of a virtual environment with the packages that `folder/requirements.txt` lists, made once per target
/// folder; `None` where it cannot be made.
pub fn python(folder: &str) -> Option<PathBuf> {
    match environment(Path::new(folder)) {
        Ok(python) => Some(python),
        Err(reason) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: there is no Python with the packages of {folder}: {reason}");
            None
        }
        Err(reason) => panic!("there is no Python with the packages of {folder}: {reason}"),
    }
}

fn environment(folder: &Path) -> Result<PathBuf, String> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Tests are processes of their own, and only one may make the environment.
    let lock = File::create(target.join(format!("{name}-venv.lock"))).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    let venv = target.join(format!("{name}-venv"));
    let (python, ready) = (venv.join("bin/python"), venv.join("ready"));
    let requirements = folder.join("requirements.txt");
    let wanted = fs::read(&requirements).map_err(|e| e.to_string())?;
    // Written last: an environment that was cut short, or has other packages, is made anew.
    if fs::read(&ready).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements))?;
    fs::write(&ready, wanted).map_err(|e| e.to_string())?;
    Ok(python)
}
