//! The parent's side, top to bottom: one clone3, the maps if they are the parent's to
//! write, and what the child has to say.

#![allow(unsafe_code)]

mod guard;
mod hooks;
mod trees;

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ns_core::{Clone3, CloneFlags, ExitStatus, Kinds, Pidfd};

pub(crate) use self::guard::{BlockedSignals, Lock, lock};
use self::guard::{Dumpable, Stack};
pub use self::guard::{inherit_nothing, notice_children};
use self::trees::open_tree;
use crate::child::{self, Loan, Message, Note};
use crate::command::{OnPrepared, Prepared};
use crate::error::{Error, ErrorKind};
use crate::hint;
use crate::hold::{self, Hold, Pipes};
use crate::plan::{Plan, numbers};
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
    /// Held at the last step, until this is told to go on.
    pub(crate) held: Option<Held>,
}

/// A process that waits for the caller's word.
#[derive(Debug)]
pub(crate) struct Held {
    socket: OwnedFd,
    /// What the stage has mapped.
    blob: File,
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
    // Above every descriptor that the program, or what is executed before it, finds in place.
    let above = plan.above();
    let (parent_end, child_end) = socket_pair(above)?;
    let pipes = match &plan.held {
        Some(Hold::At(directory)) => Some(Pipes::make(directory, plan)?),
        _ => None,
    };
    let state = if plan.spec.hooks.is_empty() { None } else { Some(memory_file(c"nspod-state", &[])?) };
    let blob = match (&plan.stage, &plan.held) {
        (Some(stage), Some(Hold::At(directory))) => Some(hold::stage_file(directory, &stage.blob)?),
        (Some(stage), _) => Some(memory_file(c"nspod-stage", &stage.blob)?),
        (None, _) => None,
    };
    let mut fds: Vec<(RawFd, RawFd)> = stdio.into_iter().zip(0..).collect();
    fds.extend(plan.inherited.iter().map(|(from, to)| (from.as_raw_fd(), *to)));
    let high = plan.highest_fd();
    let mut place = |fd: Option<RawFd>, number| fds.extend(fd.map(|fd| (fd, high + number)));
    if plan.stage.is_some() || plan.spec.init {
        place(Some(child_end.as_raw_fd()), numbers::REPORT);
    }
    if plan.spec.init {
        place(exit_file.map(AsRawFd::as_raw_fd), numbers::EXIT);
    }
    let mut kept: Vec<RawFd> = vec![child_end.as_raw_fd()];
    if let Some(blob) = &blob {
        place(Some(blob.as_raw_fd()), numbers::BLOB);
        place(pipes.as_ref().map(|pipes| pipes.go.as_raw_fd()), numbers::GO);
        place(pipes.as_ref().map(|pipes| pipes.report.as_raw_fd()), numbers::LATE);
        place(state.as_ref().map(AsRawFd::as_raw_fd), numbers::STATE);
    }
    let executed = plan.stage.is_some() || plan.spec.init;
    let own_image = if executed { crate::init::image_for_one(above)? } else { None };
    let image = own_image.as_ref().map(AsRawFd::as_raw_fd);
    for step in &plan.steps {
        let (Step::Exec(exec) | Step::Stage(exec)) = step else { continue };
        let file = exec.file.as_ref().map(|file| image.unwrap_or(file.as_raw_fd()));
        match step {
            Step::Exec(_) if blob.is_some() => place(file, numbers::IMAGE),
            _ => kept.extend(file),
        }
    }
    // What a step needs before the descriptors are placed: the targets are none of it, for the
    // caller has files of its own by these numbers.
    let mut needed: Vec<RawFd> = fds.iter().map(|(from, _)| *from).chain(kept.iter().copied()).collect();
    needed.extend(state.as_ref().map(AsRawFd::as_raw_fd));
    kept.extend(fds.iter().map(|(_, to)| *to));
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
        Step::EnterRoot(root) => Some(root.as_raw_fd()),
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
    // A descriptor that is closed already cannot be kept.
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
        note: stack.note(),
        image: image.unwrap_or(-1),
        state: state.as_ref().map_or(-1, AsRawFd::as_raw_fd),
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
    drop(pipes);
    drop(trees);
    drop(ready);

