//! Reads the processes of a procfs: the eight links, `status` and `cgroup` of each, and on request
//! `task` and `fd`. All files of a process are opened below one `O_PATH` descriptor of `/proc/PID`, so
//! that a reused pid does not mix two processes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ns_core::proc::{self, Status};
use ns_core::{Error, ErrorKind, Kind, Kinds, NamespaceId, NamespaceSet};
use rustix::fs::{
    AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, RawDir, fstat, fstatfs, open, openat, readlinkat_raw, statat,
};
use rustix::io::{Errno, read};

use crate::record::{ProcessInfo, Thread, Unreadable, Zombie};

const LINKS: [&CStr; 8] =
    [c"ns/mnt", c"ns/net", c"ns/pid", c"ns/user", c"ns/uts", c"ns/ipc", c"ns/cgroup", c"ns/time"];
const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);
/// Room for the target of a link to a namespace; longer targets are cut off.
const LINK: usize = 40;
/// Number of processes that a thread reads at a time. Fewer than two chunks do not justify a thread.
const CHUNK: usize = 256;

/// Objects to read in addition to the processes. Each costs time.
///
/// ```
/// use nspod_census::{Holder, Options};
/// let file = std::fs::File::open("/proc/self/ns/uts")?;
/// let census = Options { fds: true, ..Options::default() }.take()?;
/// let held = |h: &Holder| matches!(h, Holder::Fd { pid, .. } if *pid == std::process::id() as i32);
/// assert!(census.namespaces().iter().any(|namespace| namespace.holders.iter().any(held)));
/// # drop(file);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads that are in other namespaces than their process. `false` by default.
    pub threads: bool,
    /// Namespaces that an open descriptor keeps alive. `false` by default.
    pub fds: bool,
    /// Namespaces that a bind mount keeps alive. `true` by default.
    pub mounts: bool,
    /// Owners, parents and creators of namespaces, and namespaces that only their descendants keep
    /// alive. `false` by default.
    pub owners: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { threads: false, fds: false, mounts: true, owners: false }
    }
}

/// Procfs, and facts that are the same for all of its processes.
pub(super) struct Root {
    dir: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) absent: Kinds,
    /// Device of nsfs, of which the kernel has one instance.
    pub(super) dev: u64,
}

#[derive(Default)]
pub(super) struct Found {
    pub(super) processes: Vec<ProcessInfo>,
    pub(super) threads: Vec<Thread>,
    pub(super) zombies: Vec<Zombie>,
    pub(super) unreadable: Vec<Unreadable>,
    pub(super) fds: Vec<Fd>,
}

/// Open descriptor of a namespace.
pub(super) struct Fd {
    pub(super) pid: i32,
    pub(super) fd: i32,
    pub(super) kind: Kind,
    pub(super) id: NamespaceId,
}

fn cannot(what: impl Into<String>, call: &'static str, errno: Errno) -> Error {
    Error::from_raw_os_error(what, call, errno.raw_os_error())
}

fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::SRCH)
}

