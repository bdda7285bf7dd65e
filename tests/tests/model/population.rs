//! Real processes that perform the operations of the model.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt::PeerCredentials};
use ns_core::{Namespace, NamespaceSet, Pidfd};
use nspod_sandbox::{Command, Container, Stdio};
use nspod_tests::{Orders, PATIENCE, probe};
use tempfile::TempDir;

use crate::rules::{Op, World};

struct Member {
    pidfd: Pidfd,
    orders: Orders,
}

/// The processes in the order of their creation. All are in the cgroup of the first, and end with it.
pub(crate) struct Population {
    members: Vec<Option<Member>>,
    listener: UnixListener,
    _first: Container,
    _dir: TempDir,
}

impl Population {
    pub(crate) fn new() -> Population {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut command = Command::from_spec(nspod_sandbox::spec::Spec::bare(probe()));
        command.arg("member").arg(&path).stdin(Stdio::Null);
        let first = command.spawn().expect("the first process");
        let mut population = Population { members: Vec::new(), listener, _first: first, _dir: dir };
        population.welcome();
        population
    }

    /// Adds a new process.
    fn welcome(&mut self) {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(PATIENCE).expect("short enough");
        assert_eq!(poll(&mut fds, timeout), Ok(1), "no new process in time");
        let (stream, _) = self.listener.accept().expect("a connection");
        let pid = getsockopt(&stream, PeerCredentials).expect("its pid").pid();
        let pidfd = Pidfd::open(pid).expect("the process");
        let to = OwnedFd::from(stream.try_clone().expect("a descriptor"));
        self.members.push(Some(Member { pidfd, orders: Orders::new(to, OwnedFd::from(stream)) }));
    }

    fn member(&mut self, who: usize) -> &mut Member {
        self.members[who].as_mut().expect("a process that lives")
    }

    /// Returns the namespaces of every living process, exactly one of each kind.
    pub(crate) fn look(&self) -> Vec<(usize, NamespaceSet)> {
        let members = self.members.iter().enumerate();
        let alive = members.filter_map(|(who, member)| Some((who, member.as_ref()?)));
        alive
            .map(|(who, member)| (who, NamespaceSet::of_pidfd(&member.pidfd).expect("its namespaces")))
            .collect()
    }

    /// Performs the operation. The world after the operation tells which processes it ends.
    pub(crate) fn apply(&mut self, op: &Op, after: &World) -> Result<(), i32> {
        match *op {
            Op::Spawn { by, kinds } => {
                self.order(by, &format!("spawn {kinds}"), None)?;
                self.welcome();
            }
            Op::Unshare { who, kinds } => self.order(who, &format!("unshare {kinds}"), None)?,
            Op::Join { who, whom, kinds } => {
                let other = &self.member(whom).pidfd;
                let one: Vec<_> = kinds.kinds().collect();
                let (order, fd) = match one[..] {
                    [kind] => ("enter", Namespace::of_pidfd(other, kind).expect("a namespace").into()),
                    _ => ("join", Pidfd::open(other.pid().expect("a pid")).expect("a pidfd").into()),
                };
                self.order(who, &format!("{order} {kinds}"), Some(fd))?;
            }
            Op::Exit { who } => {
                self.member(who).pidfd.send_signal(libc::SIGKILL).expect("a process to kill");
                let alive = after.alive();
                for gone in (0..self.members.len()).filter(|who| !alive.contains(who)) {
                    if let Some(member) = self.members[gone].take() {
                        let ended = member.pidfd.poll(Some(PATIENCE)).expect("a pidfd to wait for");
                        assert!(ended, "process {gone} lives on");
                    }
                }
            }
        }
        Ok(())
    }

    fn order(&mut self, who: usize, line: &str, fd: Option<OwnedFd>) -> Result<(), i32> {
        let orders = &mut self.member(who).orders;
        let line = format!("{line}\n");
        let raw = fd.as_ref().map(|fd| [fd.as_raw_fd()]);
        let rights: Vec<_> = raw.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
        let iov = [IoSlice::new(line.as_bytes())];
        sendmsg::<()>(orders.to().as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(|_| nspod_tests::GONE)?;
        orders.answer().map(drop)
    }
}
