//! The descriptors of one start: the files that this process opens for the child, and the tables
//! with which the child places and closes descriptors.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use ns_core::Kinds;

use crate::child::{ChildContext, PremadeParts};
use crate::error::Error;
use crate::hold::{self, Pipes};
use crate::init;
use crate::plan::{Hold, Plan, numbers};
use crate::spawn::socket::socket_pair;
use crate::spawn::stack::Stack;
use crate::spawn::stage::memory_file;
use crate::spawn::trees::open_tree;
use crate::step::{SLOTS, Step};

/// Namespaces and mounts that a pool has made for one start.
#[derive(Debug, Default)]
pub(crate) struct Premade {
    /// The namespaces, with their kinds. In the net namespace `lo` is up.
    pub(crate) namespaces: Vec<(OwnedFd, Kinds)>,
    /// The mounts for `/dev`, in the order of the plan's steps.
    pub(crate) dev: Vec<OwnedFd>,
}

/// Descriptors of this process for one start.
pub(super) struct Descriptors {
    pub(super) opened: Opened,
    pub(super) tables: Tables,
}

/// The numbers of the descriptors, for the child. A child that shares this process's memory uses the
/// tables until it has executed the program.
pub(super) struct Tables {
    /// Descriptors to place, each with its number in the parent and its number in the program.
    placed: Vec<(RawFd, RawFd)>,
    /// Ranges that no step needs. They are closed first.
    foreign: Vec<(u32, u32)>,
    /// Ranges to close after the descriptors have been placed.
    close: Vec<(u32, u32)>,
    trees: Vec<RawFd>,
    enter: Vec<(RawFd, u64)>,
    dev: Vec<RawFd>,
    extra: Extra,
}

/// Further descriptors that steps use before the descriptors are placed, or -1.
#[derive(Clone, Copy)]
pub(super) struct Extra {
    /// The cgroup for a second clone.
    pub(super) cgroup: RawFd,
    /// The socket of [`Step::AwaitLimits`].
    pub(super) limits: RawFd,
}

/// The descriptors that remain open in this process after the clone.
pub(super) struct ParentSide {
    /// This process's end of the socket.
    pub(super) socket: OwnedFd,
    /// The state that hooks get on standard input.
    pub(super) state: Option<File>,
    /// The memory of the stage.
    pub(super) blob: Option<File>,
}

/// The descriptors themselves.
pub(super) struct Opened {
    parent_end: OwnedFd,
    child_end: OwnedFd,
    pipes: Option<Pipes>,
    state: Option<File>,
    blob: Option<File>,
    /// The file of the embedded init, if only this start uses it.
    image: Option<OwnedFd>,
    /// Both ends of the pipe that the init copies to the log: its end and the program's.
    output: Option<(OwnedFd, OwnedFd)>,
    trees: Vec<OwnedFd>,
    premade: Premade,
}

impl Descriptors {
    /// Opens the files that the plan needs, and computes the tables.
    ///
    /// `init_files` are the exit file and `cgroup.kill`.
    pub(super) fn open(
        plan: &Plan,
        stdio: [RawFd; 3],
        init_files: [Option<&File>; 2],
        premade: Premade,
        extra: Extra,
    ) -> Result<Descriptors, Error> {
        let opened = Opened::open(plan, premade)?;
        let (placed, mut kept) = opened.targets(plan, stdio, init_files);
        let foreign = gaps(opened.needed(plan, &placed, &kept, extra));
        kept.extend(placed.iter().map(|(_, to)| *to));
        let namespaces = &opened.premade.namespaces;
        let tables = Tables {
            placed,
            foreign,
            close: gaps(kept),
            trees: opened.trees.iter().map(AsRawFd::as_raw_fd).collect(),
            enter: namespaces.iter().map(|(fd, kind)| (fd.as_raw_fd(), kind.bits())).collect(),
            dev: opened.premade.dev.iter().map(AsRawFd::as_raw_fd).collect(),
            extra,
        };
        Ok(Descriptors { opened, tables })
    }
}

impl Tables {
    /// Returns the context that the child borrows until it has executed the program.
    pub(super) fn context<'a>(
        &'a mut self,
        opened: &Opened,
        plan: &'a Plan,
        stack: &'a Stack,
    ) -> ChildContext<'a> {
        let steps = plan.dev.clone().filter(|_| !self.dev.is_empty()).unwrap_or_default();
        ChildContext {
            steps: &plan.steps,
            report: opened.child_end.as_raw_fd(),
            peer: opened.parent_end.as_raw_fd(),
            fds: &mut self.placed,
            foreign_fds: &self.foreign,
            close: &self.close,
            above: plan.above(),
            trees: &self.trees,
            stack: Some(stack.second()),
            cgroup: self.extra.cgroup,
            limits: self.extra.limits,
            shared: plan.shared_memory,
            note: Some(stack.note()),
            image: opened.image.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            state: opened.state.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            next: 0,
            umask: -1,
            entered: false,
            slots: [-1; SLOTS],
            premade: PremadeParts { enter: &self.enter, dev: &self.dev, steps },
        }
    }
}

impl Opened {
    fn open(plan: &Plan, premade: Premade) -> Result<Opened, Error> {
        // The number is above all descriptors of the program and of the stage or init before it.
        let above = plan.above();
        let (parent_end, child_end) = socket_pair(above)?;
        let pipes = match &plan.held {
            Some(Hold::At(directory)) => Some(Pipes::make(directory, &plan.steps)?),
            _ => None,
        };
        let state = if plan.spec.hooks.is_empty() { None } else { Some(memory_file(c"nspod-state", &[])?) };
        let blob = match (&plan.stage, &plan.held) {
            (Some(stage), Some(Hold::At(directory))) => Some(hold::stage_file(directory, &stage.blob)?),
            (Some(stage), _) => Some(memory_file(c"nspod-stage", &stage.blob)?),
            (None, _) => None,
        };
        let image = if executes_image(plan) { init::image_for_one(above)? } else { None };
        let output = plan.log.as_ref().map(|_| output_pipe()).transpose()?;
        let trees = plan.trees.iter().map(open_tree).collect::<Result<_, _>>()?;
        Ok(Opened { parent_end, child_end, pipes, state, blob, image, output, trees, premade })
    }

