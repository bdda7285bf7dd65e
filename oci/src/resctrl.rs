//! Shares of the last-level cache and of memory's bandwidth, by the kernel's resctrl file
//! system: what OCI calls `intelRdt`.
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

/// A class of service and what it is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resctrl {
    /// The class: one that is there, or is made. `/` is the default class of all processes.
    /// Without it, the container has one of its own.
    pub clos_id: Option<String>,
    /// Lines of `schemata`, as `L3:0=f;1=f0`. With a class that is named and without lines,
    /// it must be there; with lines, one that is there must have the same.
    pub schemata: Vec<String>,
    /// A directory of `mon_groups` of the container's own, to read what it uses from.
    pub enable_monitoring: bool,
}

impl Resctrl {
    /// Puts a process into the class of the container `id`, and returns the directories that
    /// were made for it, for [`remove`].
    ///
    /// # Errors
    /// If the kernel, the machine or its administrator offers no resctrl; a class that is not
    /// there or differs; what the kernel refuses, with its own words (`last_cmd_status`).
    pub fn apply(&self, id: &str, pid: i32) -> Result<Vec<PathBuf>, Error> {
        let mounted = statfs(ROOT).is_ok_and(|s| s.filesystem_type() == FsType(MAGIC as _));
        if !mounted {
            return Err(Error::new(
                ErrorKind::Resctrl,
                format!(
                    "resctrl: {ROOT} is not mounted, so nothing can be said of caches and bandwidth: it takes a \
                     processor with RDT or its like (see /proc/cpuinfo for cat_l3 and mba) and `mount -t resctrl resctrl {ROOT}`"
                ),
            ));
        }
        self.apply_at(Path::new(ROOT), id, pid)
    }

    /// As [`apply`](Self::apply), with another directory taken for the file system's root.
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
            let problem =
                format!("there is no class {}, and nothing says what it is allowed", class_dir.display());
            return Err(Error::invalid("linux.intelRdt.closID", problem));
        }
        if !there {
            make(class_dir, made)?;
        }
        if named && there {
            same(class_dir, &self.schemata)?;
        } else if !self.schemata.is_empty() {
            // In one write: the kernel takes all lines or says what is wrong with one.
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

/// Removes what [`Resctrl::apply`] has made. What is gone already is no error.
///
/// # Errors
/// If a directory cannot be removed.
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

/// A name of one directory.
fn checked<'a>(field: &str, name: &'a str) -> Result<&'a str, Error> {
    let reserved = ["", ".", "..", "info", "mon_groups", "mon_data"];
    match reserved.contains(&name) || name.contains(['/', '\n', '\0']) {
        false => Ok(name),
        true => Err(Error::invalid(field, format!("{name:?} is no name of a class"))),
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
                Some(libc::EEXIST) => "it is there already, another's",
                _ => return Err(failed("make", path, "mkdir", &e)),
            };
            Err(failed("make", path, "mkdir", &e).with_hint(hint))
        }
    }
}

/// Whether a class allows what is asked for: each line, blanks and leading zeroes aside.
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
            let problem = format!("{} is there and does not say {line:?}", path.display());
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
    Error::call(ErrorKind::Resctrl, format!("{what} {}", path.display()), call, errno)
}
