//! The parent's side, top to bottom: one clone3, the maps if they are the parent's to
//! write, and what the child has to say.

#![allow(unsafe_code)]

mod guard;
mod trees;

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use ns_core::{Clone3, CloneFlags, Kinds, Pidfd};

pub(crate) use self::guard::{BlockedSignals, Lock, lock};
use self::guard::{Dumpable, Stack};
pub use self::guard::{inherit_nothing, notice_children};
use self::trees::open_tree;
pub use self::trees::read_only_self;
use crate::child::{self, Loan, Message};
use crate::command::{OnPrepared, Prepared, duplicate};
use crate::error::{Error, ErrorKind};
use crate::hint;
use crate::hold::{Hold, Pipes};
use crate::plan::{INIT_EXIT, INIT_REPORT, Plan, Through};
use crate::step::{Call, SLOTS, Step};

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) pidfd: Pidfd,
    /// The other end of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// What its filter asks by.
    pub(crate) listener: Option<OwnedFd>,
    /// Held at the last step: the socket on which it waits.
    pub(crate) held: Option<OwnedFd>,
}

/// Starts the plan's program with these standard streams, in this cgroup.
///
/// # Errors
/// The first step that failed, as a sentence. The child is then gone and reaped.
pub(crate) fn spawn(
    plan: &Plan,
    stdio: [RawFd; 3],
    cgroup: Option<BorrowedFd<'_>>,
    exit_file: Option<&File>,
    prepared: Option<OnPrepared>,
) -> Result<Spawned, Error> {
    // Above every descriptor that the program, or the init before it, finds in place.
    let above = plan.highest_fd() + 1 + if plan.through.is_some() { INIT_EXIT } else { 0 };
    let (parent_end, child_end) = socket_pair(above)?;
    // What the child still needs when the descriptors of the program are in place.
    let mut later = Vec::new();
    let mut lift = |fd: OwnedFd| {
        let fd = dup_above(&fd, above)?;
        later.push(fd);
        Ok::<_, Error>(later.last().map_or(-1, |fd| fd.as_raw_fd()))
    };
    let hold = match &plan.held {
        Some(Hold::At(directory)) => {
            let pipes = Pipes::make(directory, plan)?;
            (lift(pipes.go.into())?, lift(pipes.report.into())?)
        }
        _ => (-1, -1),
    };
    let (mut state, mut state_fd) = (None, -1);
    if !plan.spec.hooks.is_empty() {
        let file = state_file()?;
        state_fd = lift(duplicate(&file)?)?;
        state = Some(file);
    }
    let mut fds: Vec<(RawFd, RawFd)> = stdio.into_iter().zip(0..).collect();
    fds.extend(plan.inherited.iter().map(|(from, to)| (from.as_raw_fd(), *to)));
    if let Some(through) = plan.through {
        let high = plan.highest_fd();
        let report = if hold.1 >= 0 { hold.1 } else { child_end.as_raw_fd() };
        fds.push((report, high + INIT_REPORT));
        if let (Through::Init, Some(file)) = (through, exit_file) {
            fds.push((file.as_raw_fd(), high + INIT_EXIT));
        }
    }
    let mut kept: Vec<RawFd> = fds.iter().map(|(_, to)| *to).collect();
    let mut needed: Vec<RawFd> = fds.iter().map(|(from, _)| *from).collect();
    kept.push(child_end.as_raw_fd());
    kept.extend(later.iter().map(|fd| fd.as_raw_fd()));
    if let Some(Step::Exec(exec)) = plan.steps.last() {
        kept.extend(exec.file.as_ref().map(|f| f.as_raw_fd()));
    }
    needed.extend(&kept);
    let close = gaps(kept);
    let trees: Vec<OwnedFd> = plan.trees.iter().map(open_tree).collect::<Result<_, _>>()?;
    let tree_fds: Vec<RawFd> = trees.iter().map(|t| t.as_raw_fd()).collect();
    let stack = Stack::new()?;
    let cgroup_fd = match cgroup {
        Some(fd) if plan.cgroup_at_second => fd.as_raw_fd(),
        _ => -1,
    };
    needed.extend(&tree_fds);
    needed.extend(plan.steps.iter().filter_map(|step| match step {
        Step::JoinFd { ns, .. } => Some(ns.as_raw_fd()),
        Step::JoinPidfd { pidfd, .. } => Some(pidfd.as_raw_fd()),
        _ => None,
    }));
    needed.push(cgroup_fd);
    let mut ready =
        plan.pool.as_ref().filter(|_| plan.spec.loopback).and_then(|pool| pool.namespaces(plan.kinds));
    if plan.dev.is_none()
        && let Some(ready) = &mut ready
    {
        ready.leave_dev();
    }
    let enter: Vec<(RawFd, u64)> =
        ready.iter().flat_map(|r| &r.namespaces).map(|(fd, kind)| (fd.as_raw_fd(), kind.bits())).collect();
    let dev: Vec<RawFd> = ready.iter().flat_map(|r| &r.dev).map(|fd| fd.as_raw_fd()).collect();
    let made = plan.kinds & ready.as_ref().map_or(Kinds::empty(), |r| r.kinds());
    needed.extend(enter.iter().map(|(fd, _)| *fd).chain(dev.iter().copied()));
    // Of a descriptor that is closed already there is none to keep.
    needed.retain(|fd| *fd >= 0);
    let strangers = gaps(needed);

    let mut loan = Loan {
        steps: &plan.steps,
        report: child_end.as_raw_fd(),
        peer: parent_end.as_raw_fd(),
        fds: &mut fds,
        strangers: &strangers,
        close: &close,
        above,
        trees: &tree_fds,
        stack: stack.lower(),
        cgroup: cgroup_fd,
        shared: plan.shared_memory,
        hold,
        state: state_fd,
        next: 0,
        umask: -1,
        entered: false,
        slots: [-1; SLOTS],
        ready: child::Ready {
            enter: &enter,
            dev: &dev,
            steps: plan.dev.clone().filter(|_| !dev.is_empty()).unwrap_or_default(),
        },
    };
    // Until the child has memory of its own, which is when its end of the socket closes: the
    // clone returns a little earlier.
    let dumpable = plan.shared_memory.then(Dumpable::keep);
    let (pid, pidfd) = clone(plan, plan.kinds - made, &stack, &mut loan, cgroup)?;
    // A copied child still uses its own copy; this process's loan and child end are done.
    drop(child_end);
    drop(trees);
    drop(later);
    drop(ready);

    let mut family = Family { first: pidfd, pid, second: None };
    let heard = listen(plan, &parent_end, &mut family, prepared, state);
    let spawned = match heard {
        Ok(Heard { terminal, listener, held }) => family.settle().and_then(|(pid, pidfd)| {
            match listener.map(|number| pidfd.get_fd(number)).transpose() {
                Ok(listener) => {
                    let held = (held && hold.0 < 0).then_some(parent_end);
                    Ok(Spawned { pid, pidfd, terminal, listener, held })
                }
                Err(error) => {
                    drop(parent_end);
                    let _ = pidfd.wait();
                    Err(error.into())
                }
            }
        }),
        Err(error) => {
            // Closing the socket ends a child that waits; every other has ended by itself.
            drop(parent_end);
            family.reap();
            Err(error)
        }
    };
    drop(dumpable);
    spawned
}

