//! Shares of the last-level cache and of memory bandwidth (`linux.intelRdt`), with the kernel's resctrl file
//! system.
//!
//! See the kernel's [resctrl](https://docs.kernel.org/filesystems/resctrl.html).

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

const ROOT: &str = "/sys/fs/resctrl";
/// `RDTGROUP_SUPER_MAGIC` of linux/magic.h.
const MAGIC: u32 = 0x0765_5821;

/// A class of service and its shares. Since Linux 4.10; see
/// [resctrl](https://docs.kernel.org/filesystems/resctrl.html).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resctrl {
    /// Name of the class, which is created if it does not exist. `/` is the default class of all processes.
    /// By default, the container gets a separate class.
    pub clos_id: Option<String>,
    /// Lines of `schemata`, such as `L3:0=f;1=f0`. If there are no lines, a named class must exist. A named
    /// class that exists must have these lines.
    pub schemata: Vec<String>,
    /// Whether the container gets a directory in `mon_groups`, which shows its usage.
    pub enable_monitoring: bool,
}

impl Resctrl {
    /// Puts a process into the class of the container `id`. Returns the directories that were created,
    /// for [`remove`]. Since Linux 4.10; see
    /// [resctrl](https://docs.kernel.org/filesystems/resctrl.html).
    ///
    /// # Errors
    /// - [`ErrorKind::Unsupported`]: resctrl is not mounted.
    /// - `EINVAL`: the kernel rejects a line; the error has its reason from `last_cmd_status`. `ENOSPC`: the processor has no free class or
    ///   monitor. `ESRCH`: the process has ended.
    /// - [`ErrorKind::InvalidConfig`]: the class does not exist, or has other lines.
    pub fn apply(&self, id: &str, pid: i32) -> Result<Vec<PathBuf>, Error> {
        let mounted = statfs(ROOT).is_ok_and(|s| s.filesystem_type() == FsType(MAGIC as _));
        if !mounted {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "resctrl",
                format!(
                    "resctrl: {ROOT} is not mounted, so caches and bandwidth cannot be shared: this requires a \
                     processor with RDT or similar (see /proc/cpuinfo for cat_l3 and mba) and `mount -t resctrl resctrl {ROOT}`"
                ),
            )
            .on(ROOT));
        }
        self.apply_at(Path::new(ROOT), id, pid)
    }

    /// Puts a process into the class as [`apply`](Self::apply) does, with another mount point of resctrl.
    /// Since Linux 4.10; see [resctrl](https://docs.kernel.org/filesystems/resctrl.html).
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_at(&self, root: &Path, id: &str, pid: i32) -> Result<Vec<PathBuf>, Error> {
        let class = self.clos_id.as_deref().unwrap_or(id);
        let class_dir = match class {
            "/" => root.to_owned(),
            name => root.join(checked("linux.intelRdt.closID", name)?),
        };
        let mut made = Vec::new();
        let done = self.place(root, &class_dir, id, pid, &mut made);
        if done.is_err() {
            let _ = remove(&made);
        }
        done.map(|()| made)
    }

    fn place(
        &self,
        root: &Path,
        class_dir: &Path,
        id: &str,
        pid: i32,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), Error> {
        let named = self.clos_id.is_some();
        let there = class_dir.is_dir();
        if named && !there && self.schemata.is_empty() {
            let problem = format!(
                "the class {} does not exist, and the configuration has no schemata for it",
                class_dir.display()
            );
            return Err(Error::invalid("linux.intelRdt.closID", problem));
        }
        if !there {
            make(class_dir, made)?;
        }
        if named && there {
            same(class_dir, &self.schemata)?;
        } else if !self.schemata.is_empty() {
            // Use one write: the kernel accepts all lines, or rejects all and names the invalid one.
            write(root, &class_dir.join("schemata"), &format!("{}\n", self.schemata.join("\n")))?;
        }
        write(root, &class_dir.join("tasks"), &format!("{pid}\n"))?;
        if self.enable_monitoring {
            let group = class_dir.join("mon_groups").join(checked("id", id)?);
            make(&group, made)?;
            write(root, &group.join("tasks"), &format!("{pid}\n"))?;
        }
        Ok(())
    }
}

/// Removes directories that [`Resctrl::apply`] has created. Ignores those that no longer exist. Since Linux
/// 4.10; see [resctrl](https://docs.kernel.org/filesystems/resctrl.html).
///
/// # Errors
/// The errno of [rmdir(2)](https://man7.org/linux/man-pages/man2/rmdir.2.html).
pub fn remove(made: &[PathBuf]) -> Result<(), Error> {
    let mut result = Ok(());
    for path in made.iter().rev() {
        match fs::remove_dir(path) {
            Err(e) if e.kind() != IoKind::NotFound => result = Err(failed("remove", path, "rmdir", &e)),
            _ => {}
        }
    }
    result
}

/// Checks that a name is valid for a class.
fn checked<'a>(field: &str, name: &'a str) -> Result<&'a str, Error> {
    let reserved = ["", ".", "..", "info", "mon_groups", "mon_data"];
    match reserved.contains(&name) || name.contains(['/', '\n', '\0']) {
        false => Ok(name),
        true => Err(Error::invalid(field, format!("{name:?} is not a valid name of a class"))),
    }
}

fn make(path: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => {
            made.push(path.to_owned());
            Ok(())
        }
        Err(e) => {
            let hint = match e.raw_os_error() {
                Some(libc::ENOSPC) => {
                    "the processor has no class or monitor left: see info/*/num_closids and num_rmids"
                }
                Some(libc::EEXIST) => "another process has created it",
                _ => return Err(failed("make", path, "mkdir", &e)),
            };
            Err(failed("make", path, "mkdir", &e).with_hint(hint))
        }
    }
}

/// Checks that a class has these lines, except for white space and leading zeroes.
fn same(class_dir: &Path, asked: &[String]) -> Result<(), Error> {
    if asked.is_empty() {
        return Ok(());
    }
    let path = class_dir.join("schemata");
    let text = fs::read_to_string(&path).map_err(|e| failed("read", &path, "read", &e))?;
    let has: Vec<String> = text.lines().map(normal).collect();
    match asked.iter().flat_map(|line| line.lines()).find(|line| !has.contains(&normal(line))) {
        None => Ok(()),
        Some(line) => {
            let problem = format!("{} exists and does not have {line:?}", path.display());
            Err(Error::invalid("linux.intelRdt.schemata", problem))
        }
    }
}

fn normal(line: &str) -> String {
    let (resource, domains) = line.split_once(':').unwrap_or((line, ""));
    let mut parts: Vec<String> = domains
        .split(';')
        .map(|part| {
            let (domain, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            format!("{}={value}", domain.trim())
        })
        .collect();
    parts.sort();
    format!("{}:{}", resource.trim(), parts.join(";"))
}

fn write(root: &Path, path: &Path, text: &str) -> Result<(), Error> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
        .map_err(|e| {
            let said = fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
            let said = said.trim();
            let hint = (!said.is_empty() && said != "ok").then(|| format!("the kernel says: {said}"));
            let error = failed(&format!("write {:?} to", text.trim()), path, "write", &e);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        })
}

fn failed(what: &str, path: &Path, call: &'static str, e: &std::io::Error) -> Error {
    let errno = e.raw_os_error().unwrap_or(0);
    let path = path.display().to_string();
    Error::call("resctrl", format!("{what} {path}"), call, errno).on(path)
}
