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
use rustix::path::Arg;

use crate::record::{ProcessInfo, Thread, Unreadable, Zombie};

/// Inode number of the initial pid namespace in all kernels
/// ([proc_ns.h](https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/linux/proc_ns.h)).
pub(super) const INITIAL_PID_NS: u64 = 0xeffffffc;

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

/// A failed call below a procfs.
struct Failure {
    call: &'static str,
    errno: Errno,
}

impl Failure {
    fn of(call: &'static str) -> impl Fn(Errno) -> Failure {
        move |errno| Failure { call, errno }
    }

    fn is_gone(&self) -> bool {
        matches!(self.errno, Errno::NOENT | Errno::SRCH)
    }

    fn is_denied(&self) -> bool {
        matches!(self.errno, Errno::ACCESS | Errno::PERM)
    }

    /// Makes the error of the step on the path.
    fn error(self, step: String, path: &Path) -> Error {
        Error::from_raw_os_error(step, self.call, self.errno.raw_os_error()).on(path.display())
    }
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Root, Error> {
        let what = || format!("read the processes of {}", path.display());
        let cannot = |call| move |errno| Failure { call, errno }.error(what(), path);
        let dir = open(path, DIR, Mode::empty()).map_err(cannot("open"))?;
        let magic = fstatfs(&dir).map_err(cannot("fstatfs"))?.f_type;
        if magic != PROC_SUPER_MAGIC {
            let why = "the directory is not a procfs (mount -t proc proc DIR makes one)";
            return Err(Error::new(ErrorKind::InvalidInput, what(), why).on(path.display()));
        }
        let nsfs = statat(&dir, "self/ns/mnt", AtFlags::empty())
            .or_else(|_| statat(&dir, "/proc/self/ns/mnt", AtFlags::empty()))
            .map_err(|errno| Failure::of("stat")(errno).error(what(), &path.join("self/ns/mnt")))?;
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
        let listed = open_at(&self.dir, c".", LIST).and_then(numbers);
        let mut pids = listed.map_err(|e| e.error(format!("list {}", self.path.display()), &self.path))?;
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
        let read = || self.namespaces(open_at(&self.dir, of, DIR)?.as_fd());
        read().map_err(|e| {
            let path = self.path.join(of);
            e.error(format!("read the namespaces of {}", path.display()), &path)
        })
    }

    fn namespaces(&self, process: BorrowedFd<'_>) -> Result<NamespaceSet, Failure> {
        let mut ids = [NamespaceId::NONE; 8];
        for (kind, id) in Kind::ALL.into_iter().zip(&mut ids) {
            if !self.absent.contains_kind(kind) {
                *id = self.namespace(process, kind)?;
            }
        }
        Ok(NamespaceSet::new(ids))
    }

    fn namespace(&self, process: BorrowedFd<'_>, kind: Kind) -> Result<NamespaceId, Failure> {
        let mut buf = [0; LINK];
        let len =
            readlinkat_raw(process, LINKS[kind as usize], &mut buf).map_err(Failure::of("readlinkat"))?;
        let (_, ino) =
            proc::ns_link(&buf[..len]).ok_or(Failure { call: "readlinkat", errno: Errno::INVAL })?;
        Ok(NamespaceId { dev: self.dev, ino })
    }
}

fn open_at(dir: impl AsFd, name: impl Arg, flags: OFlags) -> Result<OwnedFd, Failure> {
    openat(dir, name, flags, Mode::empty()).map_err(Failure::of("openat"))
}

/// Reads the numeric names in a directory: pids of `/proc`, tids of `task`, descriptors of `fd`.
fn numbers(dir: impl AsFd) -> Result<Vec<i32>, Failure> {
    let mut buf = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(dir, buf.spare_capacity_mut());
    let mut numbers = Vec::new();
    while let Some(entry) = entries.next() {
        match entry.map_err(Failure::of("getdents64")) {
            Ok(entry) => numbers.extend(entry.file_name().to_str().ok().and_then(|n| n.parse::<i32>().ok())),
            Err(failure) if failure.is_gone() => break,
            Err(failure) => return Err(failure),
        }
    }
    Ok(numbers)
}

