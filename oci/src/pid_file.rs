//! Pid files.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a pid to a file, atomically. A link at the path or at the temporary name is replaced, not followed.
pub(crate) fn write(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}"));
    let _ = std::fs::remove_file(&fresh);
    File::create_new(&fresh)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| {
            let _ = std::fs::remove_file(&fresh);
            Error::io("pid-file", "write the pid to", path, &e)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_not_written_through_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let (victim, file) = (temp.path().join("victim"), temp.path().join("pid"));
        std::fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, temp.path().join(".pid")).unwrap();
        std::os::unix::fs::symlink(&victim, &file).unwrap();
        write(&file, 42).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "42");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_pid_that_cannot_be_written_leaves_no_file() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("pid")).unwrap();
        let error = write(&temp.path().join("pid"), 42).unwrap_err().to_string();
        assert!(error.contains("cannot write the pid to"), "{error}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
