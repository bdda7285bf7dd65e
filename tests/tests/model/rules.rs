//! The kernel's rules for operations on namespaces, from namespaces(7), unshare(2), setns(2), and the kernel's
//! source where the pages say nothing.
//!
//! All processes are root in their user namespace with every capability there, and have one thread. So a process
//! may do everything to objects that belong to its user namespace or to one below it, and nothing to others; see
//! [`World::may`].

use ns_core::{Kind, Kinds};

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Spawn { by: usize, kinds: Kinds },
    Unshare { who: usize, kinds: Kinds },
    Join { who: usize, whom: usize, kinds: Kinds },
    Exit { who: usize },
}

/// Index of a namespace in [`World::namespaces`]. The first eight are the host's.
type Ns = usize;

#[derive(Debug, Clone, Copy)]
struct NamespaceState {
    /// The user namespace that owns this namespace. For a user namespace, its parent.
    owner: Ns,
    /// For a pid namespace, its parent.
    parent: Ns,
    /// For a pid namespace: its first process has ended, and it accepts no further process.
    dead: bool,
}

#[derive(Debug, Clone, Copy)]
struct ProcessState {
    alive: bool,
    ns: [Ns; 8],
    /// Namespaces of its children, for pid and time.
    pid_for_children: Ns,
    time_for_children: Ns,
    /// The pid namespace whose first process this is.
    init_of: Option<Ns>,
}

#[derive(Debug)]
pub(crate) struct World {
    namespaces: Vec<NamespaceState>,
    processes: Vec<ProcessState>,
    /// Pid namespaces that have had a first process.
    begun: Vec<Ns>,
}

const USER: usize = Kind::User as usize;
const PID: usize = Kind::Pid as usize;
const TIME: usize = Kind::Time as usize;

