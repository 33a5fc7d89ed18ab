//! Names of files that a manifest or a schema gives: they stay in their folder.

use crate::error::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// The file `name` of the folder `dir`: below it, and nowhere else, whatever `..` and symbolic links say. It need not exist.
///
/// # Errors
/// A name that leads out of the folder.
pub fn inside(dir: &Path, name: &str) -> Result<PathBuf> {
    let outside = || {
        Error::checkpoint(format!("`{name}` leads out of its folder"))
            .at("path", dir.display())
            .fix("do not use this folder unless you know who made it; if a link leads to the file, copy it here")
    };
    let plain = |part: Component| matches!(part, Component::Normal(_));
    if name.is_empty() || name.contains(['\\', '\0']) || !Path::new(name).components().all(plain) {
        return Err(outside());
    }
    let path = dir.join(name);
    match (path.canonicalize(), dir.canonicalize()) {
        (Ok(found), Ok(dir)) if !found.starts_with(&dir) => Err(outside()),
        // What is not there is said by whoever reads it.
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        std::fs::create_dir_all(dir.join("tables")).unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        std::fs::write(dir.join("tables/user.parquet"), "x").unwrap();
        symlink("../secret", dir.join("link")).unwrap();
        symlink("..", dir.join("up")).unwrap();
        symlink("tables/user.parquet", dir.join("alias")).unwrap();
        for good in ["tables/user.parquet", "not-there-yet", "alias", "a..b"] {
            assert_eq!(inside(&dir, good).unwrap(), dir.join(good), "{good}");
        }
        let secret = folder.path().join("secret").display().to_string();
        for bad in
            ["", ".", "..", "../secret", "tables/../../secret", "/etc/passwd", &secret, "link", "up/secret", "a\\b"]
        {
            let error = inside(&dir, bad).expect_err(bad).to_string();
            assert!(error.contains("leads out of its folder") && error.contains("fix:"), "{error}");
        }
    }
}