fn clone(
    plan: &Plan,
    kinds: Kinds,
    stack: &Stack,
    loan: &mut Loan<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(i32, Pidfd), Error> {
    let mut flags = CloneFlags::PIDFD | CloneFlags::CLEAR_SIGHAND;
    flags.set(CloneFlags::VM | CloneFlags::VFORK, plan.shared_memory);
    let clone =
        Clone3 { kinds, flags, cgroup: cgroup.filter(|_| !plan.cgroup_at_second), ..Clone3::default() };
    let (bottom, size) = stack.upper();
    let loan: *mut Loan<'_> = loan;
    // No handler of this program may run in the child, which might share its memory.
    let _signals = BlockedSignals::new();
    // SAFETY: the stack is mapped, unused, and outlives the call; `enter` gets the loan it
    // expects. Where memory is shared this thread is suspended until the child has become
    // the program or ended, so the loan is the child's alone; where it is copied the child
    // has its own. The child keeps to what `child.rs` promises.
    let spawned = unsafe { clone.spawn_on_stack(bottom, size, child::enter, loan.cast::<c_void>()) };
    let spawned = spawned.map_err(|e| Error::from(e).of_kind(ErrorKind::Clone))?;
    match spawned.pidfd {
        Some(pidfd) => Ok((spawned.pid, pidfd)),
        None => Ok((spawned.pid, Pidfd::open(spawned.pid)?)),
    }
}

/// The processes of one start: the first, and its sibling where a step clones again.
struct Family {
    first: Pidfd,
    pid: i32,
    second: Option<i32>,
}

impl Family {
    /// The one that became the program; the other is reaped.
    fn settle(self) -> Result<(i32, Pidfd), Error> {
        let Some(pid) = self.second else { return Ok((self.pid, self.first)) };
        let _ = self.first.wait();
        match Pidfd::open(pid) {
            Ok(pidfd) => Ok((pid, pidfd)),
            Err(e) => {
                // SAFETY: a child that has not been waited for keeps its pid.
                unsafe {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, std::ptr::null_mut(), 0);
                }
                Err(e.into())
            }
        }
    }

    /// Waits for all of them, so that none stays a zombie.
    fn reap(self) {
        let _ = self.first.wait();
        if let Some(pid) = self.second
            && let Ok(pidfd) = Pidfd::open(pid)
        {
            let _ = pidfd.wait();
        }
    }
}