    let mut family = Family { first: pidfd, pid, second: None };
    let heard = listen(plan, &parent_end, &mut family, prepared, state.as_ref()).and_then(|heard| {
        if !heard.held {
            let notes = [Some(stack.read_note()), blob.as_ref().map(read_note)];
            let exit_file = exit_file.filter(|_| plan.spec.init);
            // Where a sibling goes on, nobody knows it if the first was killed before it told of it.
            let told = !plan.clones() || family.second.is_some();
            if !became_the_program(plan, family.last(), notes, heard.started, exit_file)? || !told {
                let exit = family.last().wait().ok();
                return Err(killed(&plan.program(), exit.map(|exit| exit.status)));
            }
        }
        Ok(heard)
    });
    let spawned = match heard {
        Ok(Heard { terminal, listener, held, .. }) => {
            let (pid, pidfd) = family.settle();
            match listener.map(|number| pidfd.get_fd(number)).transpose() {
                Ok(listener) => {
                    let here = held && plan.held == Some(Hold::Here);
                    let held = blob.filter(|_| here).map(|blob| Held { socket: parent_end, blob });
                    Ok(Spawned { pid, pidfd, terminal, listener, held })
                }
                Err(error) => {
                    drop(parent_end);
                    let _ = pidfd.send_signal(libc::SIGKILL);
                    let _ = pidfd.wait();
                    Err(error.into())
                }
            }
        }
        Err(error) => {
            // Closing the socket ends a child that waits. The error may be this process's own, with
            // a child that goes on.
            drop(parent_end);
            family.kill();
            family.reap();
            Err(error)
        }
    };
    drop(dumpable);
    spawned
}

/// Whether the end of file on the socket meant that the program was executed: the child could have
/// been killed.
///
/// # Errors
/// What failed, if the child was kept by its filter from saying so.
fn became_the_program(
    plan: &Plan,
    pidfd: &Pidfd,
    notes: [Option<Note>; 2],
    started: bool,
    exit_file: Option<&File>,
) -> Result<bool, Error> {
    for note in notes.iter().flatten() {
        if note.failure != [0; 8] {
            return Err(told(plan, Message::from_bytes(note.failure)));
        }
    }
    let last = notes.into_iter().flatten().next_back();
    if last.is_none_or(|note| note.executes != 1) {
        return Ok(false);
    }
    // The filter may have kept the init from saying that the program runs.
    let noted = || exit_file.is_some_and(|file| file.metadata().is_ok_and(|file| file.len() > 0));
    Ok(!plan.spec.init || started || noted() || !is_ending(pidfd))
}

/// Whether a process has ended or is about to: it has closed its descriptors before it can be
/// waited for.
fn is_ending(pidfd: &Pidfd) -> bool {
    /// `PF_EXITING`.
    const EXITING: u64 = 4;
    let Ok(pid) = pidfd.pid() else { return true };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, can hold anything. State, four numbers and the flags follow it.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & EXITING != 0)
}

/// The sentence for a process that ended before it was the program.
fn killed(program: &str, status: Option<ExitStatus>) -> Error {
    let how = match status {
        Some(exited @ ExitStatus::Exited(_)) => exited.to_string(),
        Some(signaled @ ExitStatus::Signaled { .. }) => format!("was {signaled}"),
        None => "ended".to_owned(),
    };
    Error::new(
        ErrorKind::Killed,
        format!("cannot start {program}: the first process {how} while it was set up"),
    )
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
    second: Option<(i32, Pidfd)>,
}

impl Family {
    /// The one that is to be the program.
    fn last(&self) -> &Pidfd {
        self.second.as_ref().map_or(&self.first, |(_, pidfd)| pidfd)
    }

    /// The one that became the program; the other is reaped.
    fn settle(self) -> (i32, Pidfd) {
        let Some(second) = self.second else { return (self.pid, self.first) };
        let _ = self.first.wait();
        second
    }

