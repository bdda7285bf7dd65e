//! The protocol between this process and the child during a start.
//!
//! The child sends messages of eight bytes ([`Message`]). At some steps it waits for a byte from
//! this process. The protocol ends when the child's end of the socket closes, which execve(2) does,
//! or when the child waits to be started.

use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};

use ns_core::proc::Stat;
use ns_core::{IdMap, Pidfd};

use crate::child::{Message, Note};
use crate::error::{Error, ErrorKind};
use crate::plan::{Maps, Plan};
use crate::spawn::clone::Processes;
use crate::spawn::failure::{killed, reported};
use crate::spawn::socket::{receive, send_word};
use crate::spawn::stage::read_note;
use crate::step::Step;

/// The child's reports until it executed the program or waits to be started.
#[derive(Default)]
pub(super) struct Report {
    /// The other side of the container's terminal.
    pub(super) terminal: Option<OwnedFd>,
    /// The number of the filter's listener in the child.
    pub(super) listener: Option<RawFd>,
    /// Whether the embedded init has started the program.
    pub(super) started: bool,
    /// Whether the child waits to be started.
    pub(super) held: bool,
}

/// Answers the child until it has executed the program or waits to be started. Calls `on_ready`
/// with the processes when namespaces and mounts exist.
///
/// # Errors
/// A step failed in the child.
pub(super) fn listen(
    plan: &Plan,
    socket: &OwnedFd,
    processes: &mut Processes,
    on_ready: &mut dyn FnMut(&Processes) -> Result<(), Error>,
) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut failed = None;
    let mut waiting: Option<&Step> = None;
    let (clones, mut was_ready) = (plan.clones(), false);
    loop {
        // The second process may wait before the first has reported it.
        let known = !clones || processes.second.is_some();
        match waiting {
            Some(Step::Ready) if was_ready => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "process",
                    "the child reported twice that it is ready",
                ));
            }
            Some(Step::Ready) if known || plan.enters() => {
                on_ready(processes)?;
                send_word(socket)?;
                (waiting, was_ready) = (None, true);
            }
            Some(Step::Hold) if known => {
                report.held = true;
                return Ok(report);
            }
            _ => {}
        }
        if waiting.is_some() && !known {
            processes.wait_for_second(plan, socket)?;
        }
        let Some((message, fd)) = receive(socket)? else {
            return failed.map_or(Ok(report), Err);
        };
        let step = plan.steps.get(usize::from(message.step));
        match (message.tag, step) {
            (Message::CLONED, Some(Step::Clone(_))) if processes.second.is_none() => {
                processes.add(plan, message.value, fd)?;
            }
            // Before this message, no other process can send on the socket.
            (Message::TERMINAL, Some(Step::Terminal { .. })) if report.terminal.is_none() => {
                report.terminal = fd
            }
            (Message::WAITING, Some(Step::AwaitMaps)) => {
                if let Some(maps) = &plan.maps {
                    write_maps(maps, processes.pid)?;
                }
                send_word(socket)?;
            }
            (Message::LISTENER, Some(Step::Seccomp { .. })) => report.listener = Some(message.value),
            (Message::WAITING, step) => waiting = step,
            (Message::STARTED, _) => report.started = true,
            // Continue until the end of file: to reap a second process, its pid must be known.
            _ => failed = Some(reported(plan, message)),
        }
    }
}

pub(super) fn write_maps(maps: &Maps, pid: i32) -> Result<(), Error> {
    let (uid, gid): (&IdMap, &IdMap) = (&maps.uid, &maps.gid);
    let written = match maps.helpers {
        true => ns_core::write_with_newuidmap(pid, uid, gid),
        false => ns_core::write_id_maps(pid, uid, gid).map(drop),
    };
    written.map_err(|e| Error::from(e).at("id-maps"))
}