    /// Returns the kinds of namespaces that already exist, so that the clone need not make them.
    pub(super) fn premade_kinds(&self) -> Kinds {
        self.premade.namespaces.iter().fold(Kinds::empty(), |all, (_, kind)| all | *kind)
    }

    /// Returns this process's end of the socket.
    pub(super) fn parent_end(&self) -> &OwnedFd {
        &self.parent_end
    }

    /// Closes the descriptors that only the child needs.
    pub(super) fn after_clone(self) -> ParentSide {
        let Opened { parent_end, state, blob, .. } = self;
        ParentSide { socket: parent_end, state, blob }
    }

    /// Returns the descriptors to place (from, to), and the descriptors that keep their numbers.
    fn targets(
        &self,
        plan: &Plan,
        mut stdio: [RawFd; 3],
        [exit_file, kill_file]: [Option<&File>; 2],
    ) -> (Vec<(RawFd, RawFd)>, Vec<RawFd>) {
        if let Some((_, program)) = &self.output {
            stdio[1..].fill(program.as_raw_fd());
        }
        let mut placed: Vec<(RawFd, RawFd)> = stdio.into_iter().zip(0..).collect();
        placed.extend(plan.inherited.iter().map(|(from, to)| (from.as_raw_fd(), *to)));
        let high = plan.highest_fd();
        let mut place = |fd: Option<RawFd>, number| placed.extend(fd.map(|fd| (fd, high + number)));
        if executes_image(plan) {
            place(Some(self.child_end.as_raw_fd()), numbers::REPORT);
        }
        if plan.spec.has_init() {
            place(exit_file.map(AsRawFd::as_raw_fd), numbers::EXIT);
            place(kill_file.map(AsRawFd::as_raw_fd), numbers::KILL);
        }
        if let (Some((init, _)), Some(log)) = (&self.output, &plan.log) {
            let log = std::iter::once(init.as_raw_fd()).chain(log.fds());
            log.zip(numbers::OUTPUT..).for_each(|(fd, number)| place(Some(fd), number));
        }
        if let Some(blob) = &self.blob {
            place(Some(blob.as_raw_fd()), numbers::BLOB);
            place(self.pipes.as_ref().map(|pipes| pipes.go.as_raw_fd()), numbers::GO);
            place(self.pipes.as_ref().map(|pipes| pipes.report.as_raw_fd()), numbers::LATE);
            place(self.state.as_ref().map(AsRawFd::as_raw_fd), numbers::STATE);
        }
        let mut kept = vec![self.child_end.as_raw_fd()];
        let image = self.image.as_ref().map(AsRawFd::as_raw_fd);
        for step in &plan.steps {
            let (Step::Exec(exec) | Step::Stage(exec)) = step else { continue };
            let file = exec.file.as_ref().map(|file| image.unwrap_or(file.as_raw_fd()));
            match step {
                Step::Exec(_) if self.blob.is_some() => place(file, numbers::IMAGE),
                _ => kept.extend(file),
            }
        }
        (placed, kept)
    }

    /// Returns the descriptors that steps use before the descriptors are placed. The target numbers
    /// are not among them: the caller can have other files with these numbers.
    fn needed(&self, plan: &Plan, placed: &[(RawFd, RawFd)], kept: &[RawFd], extra: Extra) -> Vec<RawFd> {
        let mut needed: Vec<RawFd> =
            placed.iter().map(|(from, _)| *from).chain(kept.iter().copied()).collect();
        needed.extend(self.state.as_ref().map(AsRawFd::as_raw_fd));
        needed.extend(self.trees.iter().map(AsRawFd::as_raw_fd));
        needed.extend(plan.steps.iter().filter_map(|step| match step {
            Step::JoinFd { ns, .. } => Some(ns.as_raw_fd()),
            Step::JoinPidfd { pidfd, .. } => Some(pidfd.as_raw_fd()),
            Step::EnterRoot(root) => Some(root.as_raw_fd()),
            _ => None,
        }));
        needed.extend([extra.cgroup, extra.limits]);
        needed.extend(self.premade.namespaces.iter().map(|(fd, _)| fd.as_raw_fd()));
        needed.extend(self.premade.dev.iter().map(AsRawFd::as_raw_fd));
        // -1 means that there is no such descriptor.
        needed.retain(|fd| *fd >= 0);
        needed
    }
}

/// Makes the pipe from the program to the init. Reading from it does not block the init.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let failed = |call| move |e: Errno| Error::call("process", "make the pipe of the log", call, e as i32);
    let (init, program) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe2"))?;
    fcntl(&init, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed("fcntl"))?;
    Ok((init, program))
}

/// Returns whether the stage or the embedded init is executed.
fn executes_image(plan: &Plan) -> bool {
    plan.stage.is_some() || plan.spec.has_init()
}

/// Returns the ranges between these descriptors.
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
    fn gaps_cover_all_descriptors_that_are_not_kept() {
        assert_eq!(gaps(vec![2, 0, 1, 9, 5, 1]), [(3, 4), (6, 8), (10, u32::MAX)]);
        assert_eq!(gaps(vec![4]), [(0, 3), (5, u32::MAX)]);
    }
}
