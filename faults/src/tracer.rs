//! The supervisor: follows all processes of a script with ptrace(2), `PTRACE_SEIZE`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use syscalls::Sysno;

use crate::case::{Call, Case, Fault, Run, Script};
use crate::table::errnos;

/// `op` of `struct ptrace_syscall_info`.
const ENTRY: u8 = 1;
const EXIT: u8 = 2;
/// The interval in which a process that exceeded its bound is killed again, with its new children.
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn run(
    script: &Script,
    case: Option<&Case>,
    set_up: impl FnOnce(&mut Command),
) -> io::Result<Run> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("kill -STOP $$; {}", script.text));
    set_up(&mut command);
    // The tracer waits for the shell as for every other process.
    let shell = Pid::from_raw(command.spawn()?.id().cast_signed());
    waitpid(shell, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    let seized = ptrace::seize(shell, options);
    kill(shell, if seized.is_ok() { Signal::SIGCONT } else { Signal::SIGKILL })?;
    seized?;
    let watchdog = Watchdog::new(script.bound);
    let mut tracer = Tracer {
        script,
        case,
        shell,
        watchdog: &watchdog,
        tasks: HashMap::new(),
        early: HashSet::new(),
        ended: HashSet::new(),
        created: 0,
        calls: Vec::new(),
        reached: false,
        code: None,
    };
    tracer.add(shell, Image::Foreign);
    tracer.attend()?;
    let Tracer { calls, reached, code, .. } = tracer;
    Ok(Run { calls, reached, hung: watchdog.barked(), code: code.unwrap_or(-1) })
}

/// What a task executes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Image {
    /// Another program.
    Foreign,
    /// One of our programs, before `main`.
    Loading,
    /// One of our programs.
    Own,
    /// The embedded init or the stage.
    Embedded,
}

impl Image {
    fn is_counted(self) -> bool {
        matches!(self, Image::Own | Image::Embedded)
    }
}

/// What happens at the end of the call that a task makes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    Fails(Errno),
    Dies,
}

/// A traced process or thread.
struct Task {
    number: usize,
    image: Image,
    /// Number of calls of each name.
    counts: HashMap<&'static str, usize>,
    pending: Pending,
    /// The task is no longer traced after its next stop.
    leaves: bool,
}

struct Tracer<'a> {
    script: &'a Script,
    case: Option<&'a Case>,
    shell: Pid,
    watchdog: &'a Watchdog,
    tasks: HashMap<Pid, Task>,
    /// Tasks that stopped before the event of their parent. They stay stopped until then.
    early: HashSet<Pid>,
    /// Tasks that ended before the event of their parent, and others that are not traced.
    ended: HashSet<Pid>,
    created: usize,
    calls: Vec<Call>,
    reached: bool,
    code: Option<i32>,
}