    /// Notes the sibling. Its pidfd cannot be forged where one comes along; otherwise the pid is
    /// that of a child of this process, which keeps it until it is waited for.
    fn add(&mut self, plan: &Plan, pid: i32, fd: Option<OwnedFd>) -> Result<(), Error> {
        self.second = Some(match fd {
            Some(fd) => {
                let pidfd = Pidfd::from_owned_fd(fd)?;
                (pidfd.pid()?, pidfd)
            }
            None if plan.enters() => {
                return Err(Error::new(ErrorKind::Step, "the stage did not send the pidfd of its sibling"));
            }
            None => (pid, Pidfd::open(pid)?),
        });
        Ok(())
    }

    /// Waits until the socket can be read. The first process is to tell of the second, which waits
    /// for this one meanwhile; if the first was killed before, nothing comes any more.
    fn still_tells(&self, plan: &Plan, socket: &OwnedFd) -> Result<(), Error> {
        let mut fds = [socket.as_fd(), self.first.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => {
                    return Err(Error::call(ErrorKind::Process, "hear from the child", "poll", e as i32));
                }
                Ok(_) if fds[0].any() == Some(true) => return Ok(()),
                Ok(_) => return Err(killed(&plan.program(), self.first.wait().ok().map(|exit| exit.status))),
            }
        }
    }

    fn kill(&self) {
        let second = self.second.iter().map(|(_, pidfd)| pidfd);
        for pidfd in second.chain([&self.first]) {
            let _ = pidfd.send_signal(libc::SIGKILL);
        }
    }

    /// Waits for all of them, so that none stays a zombie.
    fn reap(self) {
        let _ = self.first.wait();
        if let Some((_, pidfd)) = self.second {
            let _ = pidfd.wait();
        }
    }

    /// Calls the caller's function with the process that is to be the program, and hands what
    /// it says to the hooks.
    fn prepared(&self, then: Option<OnPrepared>, state: Option<&File>) -> Result<(), Error> {
        let Some(then) = then else { return Ok(()) };
        let (pid, pidfd) = self.second.as_ref().map_or((self.pid, &self.first), |(pid, pidfd)| (*pid, pidfd));
        let text = (then.0)(&Prepared { pid, pidfd, state })?;
        match state {
            Some(file) => file
                .write_all_at(&text, 0)
                .map_err(|e| Error::io(ErrorKind::Process, "write the state for hooks", "pwrite64", &e)),
            None => Ok(()),
        }
    }
}

struct Heard {
    terminal: Option<OwnedFd>,
    /// The number that the child has it by.
    listener: Option<RawFd>,
    /// The init said that the program runs.
    started: bool,
    held: bool,
}

/// A memory file that begins with these bytes.
fn memory_file(name: &std::ffi::CStr, bytes: &[u8]) -> Result<File, Error> {
    let what = "make a file in memory for the child";
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|e| Error::call(ErrorKind::Process, what, "memfd_create", e as i32))?;
    if !bytes.is_empty() {
        file.write_all_at(bytes, 0).map_err(|e| Error::io(ErrorKind::Process, what, "pwrite64", &e))?;
    }
    Ok(file)
}

/// What the stage has noted.
pub(crate) fn read_note(blob: &File) -> Note {
    let mut bytes = [0; size_of::<Note>()];
    match blob.read_exact_at(&mut bytes, 0) {
        Ok(()) => {
            let [failure, executes] = [0, 8].map(|at| std::array::from_fn(|n| bytes[at + n]));
            Note { failure, executes: u64::from_ne_bytes(executes) }
        }
        Err(_) => Note::default(),
    }
}