struct Heard {
    terminal: Option<OwnedFd>,
    /// The number that the child has it by.
    listener: Option<RawFd>,
    held: bool,
}

impl Family {
    /// Calls the caller's function with the process that is to be the program, and hands what
    /// it says to the hooks.
    fn prepared(&self, then: Option<OnPrepared>, state: Option<&File>) -> Result<(), Error> {
        let Some(then) = then else { return Ok(()) };
        let second = self.second.map(|pid| Ok::<_, Error>((pid, Pidfd::open(pid)?))).transpose()?;
        let (pid, pidfd) = second.as_ref().map_or((self.pid, &self.first), |(pid, pidfd)| (*pid, pidfd));
        let text = (then.0)(&Prepared { pid, pidfd, state })?;
        match state {
            Some(file) => file
                .write_all_at(&text, 0)
                .map_err(|e| Error::io(ErrorKind::Process, "write the state for hooks", "pwrite64", &e)),
            None => Ok(()),
        }
    }
}

/// A file for what hooks get on standard input.
fn state_file() -> Result<File, Error> {
    memfd_create(c"nspod-state", MFdFlags::MFD_CLOEXEC).map(File::from).map_err(|e| {
        Error::call(ErrorKind::Process, "make the file for the hooks' state", "memfd_create", e as i32)
    })
}

