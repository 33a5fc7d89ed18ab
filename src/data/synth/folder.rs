//! The output folder: never half-written and taken for whole, never someone else's.

use super::layout::SPLITS;
use crate::error::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What is true of the log; its presence says that the folder is whole.
pub const SUMMARY: &str = "synth.json";
/// The job that trains on it.
pub const JOB: &str = "job.yaml";

/// Makes `out` ready for a new log: creates it, or clears an older log from it.
///
/// While a log is being written the folder holds `synth.json.part`, by which the next run knows a log that
/// was cut short and may be replaced.
///
/// # Errors
/// A folder with anything in it that is not a synthetic log, unless `force`.
pub fn prepare(out: &Path, force: bool) -> Result<()> {
    let (summary, marker) = (out.join(SUMMARY), part(&out.join(SUMMARY)));
    if !force && !summary.exists() && !marker.exists() && !is_empty(out)? {
        return Err(Error::job("the folder holds something that is not a synthetic log").at("folder", out.display()).fix(
            "choose another folder, or give --force to put the log there (which replaces train/, valid/ and test/ in it)",
        ));
    }
    fs::create_dir_all(out).map_err(|e| refused("creating the folder", out, &e))?;
    // The marker before the summary goes: at no moment is the folder unknown to the next run.
    fs::write(&marker, "").map_err(|e| refused("writing", &marker, &e))?;
    remove(&summary, |path| fs::remove_file(path))?;
    SPLITS.iter().try_for_each(|split| remove(&out.join(split), |path| fs::remove_dir_all(path)))
}

/// Writes `synth.json`, which makes the folder whole.
pub fn finish(out: &Path, summary: &str) -> Result<()> {
    save(&out.join(SUMMARY), summary)
}

/// Writes a small file aside and renames it.
pub fn save(path: &Path, text: &str) -> Result<()> {
    let aside = part(path);
    fs::write(&aside, text).map_err(|e| refused("writing", &aside, &e))?;
    rename(&aside, path)
}

/// Renames a finished file to its name.
pub fn rename(aside: &Path, path: &Path) -> Result<()> {
    fs::rename(aside, path).map_err(|e| refused("renaming", aside, &e))
}

/// The name under which `path` is written until it is whole.
pub fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// A refused file operation, with the remedy for this command.
pub fn refused(doing: &str, path: &Path, source: &std::io::Error) -> Error {
    let error = Error::io(doing, path, source);
    match source.kind() {
        ErrorKind::StorageFull => error.fix("free space on this disk or give fewer --rows, then run it again"),
        ErrorKind::PermissionDenied => error.fix("check the owner and mode of this path, or choose another folder"),
        _ => error,
    }
}

fn is_empty(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) => Err(refused("reading the folder", folder, &e)),
    }
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    match how(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(refused("removing", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_folders_and_synthetic_logs_are_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        prepare(&out, false).unwrap();
        // Cut short: the marker lets the next run start over.
        fs::create_dir(out.join("train")).unwrap();
        prepare(&out, false).unwrap();
        assert!(!out.join("train").exists());
        finish(&out, "{}").unwrap();
        assert!(out.join(SUMMARY).exists() && !part(&out.join(SUMMARY)).exists());
        prepare(&out, false).unwrap();
        assert!(!out.join(SUMMARY).exists(), "a folder being rewritten must not look whole");
    }

    #[test]
    fn foreign_folders_are_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("thesis.tex");
        fs::write(&precious, "x").unwrap();
        let error = prepare(dir.path(), false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--force"), "{error}");
        prepare(dir.path(), true).unwrap();
        assert!(precious.exists());
        assert!(prepare(&precious, false).is_err());
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        assert!(refused("writing", Path::new("x"), &full).to_string().contains("--rows"));
    }
}