impl World {
    /// Creates a world of one process in the host's namespaces.
    pub(crate) fn new() -> World {
        let ns = std::array::from_fn(|kind| kind);
        let host = NamespaceState { owner: USER, parent: PID, dead: false };
        let first =
            ProcessState { alive: true, ns, pid_for_children: PID, time_for_children: TIME, init_of: None };
        World { namespaces: vec![host; 8], processes: vec![first], begun: vec![PID] }
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|who| self.processes[*who].alive).collect()
    }

    /// Returns the kinds of which two processes share the namespace.
    pub(crate) fn shares(&self, one: usize, other: usize) -> Kinds {
        let (one, other) = (&self.processes[one].ns, &self.processes[other].ns);
        Kind::ALL.into_iter().filter(|kind| one[*kind as usize] == other[*kind as usize]).collect()
    }

    pub(crate) fn shares_with_host(&self, who: usize) -> Kinds {
        Kind::ALL
            .into_iter()
            .filter(|kind| self.processes[who].ns[*kind as usize] == *kind as usize)
            .collect()
    }

    /// Performs the operation, or returns the errno with which the kernel rejects it.
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), i32> {
        match *op {
            Op::Spawn { by, kinds } => self.spawn(by, kinds),
            Op::Unshare { who, kinds } => self.unshare(who, kinds),
            Op::Join { who, whom, kinds } => self.join(who, whom, kinds),
            Op::Exit { who } => {
                self.end(who);
                Ok(())
            }
        }
    }

    fn spawn(&mut self, by: usize, kinds: Kinds) -> Result<(), i32> {
        let mut child = self.processes[by];
        child.init_of = None;
        child.ns[PID] = child.pid_for_children;
        child.ns[TIME] = child.time_for_children;
        self.make(&mut child, self.processes[by], kinds)?;
        if kinds.contains_kind(Kind::Pid) {
            child.ns[PID] = child.pid_for_children;
        }
        if kinds.contains_kind(Kind::Time) {
            child.ns[TIME] = child.time_for_children;
        }
        if self.namespaces[child.ns[PID]].dead {
            return Err(libc::ENOMEM);
        }
        child.pid_for_children = child.ns[PID];
        if !self.begun.contains(&child.ns[PID]) {
            self.begun.push(child.ns[PID]);
            child.init_of = Some(child.ns[PID]);
        }
        self.processes.push(child);
        Ok(())
    }

    fn unshare(&mut self, who: usize, kinds: Kinds) -> Result<(), i32> {
        let mut process = self.processes[who];
        self.make(&mut process, self.processes[who], kinds)?;
        self.processes[who] = process;
        Ok(())
    }

    /// Creates namespaces, which belong to the new user namespace if there is one. New pid and time namespaces are
    /// for the children.
    fn make(&mut self, process: &mut ProcessState, maker: ProcessState, kinds: Kinds) -> Result<(), i32> {
        let user = match kinds.contains_kind(Kind::User) {
            true => self.namespaces.len(),
            false => maker.ns[USER],
        };
        if kinds.contains_kind(Kind::Pid) {
            // copy_pid_ns: the pid namespace for children must be the process's own. create_pid_namespace: the
            // owner of the parent must be the same user namespace or an ancestor.
            let upper = self.namespaces[maker.ns[PID]].owner;
            let below = user == self.namespaces.len() && self.is_within(maker.ns[USER], upper)
                || user < self.namespaces.len() && self.is_within(user, upper);
            if maker.pid_for_children != maker.ns[PID] || !below {
                return Err(libc::EINVAL);
            }
        }
        if kinds.contains_kind(Kind::User) {
            self.namespaces.push(NamespaceState { owner: maker.ns[USER], parent: USER, dead: false });
            process.ns[USER] = user;
        }
        for kind in (kinds - Kinds::USER).kinds() {
            let made = self.namespaces.len();
            self.namespaces.push(NamespaceState { owner: user, parent: maker.ns[PID], dead: false });
            match kind {
                Kind::Pid => process.pid_for_children = made,
                Kind::Time => process.time_for_children = made,
                _ => process.ns[kind as usize] = made,
            }
        }
        Ok(())
    }

    fn join(&mut self, who: usize, whom: usize, kinds: Kinds) -> Result<(), i32> {
        if kinds.is_empty() {
            return Err(libc::EINVAL);
        }
        let (process, other) = (self.processes[who], self.processes[whom]);
        let own = process.ns[USER];
        // Joining by pidfd requires the right to inspect the process. A single kind is joined through a descriptor
        // of the namespace.
        if kinds.kinds().count() > 1 && who != whom && !self.may(own, other.ns[USER]) {
            return Err(libc::EPERM);
        }
        // The same order as in the kernel's validate_nsset.
        for kind in
            [Kind::User, Kind::Mnt, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Cgroup, Kind::Net, Kind::Time]
        {
            let wanted = other.ns[kind as usize];
            let refused = match kind {
                _ if !kinds.contains_kind(kind) => None,
                Kind::User if wanted == own => Some(libc::EINVAL),
                Kind::User => (!self.may(own, wanted)).then_some(libc::EPERM),
                _ if !self.may(own, self.namespaces[wanted].owner) => Some(libc::EPERM),
                // A process can join a descendant pid namespace, and never an ancestor.
                Kind::Pid if !self.pid_below(wanted, process.ns[PID]) => Some(libc::EINVAL),
                _ => None,
            };
            if let Some(errno) = refused {
                return Err(errno);
            }
        }
        let process = &mut self.processes[who];
        for kind in kinds.kinds() {
            match kind {
                Kind::Pid => process.pid_for_children = other.ns[PID],
                _ => process.ns[kind as usize] = other.ns[kind as usize],
            }
        }
        if kinds.contains_kind(Kind::Time) {
            process.time_for_children = other.ns[TIME];
        }
        Ok(())
    }

    /// Ends all other processes of a pid namespace and of its descendants when its first process ends.
    fn end(&mut self, who: usize) {
        self.processes[who].alive = false;
        let Some(pid) = self.processes[who].init_of else { return };
        self.namespaces[pid].dead = true;
        for other in self.alive() {
            if self.pid_below(self.processes[other].ns[PID], pid) {
                self.end(other);
            }
        }
    }

    /// Returns whether a process of one user namespace has capabilities in another.
    fn may(&self, own: Ns, other: Ns) -> bool {
        self.is_within(other, own)
    }

    fn is_within(&self, mut user: Ns, upper: Ns) -> bool {
        while user != upper && user != USER {
            user = self.namespaces[user].owner;
        }
        user == upper
    }

    fn pid_below(&self, mut pid: Ns, upper: Ns) -> bool {
        while pid != upper && pid != PID {
            pid = self.namespaces[pid].parent;
        }
        pid == upper
    }
}