/// Answers the child until it has become the program (its end of the socket closes) or
/// waits to be started.
fn listen(
    plan: &Plan,
    socket: &OwnedFd,
    family: &mut Family,
    mut prepared: Option<OnPrepared>,
    state: Option<File>,
) -> Result<Heard, Error> {
    let (mut terminal, mut listener, mut failed) = (None, None, None);
    let mut waiting: Option<&Step> = None;
    let twice = plan.steps.iter().any(|step| matches!(step, Step::Clone(_)));
    loop {
        // Of a second process the pid may be yet to come.
        match waiting {
            Some(Step::Ready) if !twice || family.second.is_some() => {
                family.prepared(prepared.take(), state.as_ref())?;
                send_word(socket)?;
                waiting = None;
            }
            Some(Step::Hold) if !twice || family.second.is_some() => {
                return Ok(Heard { terminal, listener, held: true });
            }
            _ => {}
        }
        let Some((message, fd)) = receive(socket)? else {
            return failed.map_or(Ok(Heard { terminal, listener, held: false }), Err);
        };
        let step = plan.steps.get(usize::from(message.step));
        match (message.tag, step) {
            (Message::CLONED, _) => family.second = Some(message.value),
            (Message::TERMINAL, _) => terminal = fd,
            (Message::WAITING, Some(Step::AwaitMaps)) => {
                if let Some(maps) = &plan.maps {
                    write_maps(maps, family.pid)?;
                }
                send_word(socket)?;
            }
            (Message::LISTENER, _) => listener = Some(message.value),
            (Message::WAITING, step) => waiting = step,
            // Of a second process the pid may be yet to come, to be reaped by.
            (_, Some(step)) => failed = Some(failure(step, Call::from_u8(message.call), message.value)),
            (_, None) if message.step == child::Ready::STEP => {
                let call = Call::from_u8(message.call).name();
                let what = "enter the ready namespaces of the pool";
                failed = Some(Error::call(ErrorKind::Namespace, what, call, message.value));
            }
            (_, None) => {
                let what = "the child spoke of a step that is not in the plan";
                failed = Some(Error::new(ErrorKind::Step, what));
            }
        }
    }
}

/// Does these steps of a plan in the calling thread, with `lo` brought up before, but for the
/// placing of their mounts: those are returned, in the order of the steps.
///
/// # Errors
/// The step that failed.
pub(crate) fn ahead(steps: &[Step]) -> Result<Vec<OwnedFd>, Error> {
    let count = steps.iter().filter(|step| matches!(step, Step::Mount(_))).count();
    let mut mounts = vec![-1; count];
    let done = child::ahead(steps, &mut mounts);
    let made = mounts.into_iter().filter(|fd| *fd >= 0);
    // SAFETY: these were just made, and nobody else owns them.
    let made = made.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    match done {
        Ok(()) => Ok(made),
        Err((at, call, errno)) => Err(failure(steps.get(at).unwrap_or(&Step::Loopback), call, errno)),
    }
}

/// The sentence for a step that failed.
pub(crate) fn failure(step: &Step, call: Call, value: i32) -> Error {
    if let (Step::Hook(_), Call::Wait4) = (step, call) {
        return hook_failure(&step.to_string(), value);
    }
    let (option, errno) = (value >> Call::OPTION, value & ((1 << Call::OPTION) - 1));
    let kind = match step {
        Step::Exec(_) => exec_kind(errno),
        _ => ErrorKind::Step,
    };
    Error::call(kind, step.to_string(), call.name(), errno)
        .with_hint(hint::option(step, option).or_else(|| hint::step(step, call, errno)))
}

pub(crate) fn exec_kind(errno: i32) -> ErrorKind {
    match errno {
        libc::ENOENT | libc::ENOTDIR => ErrorKind::ProgramNotFound,
        _ => ErrorKind::ProgramNotExecutable,
    }
}

/// The sentence for a hook that has failed, by its wait status.
pub(crate) fn hook_failure(what: &str, status: i32) -> Error {
    let ended = match libc::WIFSIGNALED(status) {
        true => format!("it was ended by signal {}", libc::WTERMSIG(status)),
        false => match libc::WEXITSTATUS(status) {
            127 => "it exited with code 127: is there such a program, and can it be executed?".into(),
            code => format!("it exited with code {code}"),
        },
    };
    Error::new(ErrorKind::Step, format!("cannot {what}: {ended}"))
}

