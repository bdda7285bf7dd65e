//! What the kernel's rules say will happen: namespaces(7), unshare(2), setns(2), and where
//! these are silent, the kernel's source.
//!
//! All processes are root in their user namespace, with every capability there, and have one
//! thread. So whoever is in a user namespace may do everything to what belongs to it or to one
//! below it, and nothing else; that is [`World::may`].

use ns_core::{Kind, Kinds};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Spawn { by: usize, kinds: Kinds },
    Unshare { who: usize, kinds: Kinds },
    Join { who: usize, whom: usize, kinds: Kinds },
    Exit { who: usize },
}

/// A namespace, by its place in [`World::namespaces`]. The first eight are the host's.
type Ns = usize;

#[derive(Debug, Clone, Copy)]
struct Namespace {
    /// The user namespace that it belongs to; its own parent, for a user namespace.
    owner: Ns,
    /// For a pid namespace: the one above.
    parent: Ns,
    /// For a pid namespace: its first process has ended, and it takes no more.
    dead: bool,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    alive: bool,
    ns: [Ns; 8],
    /// Where its children go: pid and time.
    pid_for_children: Ns,
    time_for_children: Ns,
    /// The pid namespace that it is the first process of.
    init_of: Option<Ns>,
}

#[derive(Debug)]
pub(crate) struct World {
    namespaces: Vec<Namespace>,
    processes: Vec<Process>,
    /// Pid namespaces that have had a first process.
    begun: Vec<Ns>,
}

const USER: usize = Kind::User as usize;
const PID: usize = Kind::Pid as usize;
const TIME: usize = Kind::Time as usize;

impl World {
    /// One process, all in the host's.
    pub(crate) fn new() -> World {
        let ns = std::array::from_fn(|kind| kind);
        let host = Namespace { owner: USER, parent: PID, dead: false };
        let first =
            Process { alive: true, ns, pid_for_children: PID, time_for_children: TIME, init_of: None };
        World { namespaces: vec![host; 8], processes: vec![first], begun: vec![PID] }
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|who| self.processes[*who].alive).collect()
    }

    /// The kinds of which two processes have the same namespace.
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

    /// Does it, unless the kernel's rules say with which errno it fails.
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

    /// New namespaces, which belong to the new user namespace if one is among them. Those of
    /// pid and time are for the children.
    fn make(&mut self, process: &mut Process, maker: Process, kinds: Kinds) -> Result<(), i32> {
        let user = match kinds.contains_kind(Kind::User) {
            true => self.namespaces.len(),
            false => maker.ns[USER],
        };
        if kinds.contains_kind(Kind::Pid) {
            // copy_pid_ns: only one that is for children already goes no deeper. And
            // create_pid_namespace: only below what belongs to the same or an upper user.
            let upper = self.namespaces[maker.ns[PID]].owner;
            let below = user == self.namespaces.len() && self.is_within(maker.ns[USER], upper)
                || user < self.namespaces.len() && self.is_within(user, upper);
            if maker.pid_for_children != maker.ns[PID] || !below {
                return Err(libc::EINVAL);
            }
        }
        if kinds.contains_kind(Kind::User) {
            self.namespaces.push(Namespace { owner: maker.ns[USER], parent: USER, dead: false });
            process.ns[USER] = user;
        }
        for kind in (kinds - Kinds::USER).kinds() {
            let made = self.namespaces.len();
            self.namespaces.push(Namespace { owner: user, parent: maker.ns[PID], dead: false });
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
        // By pidfd one must be allowed to look at the process. (One kind alone goes by a
        // descriptor of the namespace.)
        if kinds.kinds().count() > 1 && who != whom && !self.may(own, other.ns[USER]) {
            return Err(libc::EPERM);
        }
        // The order of the kernel's validate_nsset.
        for kind in
            [Kind::User, Kind::Mnt, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Cgroup, Kind::Net, Kind::Time]
        {
            let wanted = other.ns[kind as usize];
            let refused = match kind {
                _ if !kinds.contains_kind(kind) => None,
                Kind::User if wanted == own => Some(libc::EINVAL),
                Kind::User => (!self.may(own, wanted)).then_some(libc::EPERM),
                _ if !self.may(own, self.namespaces[wanted].owner) => Some(libc::EPERM),
                // Down the tree of pid namespaces, and never up.
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

    /// With the first process of a pid namespace end all others, there and below.
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

    /// Whether a process of one user namespace has its capabilities in another.
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
