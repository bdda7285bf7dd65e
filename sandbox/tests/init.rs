//! Runs the embedded init from a memory file as pid 1 of a pid namespace.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nspod-init"));
const STEP: u16 = 513;

/// A running init. Dropping it after a failed test kills the init and its pid namespace.
struct Init {
    process: Child,
    report: UnixStream,
    exit: File,
}

impl Init {
    /// Starts `argv` with the first of `candidates` that works. Returns `None` if no pid namespace can be created.
    fn start(candidates: &[&str], argv: &[&str]) -> Option<Init> {
        Init::start_on(candidates, argv, None)
    }

    /// Starts the init on a terminal, as the leader of its session.
    fn start_on(candidates: &[&str], argv: &[&str], terminal: Option<Stdio>) -> Option<Init> {
        // Descriptors are inheritable for a moment, so only one start can run at a time.
        static STARTING: Mutex<()> = Mutex::new(());
        let _starting = STARTING.lock().unwrap_or_else(|e| e.into_inner());

        let mut image = File::from(memfd_create(c"nspod-init", MFdFlags::MFD_CLOEXEC).unwrap());
        image.write_all(IMAGE).unwrap();
        // The kernel does not execute a file that is open for writing.
        let image = File::open(format!("/proc/self/fd/{}", image.as_raw_fd())).unwrap();
        let exit = File::from(memfd_create(c"exit", MFdFlags::MFD_CLOEXEC).unwrap());
        let (report, theirs) = UnixStream::pair().unwrap();
        for fd in [image.as_fd(), exit.as_fd(), theirs.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        }
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        let (exit_fd, report_fd, count) = (exit.as_raw_fd(), theirs.as_raw_fd(), candidates.len());
        let on_terminal = terminal.is_some();
        let session = if on_terminal { 2 } else { 1 };
        let contract = format!("NSPOD_INIT={report_fd}:{exit_fd}:{STEP}:{count}:-1:0:0:-1:{session}");
        let strings = |strings: &[&str]| -> Vec<CString> {
            strings.iter().map(|text| CString::new(*text).unwrap()).collect()
        };
        let path = CString::new(path).unwrap();
        let argv = strings(&[&["nspod-init", "--"], argv].concat());
        let envp = [&[contract.as_str()], candidates, &["PATH=/usr/bin:/bin", "GREETING=hello"]].concat();
        let envp = strings(&envp);
        let mut command = Command::new("replaced");
        command.stdin(terminal.unwrap_or_else(Stdio::piped)).stdout(Stdio::piped());
        // The order of the environment matters, which `Command` does not keep.
        let exec = move || {
            setsid()?;
            if on_terminal {
                rustix::process::ioctl_tiocsctty(std::io::stdin())?;
            }
            nix::unistd::execve(&path, &argv, &envp)?;
            Ok(())
        };
        // SAFETY: the thread that spawns has no lock of an allocator, and the closure only makes system calls.
        unsafe { command.pre_exec(exec) };
        // The next child of the thread becomes pid 1 of the new namespace. The thread ends afterwards.
        let process = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWPID).ok()?;
            Some(command.spawn().unwrap())
        });
        let Some(process) = process.join().unwrap() else {
            nspod_testkit::skip("no pid namespace can be made here, which needs CAP_SYS_ADMIN");
            return None;
        };
        fcntl(exit.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        Some(Init { process, report, exit })
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    /// Blocks until the runtime's end of REPORT returns end of file. Returns the record.
    fn report(&mut self) -> Vec<u8> {
        let mut record = Vec::new();
        self.report.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        self.report.read_to_end(&mut record).unwrap();
        record
    }

    /// Returns a line of the program's output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let mut out = BufReader::with_capacity(1, self.process.stdout.as_mut().unwrap());
        out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for the end. Returns the exit status and the text that the init wrote about it.
    fn end(mut self) -> (ExitStatus, String) {
        let status = self.process.wait().unwrap();
        let mut text = String::new();
        self.exit.rewind().unwrap();
        self.exit.read_to_string(&mut text).unwrap();
        (status, text)
    }

    /// Waits until the init has this many children, including zombies.
    fn await_children(&self, count: usize) {
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        nspod_testkit::eventually(&format!("init has {count} children"), || {
            fs::read_to_string(&children).unwrap().split_whitespace().count() == count
        });
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sh(script: &str) -> Option<Init> {
    Init::start(&["/bin/sh"], &["sh", "-c", script])
}

/// Returns the record that the init sends if the program cannot be executed.
fn record(errno: i32) -> Vec<u8> {
    let mut record = vec![1, 41];
    record.extend(STEP.to_ne_bytes());
    record.extend(errno.to_ne_bytes());
    record
}

/// Returns the record that reports that the program runs.
fn started() -> Vec<u8> {
    let mut record = vec![6, 0];
    record.extend(STEP.to_ne_bytes());
    record.extend([0; 4]);
    record
}

#[test]
fn the_image_is_a_few_kilobytes() {
    assert!(IMAGE.starts_with(b"\x7fELF"));
    assert!(IMAGE.len() < 14_336, "{} bytes", IMAGE.len());
}

#[test]
fn init_ends_with_the_programs_exit_code() {
    for code in [0, 7, 127, 255] {
        let Some(mut init) = sh(&format!("exit {code}")) else { return };
        assert_eq!(init.report(), started());
        let (status, text) = init.end();
        assert_eq!((status.code(), text), (Some(code), format!("exited {code}\n")));
    }
}

#[test]
fn a_programs_death_by_signal_becomes_128_and_the_signal() {
    for signal in [9, 15, 64] {
        let Some(init) = sh(&format!("kill -{signal} $$")) else { return };
        let (status, text) = init.end();
        assert_eq!((status.code(), text), (Some(128 + signal), format!("signaled {signal}\n")));
    }
}

#[test]
fn a_core_dump_is_noted() {
    // The host decides whether there is one, so compare with a shell outside.
    let Some(init) = sh("kill -ABRT $$") else { return };
    use std::os::unix::process::ExitStatusExt;
    let dumped = Command::new("sh").args(["-c", "kill -ABRT $$"]).status().unwrap().core_dumped();
    let expected = if dumped { "signaled 6 core\n" } else { "signaled 6\n" };
    assert_eq!(init.end().1, expected);
}

#[test]
fn signals_are_forwarded_to_the_program() {
    let script = "trap 'exit 3' USR1; trap 'echo term' TERM; echo ready; while :; do sleep 0.01; done";
    let Some(mut init) = sh(script) else { return };
    assert_eq!(init.line(), "ready");
    init.signal(Signal::SIGTERM);
    assert_eq!(init.line(), "term");
    init.signal(Signal::SIGUSR1);
    assert_eq!(init.end().1, "exited 3\n");
}

#[test]
fn a_program_without_a_handler_dies_of_a_forwarded_signal() {
    let Some(mut init) = sh("echo ready; exec sleep 1000") else { return };
    assert_eq!(init.line(), "ready");
    init.signal(Signal::SIGTERM);
    let (status, text) = init.end();
    assert_eq!((status.code(), text.as_str()), (Some(143), "signaled 15\n"));
}

#[test]
fn init_does_not_take_a_stopped_program_for_an_ended_one() {
    let Some(mut init) = sh("echo ready; read x; exit 4") else { return };
    assert_eq!(init.line(), "ready");
    init.signal(Signal::SIGTSTP);
    init.signal(Signal::SIGCONT);
    init.process.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(init.end().1, "exited 4\n");
}

#[test]
fn init_reaps_an_orphan() {
    let Some(mut init) = sh("(sh -c 'read x' <&3 &) 3<&0; echo ready; exec sleep 1000") else { return };
    assert_eq!(init.line(), "ready");
    init.await_children(2);
    init.process.stdin.as_mut().unwrap().write_all(b"end\n").unwrap();
    init.await_children(1);
}

#[test]
fn candidates_are_tried_in_the_order_of_execvp() {
    let tried = ["/nonexistent/true", "/etc/passwd/true", "/etc/passwd", "/bin/true"];
    let Some(mut init) = Init::start(&tried, &["true"]) else { return };
    assert_eq!(init.report(), started());
    assert_eq!(init.end().1, "exited 0\n");
}

#[test]
fn a_failed_exec_is_reported_with_its_step_and_errno() {
    let cases: [(&[&str], i32); 3] = [
        (&["/nonexistent/a"], libc::ENOENT),
        (&["/nonexistent/a", "/etc/passwd/a"], libc::ENOENT),
        (&["/etc/passwd", "/nonexistent/a"], libc::EACCES),
    ];
    for (candidates, errno) in &cases {
        let Some(mut init) = Init::start(candidates, &["a"]) else { return };
        assert_eq!(init.report(), record(*errno), "{candidates:?}");
        let (status, text) = init.end();
        assert_eq!((status.code(), text.as_str()), (Some(127), "exited 127\n"));
    }
}

#[test]
fn an_errno_other_than_absence_stops_the_search() {
    let long = format!("/{}", "x".repeat(5000));
    let Some(mut init) = Init::start(&[&long, "/bin/true"], &["true"]) else { return };
    assert_eq!(init.report(), record(libc::ENAMETOOLONG));
}

#[test]
fn the_program_gets_its_argv_and_environment() {
    let argv = ["called", "-c", "echo $0 $1 $GREETING", "called", "one"];
    let Some(mut init) = Init::start(&["/bin/sh"], &argv) else { return };
    assert_eq!(init.line(), "called one hello");
}

#[test]
fn the_program_starts_with_no_signal_blocked() {
    // The program runs without a shell, because a shell resets some signals itself.
    let argv = ["grep", "SigBlk", "/proc/self/status"];
    let Some(mut init) = Init::start(&["/bin/grep"], &argv) else { return };
    assert_eq!(init.line(), "SigBlk:\t0000000000000000");
}

#[test]
fn the_program_gets_neither_the_report_nor_the_exit_descriptor() {
    let Some(mut init) = sh("for f in /proc/self/fd/*; do readlink $f; done; echo .") else { return };
    assert!(init.line().starts_with("pipe:"));
    loop {
        let line = init.line();
        if line == "." {
            break;
        }
        assert!(!line.contains("memfd:exit") && !line.contains("socket:"), "{line}");
    }
}

#[test]
fn init_keeps_no_pipe_of_the_programs_open() {
    let Some(mut init) = sh("exec sleep 1000 >/dev/null") else { return };
    let mut rest = Vec::new();
    init.process.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(init.process.try_wait().unwrap(), None);
    assert_eq!(fs::read_dir(format!("/proc/{}/fd", init.process.id())).unwrap().count(), 1);
}

#[test]
fn the_program_has_the_terminals_foreground() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let argv = ["sh", "-c", "exec cut -d' ' -f5,6,8 /proc/self/stat"];
    let Some(mut init) = Init::start_on(&["/bin/sh"], &argv, Some(Stdio::from(pty.slave))) else { return };
    let line = init.line();
    let [group, session, foreground] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert_eq!(group, foreground);
    assert_ne!(group, session);
}

#[test]
fn without_a_program_init_holds_the_namespace_until_it_is_killed_from_outside() {
    let Some(mut init) = Init::start(&[], &[]) else { return };
    assert_eq!(init.report(), started());
    // Signals that another process in the namespace might send.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        init.signal(signal);
    }
    init.signal(Signal::SIGKILL);
    let (status, text) = init.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    assert_eq!((status.code(), text.as_str()), (None, ""));
}