fn write_maps(maps: &crate::plan::Maps, pid: i32) -> Result<(), Error> {
    let written = match maps.helpers {
        true => ns_core::write_with_newuidmap(pid, &maps.uid, &maps.gid),
        false => ns_core::write_id_maps(pid, &maps.uid, &maps.gid).map(drop),
    };
    written.map_err(|e| Error::from(e).of_kind(ErrorKind::IdMap))
}

/// Lets a waiting child go on.
pub(crate) fn send_word(socket: &OwnedFd) -> Result<(), Error> {
    // SAFETY: sends one byte of a live buffer.
    let n = unsafe { libc::send(socket.as_raw_fd(), [1u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
    match n {
        1 => Ok(()),
        _ => Err(last("let the child go on", "send")),
    }
}

/// After a held child was let go: `None` when it has become the program.
pub(crate) fn hear_last(plan: &Plan, socket: &OwnedFd) -> Result<(), Error> {
    match receive(socket)? {
        None => Ok(()),
        Some((message, _)) => match plan.steps.get(usize::from(message.step)) {
            Some(step) => Err(failure(step, Call::from_u8(message.call), message.value)),
            None => Ok(()),
        },
    }
}

fn receive(socket: &OwnedFd) -> Result<Option<(Message, Option<OwnedFd>)>, Error> {
    let mut message = Message { tag: 0, call: 0, step: 0, value: 0 };
    let mut iov = libc::iovec { iov_base: (&raw mut message).cast(), iov_len: size_of::<Message>() };
    let mut control = [0u64; 3];
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let n = loop {
        // SAFETY: the header and all it points to live here, with the lengths it says.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if n >= 0 || nix::errno::Errno::last_raw() != libc::EINTR {
            break n;
        }
    };
    match n {
        0 => return Ok(None),
        n if n < 0 => match nix::errno::Errno::last_raw() {
            // The child ended with words of ours unread.
            libc::ECONNRESET => return Ok(None),
            _ => return Err(last("hear from the child", "recvmsg")),
        },
        _ => {}
    }
    // SAFETY: the header was filled by recvmsg; a cmsg of SCM_RIGHTS holds one descriptor,
    // which nobody else owns.
    let fd = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (!first.is_null() && (*first).cmsg_type == libc::SCM_RIGHTS)
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()))
    };
    Ok(Some((message, fd)))
}

fn last(what: &str, call: &'static str) -> Error {
    Error::call(ErrorKind::Process, what, call, nix::errno::Errno::last_raw())
}

/// A pair of sockets that keep messages apart; the second has a number of at least
/// `above`, where no descriptor of the program is placed.
fn socket_pair(above: RawFd) -> Result<(OwnedFd, OwnedFd), Error> {
    let mut pair = [-1; 2];
    // SAFETY: fills two descriptors, which nobody else owns.
    let (parent, child) = unsafe {
        if libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr())
            < 0
        {
            return Err(last("make a socket to the child", "socketpair"));
        }
        (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1]))
    };
    if child.as_raw_fd() >= above {
        return Ok((parent, child));
    }
    Ok((parent, dup_above(&child, above)?))
}

/// A copy of a descriptor, closed on exec, with a number of at least `above`.
pub(crate) fn dup_above(fd: &OwnedFd, above: RawFd) -> Result<OwnedFd, Error> {
    // SAFETY: F_DUPFD_CLOEXEC returns a new descriptor, which nobody else owns.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) } {
        -1 => Err(last("copy a descriptor", "fcntl")),
        // SAFETY: as above.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// The ranges between the descriptors that are kept.
fn gaps(mut kept: Vec<RawFd>) -> Vec<(u32, u32)> {
    kept.sort_unstable();
    kept.dedup();
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    let mut next = 0u32;
    for fd in kept {
        let fd = fd as u32;
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = fd + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn gaps_are_all_that_is_not_kept() {
        assert_eq!(gaps(vec![2, 0, 1, 9, 5, 1]), [(3, 4), (6, 8), (10, u32::MAX)]);
        assert_eq!(gaps(vec![4]), [(0, 3), (5, u32::MAX)]);
    }
}