fn is_denied(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM)
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Root, Error> {
        let what = || format!("read the processes of {}", path.display());
        let dir = open(path, DIR, Mode::empty()).map_err(|e| cannot(what(), "open", e))?;
        let magic = fstatfs(&dir).map_err(|e| cannot(what(), "fstatfs", e))?.f_type;
        if magic != PROC_SUPER_MAGIC {
            let why = "the directory is not a procfs (mount -t proc proc DIR makes one)";
            return Err(Error::new(ErrorKind::InvalidInput, what(), why));
        }
        let nsfs = statat(&dir, "self/ns/mnt", AtFlags::empty())
            .or_else(|_| statat(&dir, "/proc/self/ns/mnt", AtFlags::empty()))
            .map_err(|e| cannot(what(), "stat(self/ns/mnt)", e))?;
        // Every procfs has pid 1, and every user may stat its links.
        let has = |kind: &Kind| {
            let link = format!("1/ns/{kind}");
            statat(&dir, link, AtFlags::SYMLINK_NOFOLLOW).err() != Some(Errno::NOENT)
        };
        // Only mount namespaces have no kernel option, so without their link /proc shows no links.
        let absent = if has(&Kind::Mnt) {
            Kind::ALL.into_iter().filter(|k| !has(k)).collect()
        } else {
            Kinds::empty()
        };
        Ok(Root { dir, path: path.to_owned(), absent, dev: nsfs.st_dev })
    }

    /// Lists the pids, ascending.
    pub(super) fn pids(&self) -> Result<Vec<i32>, Error> {
        let listed = list(&self.dir, c".").and_then(numbers);
        let mut pids =
            listed.map_err(|e| cannot(format!("list {}", self.path.display()), "openat or getdents64", e))?;
        pids.sort_unstable();
        Ok(pids)
    }

    /// Reads these processes, by as many threads as the processors and the number of processes justify.
    pub(super) fn scan(&self, pids: &[i32], options: Options) -> Result<Found, Error> {
        let chunks = pids.len().div_ceil(CHUNK);
        let workers = thread::available_parallelism().map_or(1, usize::from).min(chunks / 2).max(1);
        let next = AtomicUsize::new(0);
        let work = || -> Result<Found, Error> {
            let mut reader = Reader { root: self, buf: vec![0; 16 << 10], options, found: Found::default() };
            while let Some(chunk) = pids.chunks(CHUNK).nth(next.fetch_add(1, Ordering::Relaxed)) {
                for pid in chunk {
                    reader.process(*pid)?;
                }
            }
            Ok(reader.found)
        };
        let mut all = thread::scope(|scope| -> Result<Found, Error> {
            // If a thread cannot be created, the calling thread does its work.
            let others: Vec<_> =
                (1..workers).filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
            let mut all = work()?;
            for other in others {
                let found = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                all.processes.extend(found.processes);
                all.threads.extend(found.threads);
                all.zombies.extend(found.zombies);
                all.unreadable.extend(found.unreadable);
                all.fds.extend(found.fds);
            }
            Ok(all)
        })?;
        all.processes.sort_unstable_by_key(|p| p.pid);
        all.threads.sort_unstable_by_key(|t| (t.pid, t.tid));
        all.zombies.sort_unstable_by_key(|z| z.pid);
        all.unreadable.sort_unstable_by_key(|u| u.pid);
        all.fds.sort_unstable_by_key(|f| (f.pid, f.fd));
        Ok(all)
    }

    /// Reads the namespaces of `self` or of a pid.
    pub(super) fn namespaces_of(&self, of: &str) -> Result<NamespaceSet, Error> {
        let read = || self.namespaces(openat(&self.dir, of, DIR, Mode::empty())?.as_fd());
        read().map_err(|e| {
            cannot(format!("read the namespaces of {}/{of}", self.path.display()), "readlinkat", e)
        })
    }

    fn namespaces(&self, process: BorrowedFd<'_>) -> Result<NamespaceSet, Errno> {
        let mut ids = [NamespaceId::NONE; 8];
        for (kind, id) in Kind::ALL.into_iter().zip(&mut ids) {
            if !self.absent.contains_kind(kind) {
                *id = self.namespace(process, kind)?;
            }
        }
        Ok(NamespaceSet::new(ids))
    }

    fn namespace(&self, process: BorrowedFd<'_>, kind: Kind) -> Result<NamespaceId, Errno> {
        let mut buf = [0; LINK];
        let len = readlinkat_raw(process, LINKS[kind as usize], &mut buf)?;
        let (_, ino) = proc::ns_link(&buf[..len]).ok_or(Errno::INVAL)?;
        Ok(NamespaceId { dev: self.dev, ino })
    }
}

/// Opens a directory to list it.
fn list(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(dir, name, LIST, Mode::empty())
}

/// Reads the numeric names in a directory: pids of `/proc`, tids of `task`, descriptors of `fd`.
fn numbers(dir: impl AsFd) -> Result<Vec<i32>, Errno> {
    let mut buf = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(dir, buf.spare_capacity_mut());
    let mut numbers = Vec::new();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => numbers.extend(entry.file_name().to_str().ok().and_then(|n| n.parse::<i32>().ok())),
            Err(errno) if is_gone(errno) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(numbers)
}

/// Lists the threads; empty if the process has ended.
fn tids(process: BorrowedFd<'_>) -> Vec<i32> {
    list(process, c"task").and_then(numbers).unwrap_or_default()
}