impl Tracer<'_> {
    fn attend(&mut self) -> io::Result<()> {
        while !self.tasks.is_empty() {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => self.on(status)?,
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        for pid in std::mem::take(&mut self.early) {
            self.watchdog.forget(pid);
            tolerate(ptrace::detach(pid, None))?;
        }
        Ok(())
    }

    fn add(&mut self, pid: Pid, image: Image) {
        let leaves = self.code.is_some();
        let task =
            Task { number: self.created, image, counts: HashMap::new(), pending: Pending::Nothing, leaves };
        self.created += 1;
        if !self.ended.remove(&pid) {
            self.watchdog.watch(pid);
            self.tasks.insert(pid, task);
        }
    }

    fn on(&mut self, status: WaitStatus) -> io::Result<()> {
        let (pid, signal) = match status {
            WaitStatus::Exited(pid, code) => return self.on_end(pid, code),
            WaitStatus::Signaled(pid, signal, _) => return self.on_end(pid, 128 + signal as i32),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            WaitStatus::PtraceSyscall(pid) | WaitStatus::PtraceEvent(pid, ..) => (pid, None),
            WaitStatus::Continued(_) | WaitStatus::StillAlive => return Ok(()),
        };
        if !self.tasks.contains_key(&pid) {
            self.watchdog.watch(pid);
            self.early.insert(pid);
            return Ok(());
        }
        match status {
            WaitStatus::PtraceSyscall(_) => tolerate(self.on_call(pid))?,
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => self.on_exec(pid)?,
            WaitStatus::PtraceEvent(
                _,
                _,
                libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
            ) => self.on_child(pid)?,
            _ => {}
        }
        self.resume(pid, signal)
    }

    fn on_end(&mut self, pid: Pid, code: i32) -> io::Result<()> {
        self.watchdog.forget(pid);
        self.early.remove(&pid);
        if self.tasks.remove(&pid).is_none() {
            self.ended.insert(pid);
        }
        if pid == self.shell {
            self.code = Some(code);
            let others: Vec<Pid> = self.tasks.keys().copied().collect();
            others.into_iter().try_for_each(|pid| self.let_go(pid))?;
        }
        Ok(())
    }

    /// Ends the tracing of a running task at its next stop.
    fn let_go(&mut self, pid: Pid) -> io::Result<()> {
        if let Some(task) = self.tasks.get_mut(&pid) {
            task.leaves = true;
            tolerate(ptrace::interrupt(pid))?;
        }
        Ok(())
    }

    fn on_child(&mut self, pid: Pid) -> io::Result<()> {
        let Ok(child) = ptrace::getevent(pid) else { return Ok(()) };
        let child = Pid::from_raw(child as i32);
        let image = self.tasks[&pid].image;
        self.add(child, image);
        if self.early.remove(&child) { self.resume(child, None) } else { Ok(()) }
    }

    fn on_exec(&mut self, pid: Pid) -> io::Result<()> {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let Some(task) = self.tasks.get_mut(&pid) else { return Ok(()) };
        if task.pending == Pending::Dies {
            return tolerate(kill(pid, Signal::SIGKILL));
        }
        let before = task.image;
        task.image = if self.script.own.contains(&exe) {
            Image::Loading
        } else if before != Image::Foreign && is_embedded(&exe) {
            Image::Embedded
        } else {
            Image::Foreign
        };
        if before == Image::Foreign || task.image != Image::Foreign {
            return Ok(());
        }
        // A program of a container runs, so its init is ready too.
        task.leaves = true;
        let is_init = |(_, task): &(&Pid, &Task)| task.image == Image::Embedded && !task.leaves;
        let inits: Vec<Pid> = self.tasks.iter().filter(is_init).map(|(pid, _)| *pid).collect();
        inits.into_iter().try_for_each(|pid| self.let_go(pid))
    }

    fn on_call(&mut self, pid: Pid) -> Result<(), Errno> {
        let op = ptrace::syscall_info(pid)?.op;
        let Some(task) = self.tasks.get_mut(&pid) else { return Ok(()) };
        let mut registers = ptrace::getregs(pid)?;
        match (op, task.pending) {
            (ENTRY, _) if task.image == Image::Loading => {
                // It is the last call of the Rust runtime before `main`: it sets a handler.
                let [signal, handler, ..] = arguments(&registers);
                let is_last = registers.orig_rax == libc::SYS_rt_sigaction as u64
                    && signal == libc::SIGBUS as u64
                    && handler != 0;
                if is_last {
                    task.image = Image::Own;
                }
                Ok(())
            }
            (ENTRY, _) if task.image.is_counted() => self.on_counted(pid, registers),
            (EXIT, Pending::Fails(errno)) => {
                task.pending = Pending::Nothing;
                registers.rax = (-i64::from(errno as i32)).cast_unsigned();
                ptrace::setregs(pid, registers)
            }
            (EXIT, Pending::Dies) => kill(pid, Signal::SIGKILL),
            _ => Ok(()),
        }
    }

    /// Counts a call at its entry, and prepares the fault if it is the call of the case.
    fn on_counted(&mut self, pid: Pid, mut registers: user_regs_struct) -> Result<(), Errno> {
        let Some(task) = self.tasks.get_mut(&pid) else { return Ok(()) };
        let name = Sysno::new(registers.orig_rax as usize).map_or("unknown", |call| call.name());
        let errnos = errnos(name, arguments(&registers));
        if errnos.is_empty() {
            return Ok(());
        }
        let nth = task.counts.entry(name).or_default();
        *nth += 1;
        let call = Call { task: task.number, name, nth: *nth, errnos };
        let Some(case) = self.case else {
            self.calls.push(call);
            return Ok(());
        };
        if self.reached || case.call.id() != call.id() {
            return Ok(());
        }
        self.reached = true;
        match case.fault {
            Fault::Errno(errno) => {
                task.pending = Pending::Fails(errno);
                // No call has this number, so the kernel does nothing.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(pid, registers)
            }
            Fault::KillBefore => kill(pid, Signal::SIGKILL),
            Fault::KillAfter => {
                task.pending = Pending::Dies;
                Ok(())
            }
        }
    }

    fn resume(&mut self, pid: Pid, signal: Option<Signal>) -> io::Result<()> {
        let Some(task) = self.tasks.get(&pid) else { return Ok(()) };
        if task.leaves && task.pending == Pending::Nothing {
            self.tasks.remove(&pid);
            self.watchdog.forget(pid);
            return tolerate(ptrace::detach(pid, signal));
        }
        let is_done = self.reached && task.pending == Pending::Nothing;
        if is_done || task.image == Image::Foreign {
            tolerate(ptrace::cont(pid, signal))
        } else {
            tolerate(ptrace::syscall(pid, signal))
        }
    }
}

fn arguments(registers: &user_regs_struct) -> [u64; 6] {
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9]
}

fn is_embedded(exe: &Path) -> bool {
    exe.to_string_lossy().starts_with("/memfd:nspod-init")
}

/// A task that is being killed is no longer stopped. Its end is reported later.
fn tolerate(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::ESRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// A thread that kills the watched tasks after a time.
struct Watchdog {
    watched: Arc<Mutex<HashSet<Pid>>>,
    barks: Arc<AtomicBool>,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Watchdog {
    fn new(bound: Duration) -> Watchdog {
        let watched = Arc::new(Mutex::new(HashSet::<Pid>::new()));
        let barks = Arc::new(AtomicBool::new(false));
        let (done, wait) = channel::<()>();
        let (theirs, flag) = (watched.clone(), barks.clone());
        let thread = thread::spawn(move || {
            let mut time = bound;
            while let Err(RecvTimeoutError::Timeout) = wait.recv_timeout(time) {
                flag.store(true, Ordering::Relaxed);
                time = AGAIN;
                // A task is forgotten immediately after the tracer has reaped it, so its pid is still its own.
                for pid in theirs.lock().unwrap().iter() {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
            }
        });
        Watchdog { watched, barks, thread: Some((done, thread)) }
    }

    fn watch(&self, pid: Pid) {
        self.watched.lock().unwrap().insert(pid);
    }

    fn forget(&self, pid: Pid) {
        self.watched.lock().unwrap().remove(&pid);
    }

    /// Returns whether the time is over.
    fn barked(&self) -> bool {
        self.barks.load(Ordering::Relaxed)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.thread.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}
