//! One clone of a plan, in the parent. [`spawn`] has the order of a start:
//!
//! 1. `descriptors` opens the files that the child needs, and computes the number of each
//!    descriptor.
//! 2. `clone` calls clone3(2) once. The child performs the plan's steps (`child.rs`).
//! 3. `protocol` answers the child until it has executed the program or waits to be started.
//!
//! `failure` converts the child's report to an error message.

mod ahead;
mod clone;
mod descriptors;
mod dumpable;
pub(crate) mod failure;
mod helper;
mod limiter;
mod maps;
mod protocol;
mod socket;
mod stack;
pub(crate) mod stage;
mod trees;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ns_core::Pidfd;

pub(crate) use self::ahead::perform_ahead;
use self::clone::{Processes, clone_first};
pub(crate) use self::descriptors::Premade;
use self::descriptors::{Descriptors, Extra, ParentSide};
use self::dumpable::Dumpable;
pub use self::dumpable::make_undumpable;
use self::failure::killed;
pub(crate) use self::limiter::NetLimiter;
use self::maps::MapWriter;
pub(crate) use self::protocol::Held;
use self::protocol::{Report, executed_program, listen, noted};
pub(crate) use self::stack::{Memory, Stack};
use self::stage::read_note;
use crate::error::Error;
use crate::plan::{Hold, Plan};

/// Arguments of one clone of a plan.
pub(crate) struct Start<'a> {
    pub(crate) plan: &'a Plan,
    /// The program's descriptors 0, 1 and 2.
    pub(crate) stdio: [RawFd; 3],
    /// The cgroup in which the program starts, if it differs from the caller's.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The file to which the embedded init writes the exit status.
    pub(crate) exit_file: Option<&'a File>,
    /// The file `cgroup.kill`, if the embedded init writes to it last.
    pub(crate) kill_file: Option<&'a File>,
    /// Namespaces and mounts from a pool.
    pub(crate) premade: Premade,
    /// The thread that sets the network limits, if there are some.
    pub(crate) limiter: Option<NetLimiter>,
    /// Function to call when namespaces and mounts exist, if the plan stops there.
    pub(crate) on_ready: &'a mut dyn FnMut(&Prepared<'_>) -> Result<(), Error>,
}

/// A container whose namespaces and mounts exist, and whose `/` is still the caller's.
#[derive(Debug)]
#[non_exhaustive]
pub struct Prepared<'a> {
    /// The pid of its process in the caller's pid namespace.
    pub pid: i32,
    /// A pidfd of its process.
    pub pidfd: &'a Pidfd,
    /// Whether it has a cgroup, its own or that of another container. Without one, only its process leads to it.
    pub has_cgroup: bool,
    /// The file that the spec's hooks get as standard input, if there are hooks. While the
    /// container is held, the caller may rewrite the file for the hooks that run at its start.
    pub state: Option<&'a File>,
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) pidfd: Pidfd,
    /// The other side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// The listener of its filter.
    pub(crate) listener: Option<OwnedFd>,
    /// The socket that starts the process, if it is held.
    pub(crate) held: Option<Held>,
}

/// Starts the plan's program.
///
/// # Errors
/// A step failed. The child has then ended and has been reaped.
pub(crate) fn spawn(start: Start<'_>) -> Result<Spawned, Error> {
    let Start { plan, stdio, cgroup, exit_file, kill_file, premade, limiter, on_ready } = start;
    let extra = Extra {
        cgroup: cgroup.filter(|_| plan.cgroup_at_second).map_or(-1, |cgroup| cgroup.as_raw_fd()),
        limits: limiter.as_ref().map_or(-1, NetLimiter::child_end),
    };
    let Descriptors { opened, mut tables } =
        Descriptors::open(plan, stdio, [exit_file, kill_file], premade, extra)?;
    let stack = Stack::new()?;
    // The context, the tables and the stack live as long as a second process can share this memory. If
    // the first process is killed, the clone returns while the second continues.
    let mut context = tables.context(&opened, plan, &stack);
    // This value lives until the child has its own memory. That is when the child's end of the
    // socket closes: the clone returns slightly earlier.
    let dumpable = plan.shared_memory.then(Dumpable::keep);
    let kinds = plan.kinds - opened.premade_kinds();
    let writer = MapWriter::start(plan, opened.parent_end())?;
    let pid = writer.as_ref().map(MapWriter::pid);
    let cloned = clone_first(plan, kinds, &stack, &mut context, cgroup, pid);
    let ours = opened.after_clone();
    let written = writer.map_or(Ok(()), MapWriter::finish);
    let mut processes = cloned?;

    let state = ours.state.as_ref();
    let has_cgroup = cgroup.is_some();
    let mut on_ready = |processes: &Processes| {
        let (pid, pidfd) = processes.last();
        on_ready(&Prepared { pid, pidfd, has_cgroup, state })
    };
    let report = written.and_then(|()| listen(plan, &ours.socket, &mut processes, &mut on_ready));
    // The note has the cause if a process could not send its message.
    let report = report.map_err(|e| noted(plan, &stack.read_note()).err().unwrap_or(e));
    let report = report.and_then(|report| {
        if !report.held {
            let notes = [Some(stack.read_note()), ours.blob.as_ref().map(read_note).transpose()?];
            check_executed(plan, &processes, notes, &report, exit_file)?;
        }
        Ok(report)
    });
    // If the limits cannot be set, the child ended without a report.
    let report = limiter.map_or(Ok(()), NetLimiter::finish).and(report);
    let spawned = match report {
        Ok(report) => finish(plan, processes, report, ours),
        Err(error) => {
            // If the error arose in this process, the child continues. A child that waits ends when
            // the socket closes.
            drop(ours);
            processes.destroy();
            Err(error)
        }
    };
    drop(dumpable);
    spawned
}

/// Checks that the child executed the program.
fn check_executed(
    plan: &Plan,
    processes: &Processes,
    notes: [Option<crate::child::Note>; 2],
    report: &Report,
    exit_file: Option<&File>,
) -> Result<(), Error> {
    let (_, last) = processes.last();
    let exit_file = exit_file.filter(|_| plan.spec.has_init());
    // If the first process was killed before it reported the second, the second is unknown.
    let known = !plan.clones() || processes.second.is_some();
    if executed_program(plan, last, notes, report.started, exit_file)? && known {
        return Ok(());
    }
    let exit = last.wait().ok();
    Err(killed(&plan.program(), exit.map(|exit| exit.status)))
}

/// Receives the filter's listener, and returns the process to the caller.
fn finish(plan: &Plan, processes: Processes, report: Report, ours: ParentSide) -> Result<Spawned, Error> {
    let Report { terminal, listener, held, .. } = report;
    let ParentSide { socket, blob, .. } = ours;
    let (pid, pidfd) = processes.settle();
    match listener.map(|number| pidfd.get_fd(number)).transpose() {
        Ok(listener) => {
            let here = held && plan.held == Some(Hold::Here);
            let held = blob.filter(|_| here).map(|blob| Held { socket, blob });
            Ok(Spawned { pid, pidfd, terminal, listener, held })
        }
        Err(error) => {
            drop(socket);
            let _ = pidfd.send_signal(libc::SIGKILL);
            let _ = pidfd.wait();
            Err(error.into())
        }
    }
}