struct Reader<'a> {
    root: &'a Root,
    buf: Vec<u8>,
    options: Options,
    found: Found,
}

impl Reader<'_> {
    /// Reads one process and adds it to one of the four lists, or to none if it has ended.
    fn process(&mut self, pid: i32) -> Result<(), Error> {
        self.try_process(pid).or_else(|errno| match errno {
            e if is_gone(e) => Ok(()),
            e => Err(cannot(
                format!("read process {pid} in {}", self.root.path.display()),
                "openat or read",
                e,
            )),
        })
    }

    fn try_process(&mut self, pid: i32) -> Result<(), Errno> {
        let dir = openat(&self.root.dir, pid.to_string(), DIR, Mode::empty())?;
        let dir = dir.as_fd();
        let namespaces = match self.root.namespaces(dir) {
            Err(e) if is_denied(e) => return self.unreadable(pid, dir),
            // The first thread may end before the others. Any other thread has the namespaces.
            Err(Errno::NOENT) => tids(dir).into_iter().find_map(|tid| self.thread(dir, tid).ok()),
            other => Some(other?),
        };
        let options = self.options;
        let text = self.file(dir, c"status")?;
        let status = Status::parse(text).ok_or(Errno::SRCH)?;
        // The first thread has been read as the process.
        let has_threads = options.threads && proc::number(text, "Threads") != Some(1u32);
        let Some(namespaces) = namespaces else {
            let id = |kind| self.root.namespace(dir, kind).ok();
            let (pid_ns, user_ns) = (id(Kind::Pid), id(Kind::User));
            self.found.zombies.push(Zombie {
                pid,
                parent: status.parent,
                name: status.name,
                pid_ns,
                user_ns,
            });
            return Ok(());
        };
        let cgroup = self.file(dir, c"cgroup").map(|text| proc::cgroup(text).map(Into::into))?;
        if has_threads {
            for tid in tids(dir).into_iter().filter(|tid| *tid != pid) {
                match self.thread(dir, tid) {
                    Ok(own) if own != namespaces => {
                        self.found.threads.push(Thread { pid, tid, namespaces: own })
                    }
                    _ => {}
                }
            }
        }
        if options.fds {
            self.fds(pid, dir);
        }
        let inside = if status.pids.is_empty() { vec![pid] } else { status.pids };
        let (parent, uid, name) = (status.parent, status.uid, status.name);
        self.found.processes.push(ProcessInfo { pid, parent, uid, name, inside, cgroup, namespaces });
        Ok(())
    }

    fn unreadable(&mut self, pid: i32, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        let uid = fstat(dir)?.st_uid;
        let name = match self.file(dir, c"status") {
            Err(e) if is_denied(e) => String::new(), // hidepid=1
            text => Status::parse(text?).ok_or(Errno::SRCH)?.name,
        };
        self.found.unreadable.push(Unreadable { pid, uid, name });
        Ok(())
    }

    /// Adds the namespaces that the process has open, if the caller may read its descriptors.
    fn fds(&mut self, pid: i32, process: BorrowedFd<'_>) {
        let Ok(dir) = list(process, c"fd") else { return };
        let mut buf = [0; LINK];
        for fd in numbers(&dir).unwrap_or_default() {
            let Ok(len) = readlinkat_raw(&dir, fd.to_string(), &mut buf) else { continue };
            if let Some((kind, ino)) = proc::ns_link(&buf[..len]) {
                self.found.fds.push(Fd { pid, fd, kind, id: NamespaceId { dev: self.root.dev, ino } });
            }
        }
    }

    fn thread(&self, process: BorrowedFd<'_>, tid: i32) -> Result<NamespaceSet, Errno> {
        self.root.namespaces(openat(process, format!("task/{tid}"), DIR, Mode::empty())?.as_fd())
    }

    /// Reads a file that the kernel generates. A short read is the end of it.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<&[u8], Errno> {
        let file = openat(dir, name, FILE, Mode::empty())?;
        let mut len = 0;
        loop {
            let room = self.buf.len() - len;
            let n = read(&file, &mut self.buf[len..])?;
            len += n;
            if n < room {
                return Ok(&self.buf[..len]);
            }
            self.buf.resize(2 * len, 0);
        }
    }
}
