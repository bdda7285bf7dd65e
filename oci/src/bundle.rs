//! Bundles.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nspod_sandbox::Host;
use nspod_sandbox::spec::Root;
use nspod_sandbox::store::read_bounded;

use crate::config::{self, Config};
use crate::error::{Error, ErrorKind, Result};

/// A bundle: a directory with a `config.json` that has been read and checked.
///
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/bundle.md).
#[derive(Debug, Clone)]
pub struct Bundle {
    path: PathBuf,
    json: Vec<u8>,
    config: Config,
}

impl Bundle {
    /// Reads a bundle and checks its configuration. Resolves a relative path against the working
    /// directory. [Specification](https://github.com/opencontainers/runtime-spec/blob/main/bundle.md).
    ///
    /// ```
    /// use nspod_oci_runtime::{Bundle, config};
    /// let dir = tempfile::tempdir().unwrap();
    /// let json = serde_json::to_vec(&config::example(false)).unwrap();
    /// std::fs::write(dir.path().join("config.json"), json).unwrap();
    /// let bundle = Bundle::open(dir.path())?;
    /// assert_eq!(bundle.config().spec().hostname().as_deref(), Some("nspod"));
    /// # Ok::<(), nspod_oci_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`] (`ENOENT`), [`ErrorKind::PermissionDenied`] (`EACCES`): the directory or
    ///   its `config.json` cannot be read.
    /// - [`ErrorKind::InvalidInput`]: the path is not a directory (`ENOTDIR`), or `config.json` is not a
    ///   file, or is larger than 16 MiB.
    /// - [`ErrorKind::InvalidConfig`]: the configuration is invalid; [`Error::field`] is the JSON path.
    pub fn open(path: impl AsRef<Path>) -> Result<Bundle> {
        let path = path.as_ref();
        let path = path.canonicalize().map_err(|e| Error::io("bundle", "enter the bundle", path, &e))?;
        let file = path.join("config.json");
        let json = read_file(&file).map_err(|e| Error::io("bundle", "read the configuration", &file, &e))?;
        let config = config::parse(&json).map_err(|e| e.on(file.display().to_string()))?;
        Ok(Bundle { path, json, config })
    }

    /// Returns the absolute path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the text of `config.json`.
    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    /// Checks that the kernel can apply `linux.mountLabel`, which requires SELinux.
    pub(crate) fn check_mount_label(&self) -> Result<()> {
        let linux = self.config.spec().linux().as_ref();
        let label = linux.and_then(|linux| linux.mount_label().as_deref());
        let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(()) };
        match Host::has_selinux() {
            true => Ok(()),
            false => {
                let problem = format!("{label:?} cannot be set: SELinux is not enabled in this kernel");
                Err(Error::invalid("linux.mountLabel", problem).with_hint("leave it out"))
            }
        }
    }
}

/// Reads a regular file of at most 16 MiB. `O_NONBLOCK` prevents a FIFO from blocking the open.
pub(crate) fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "this is not a file"));
    }
    read_bounded(file)
}

/// Checks that the root is a directory. If the caller cannot look it up, the start reports the error.
pub(crate) fn check_root(root: &Root) -> Result<()> {
    let Root::Dir { path, .. } = root else { return Ok(()) };
    let error = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
        Ok(_) => {
            let problem = format!("{} is not a directory", path.display());
            Error::invalid("root.path", problem).on(path.display().to_string())
        }
        Err(e) => {
            let error = Error::io("config", "find", path, &e);
            error.with_kind(ErrorKind::InvalidConfig).with_field("root.path")
        }
    };
    Err(error.with_hint("name the directory that holds the container's root file system"))
}