/// Answers the child until it has become the program (its end of the socket closes) or
/// waits to be started.
fn listen(
    plan: &Plan,
    socket: &OwnedFd,
    family: &mut Family,
    mut prepared: Option<OnPrepared>,
    state: Option<&File>,
) -> Result<Heard, Error> {
    let mut heard = Heard { terminal: None, listener: None, started: false, held: false };
    let mut failed = None;
    let mut waiting: Option<&Step> = None;
    let (clones, mut hooked) = (plan.clones(), false);
    loop {
        match waiting {
            // The pid of a second process may be yet to come.
            Some(Step::Ready) if hooked => {
                return Err(Error::new(ErrorKind::Step, "the child asked for the hooks a second time"));
            }
            Some(Step::Ready) if !clones || plan.enters() || family.second.is_some() => {
                family.prepared(prepared.take(), state)?;
                for hook in plan.stage.iter().flat_map(|stage| &stage.hooks) {
                    hooks::run(hook, family.pid, &family.first, state)?;
                }
                send_word(socket)?;
                (waiting, hooked) = (None, true);
            }
            Some(Step::Hold) if !clones || family.second.is_some() => {
                heard.held = true;
                return Ok(heard);
            }
            _ => {}
        }
        if waiting.is_some() && clones && family.second.is_none() {
            family.still_tells(plan, socket)?;
        }
        let Some((message, fd)) = receive(socket)? else {
            return failed.map_or(Ok(heard), Err);
        };
        let step = plan.steps.get(usize::from(message.step));
        match (message.tag, step) {
            (Message::CLONED, Some(Step::Clone(_))) if family.second.is_none() => {
                family.add(plan, message.value, fd)?;
            }
            // The child sends it before another process can speak in its place.
            (Message::TERMINAL, Some(Step::Terminal { .. })) if heard.terminal.is_none() => {
                heard.terminal = fd
            }
            (Message::WAITING, Some(Step::AwaitMaps)) => {
                if let Some(maps) = &plan.maps {
                    write_maps(maps, family.pid)?;
                }
                send_word(socket)?;
            }
            (Message::LISTENER, Some(Step::Seccomp { .. })) => heard.listener = Some(message.value),
            (Message::WAITING, step) => waiting = step,
            (Message::STARTED, _) => heard.started = true,
            // A second process, whose pid may be yet to come, is reaped by it.
            _ => failed = Some(told(plan, message)),
        }
    }
}

/// The sentence for what the child says that failed.
fn told(plan: &Plan, message: Message) -> Error {
    let call = Call::from_u8(message.call);
    match plan.steps.get(usize::from(message.step)) {
        Some(step) => failure(step, call, message.value),
        None if message.step == child::Ready::STEP => {
            let what = "enter the ready namespaces of the pool";
            Error::call(ErrorKind::Namespace, what, call.name(), message.value)
        }
        None => Error::new(ErrorKind::Step, "the child spoke of a step that is not in the plan"),
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
    if let (Step::Exec(exec), Call::Wait4) = (step, call) {
        return killed(&exec.name, Some(ExitStatus::from_wait(value)));
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

impl Held {
    /// Lets the process go on, and waits until it has become the program.
    pub(crate) fn start(self, plan: &Plan, pidfd: &Pidfd, exit_file: Option<&File>) -> Result<(), Error> {
        send_word(&self.socket)?;
        let mut started = false;
        while let Some((message, _)) = receive(&self.socket)? {
            match message.tag {
                Message::STARTED => started = true,
                _ => return Err(told(plan, message)),
            }
        }
        match became_the_program(plan, pidfd, [None, Some(read_note(&self.blob))], started, exit_file)? {
            true => Ok(()),
            false => Err(killed(&plan.program(), None)),
        }
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
    // The buffer has room for two descriptors, of which nobody would close the second.
    // SAFETY: computes a number.
    header.msg_controllen = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as _;
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
        (!first.is_null()
            && (*first).cmsg_level == libc::SOL_SOCKET
            && (*first).cmsg_type == libc::SCM_RIGHTS)
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
    use super::{gaps, receive, socket_pair};

    #[test]
    fn a_message_brings_one_descriptor_and_no_more() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::os::fd::AsRawFd;
        let (ours, theirs) = socket_pair(0).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == file.path())).count()
        };
        let fds = [file.as_raw_fd(); 2];
        for count in [1, 2] {
            let control = ControlMessage::ScmRights(&fds[..count]);
            let bytes = [std::io::IoSlice::new(&[0; 8])];
            sendmsg::<()>(theirs.as_raw_fd(), &bytes, &[control], MsgFlags::empty(), None).unwrap();
            let (_, fd) = receive(&ours).unwrap().unwrap();
            assert!(fd.is_some());
            assert_eq!(open(), 2, "{count}");
        }
    }

    #[test]
    fn gaps_are_all_that_is_not_kept() {
        assert_eq!(gaps(vec![2, 0, 1, 9, 5, 1]), [(3, 4), (6, 8), (10, u32::MAX)]);
        assert_eq!(gaps(vec![4]), [(0, 3), (5, u32::MAX)]);
    }
}