/// Lists the threads; empty if the process has ended.
fn tids(process: BorrowedFd<'_>) -> Vec<i32> {
    open_at(process, c"task", LIST).and_then(numbers).unwrap_or_default()
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
        self.try_process(pid).or_else(|failure| match failure.is_gone() {
            true => Ok(()),
            false => {
                let step = format!("read process {pid} in {}", self.root.path.display());
                Err(failure.error(step, &self.root.path.join(pid.to_string())))
            }
        })
    }

    fn try_process(&mut self, pid: i32) -> Result<(), Failure> {
        let gone = || Failure { call: "read", errno: Errno::SRCH };
        let dir = open_at(&self.root.dir, pid.to_string(), DIR)?;
        let dir = dir.as_fd();
        let namespaces = match self.root.namespaces(dir) {
            Err(e) if e.is_denied() => return self.unreadable(pid, dir),
            // The first thread may end before the others. Any other thread has the namespaces.
            Err(Failure { errno: Errno::NOENT, .. }) => {
                tids(dir).into_iter().find_map(|tid| self.thread(dir, tid).ok())
            }
            other => Some(other?),
        };
        let options = self.options;
        let text = self.file(dir, c"status")?;
        let status = Status::parse(text).ok_or_else(gone)?;
        // kthreadd is pid 2. Its children with memory are programs that the kernel started, such as a
        // handler of core dumps.
        let of_kthreadd = pid == 2 || status.parent == 2;
        let has_memory = proc::number::<u64>(text, "VmSize").is_some();
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
        let kernel = of_kthreadd && !has_memory && namespaces[Kind::Pid].ino == INITIAL_PID_NS;
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
        self.found.processes.push(ProcessInfo { pid, parent, uid, name, inside, cgroup, namespaces, kernel });
        Ok(())
    }

    fn unreadable(&mut self, pid: i32, dir: BorrowedFd<'_>) -> Result<(), Failure> {
        let uid = fstat(dir).map_err(Failure::of("fstat"))?.st_uid;
        let name = match self.file(dir, c"status") {
            Err(e) if e.is_denied() => String::new(), // hidepid=1
            text => Status::parse(text?).ok_or(Failure { call: "read", errno: Errno::SRCH })?.name,
        };
        self.found.unreadable.push(Unreadable { pid, uid, name });
        Ok(())
    }

    /// Adds the namespaces that the process has open, if the caller may read its descriptors.
    fn fds(&mut self, pid: i32, process: BorrowedFd<'_>) {
        let Ok(dir) = open_at(process, c"fd", LIST) else { return };
        let mut buf = [0; LINK];
        for fd in numbers(&dir).unwrap_or_default() {
            let Ok(len) = readlinkat_raw(&dir, fd.to_string(), &mut buf) else { continue };
            if let Some((kind, ino)) = proc::ns_link(&buf[..len]) {
                self.found.fds.push(Fd { pid, fd, kind, id: NamespaceId { dev: self.root.dev, ino } });
            }
        }
    }

    fn thread(&self, process: BorrowedFd<'_>, tid: i32) -> Result<NamespaceSet, Failure> {
        self.root.namespaces(open_at(process, format!("task/{tid}"), DIR)?.as_fd())
    }

    /// Reads a file that the kernel generates. A short read is the end of it.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<&[u8], Failure> {
        let file = open_at(dir, name, FILE)?;
        let mut len = 0;
        loop {
            let room = self.buf.len() - len;
            let n = read(&file, &mut self.buf[len..]).map_err(Failure::of("read"))?;
            len += n;
            if n < room {
                return Ok(&self.buf[..len]);
            }
            self.buf.resize(2 * len, 0);
        }
    }
}