/// Returns whether the end of file on the socket means that the program was executed. A killed
/// child closes its socket too.
///
/// `notes` are the notes of the child and of the stage.
///
/// # Errors
/// A step failed, and the filter prevented the child from reporting it.
pub(super) fn executed_program(
    plan: &Plan,
    pidfd: &Pidfd,
    notes: [Option<Note>; 2],
    started: bool,
    exit_file: Option<&File>,
) -> Result<bool, Error> {
    notes.iter().flatten().try_for_each(|note| noted(plan, note))?;
    let last = notes.into_iter().flatten().next_back();
    if last.is_none_or(|note| note.executes != 1) {
        return Ok(false);
    }
    // The filter can prevent the init from reporting that the program runs.
    let noted = || exit_file.is_some_and(|file| file.metadata().is_ok_and(|file| file.len() > 0));
    Ok(!plan.spec.has_init() || started || noted() || !is_ending(pidfd))
}

/// Returns the failure in a note as an error.
pub(super) fn noted(plan: &Plan, note: &Note) -> Result<(), Error> {
    match note.failure {
        [0, 0, 0, 0, 0, 0, 0, 0] => Ok(()),
        failure => Err(reported(plan, Message::from_bytes(failure))),
    }
}

/// Returns whether a process has ended or is about to end. A process closes its descriptors before
/// it becomes waitable.
fn is_ending(pidfd: &Pidfd) -> bool {
    let Ok(pid) = pidfd.pid() else { return true };
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    Stat::parse(&stat).is_none_or(|stat| stat.is_ending())
}

/// A process that waits for this program to start it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(super) socket: OwnedFd,
    /// The memory of the stage.
    pub(super) blob: File,
}

impl Held {
    /// Lets the process continue, and waits until it has executed the program.
    ///
    /// # Errors
    /// A step failed.
    pub(crate) fn start(self, plan: &Plan, pidfd: &Pidfd, exit_file: Option<&File>) -> Result<(), Error> {
        send_word(&self.socket)?;
        let mut started = false;
        while let Some((message, _)) = receive(&self.socket)? {
            match message.tag {
                Message::STARTED => started = true,
                _ => return Err(reported(plan, message)),
            }
        }
        match executed_program(plan, pidfd, [None, Some(read_note(&self.blob)?)], started, exit_file)? {
            true => Ok(()),
            false => Err(killed(&plan.program(), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::Host;
    use crate::plan::Handles;
    use crate::spawn::socket::socket_pair;
    use crate::spec::{NamespaceMode, Spec};

    fn sleeper() -> Child {
        Command::new("/bin/sleep").arg("60").spawn().unwrap()
    }

    /// Listens to a child that reports this sibling and closes its socket.
    fn reported_sibling(sibling: i32) -> Result<Option<i32>, Error> {
        let mut spec = Spec::bare("/bin/true");
        spec.namespaces.time = NamespaceMode::New;
        spec.time_offsets = Some("monotonic 7 0".parse().unwrap());
        let host = Host { capabilities: u64::MAX, ..Host::default() };
        let plan = Plan::on(&spec, &host, Handles::default()).unwrap();
        let step = plan.steps.iter().position(|step| matches!(step, Step::Clone(_))).unwrap();

        let mut first = sleeper();
        let pid = first.id() as i32;
        let mut processes = Processes { pid, first: Pidfd::open(pid).unwrap(), second: None };
        let (ours, theirs) = socket_pair(0).unwrap();
        let message = Message { tag: Message::CLONED, call: 0, step: step as u16, value: sibling };
        nix::unistd::write(&theirs, &message.to_bytes()).unwrap();
        drop(theirs);
        let heard = listen(&plan, &ours, &mut processes, &mut |_| Ok(()));
        first.kill().unwrap();
        first.wait().unwrap();
        heard.map(|_| processes.second.map(|(pid, _)| pid))
    }

    #[test]
    fn a_sibling_must_be_a_child_of_this_process() {
        let mut sibling = sleeper();
        let pid = sibling.id() as i32;
        assert_eq!(reported_sibling(pid).unwrap(), Some(pid));
        sibling.kill().unwrap();
        sibling.wait().unwrap();
        for forged in [1, std::process::id() as i32, nix::unistd::getppid().as_raw()] {
            let error = reported_sibling(forged).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{forged}: {error}");
        }
        assert!(reported_sibling(-1).is_err());
    }
}
