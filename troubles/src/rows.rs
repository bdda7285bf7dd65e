//! The table of troubles as data.

/// The pods of victim and hog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Two containers without a pod.
    Containers,
    /// Two containers in two pods. The limits are those of the pods, if pods have them.
    Pods,
    /// Two containers of one pod.
    OnePod,
}

impl Relation {
    /// All relations.
    pub const ALL: [Relation; 3] = [Relation::Containers, Relation::Pods, Relation::OnePod];

    /// Returns the name for people.
    pub fn name(self) -> &'static str {
        match self {
            Relation::Containers => "two containers",
            Relation::Pods => "two pods",
            Relation::OnePod => "one pod",
        }
    }
}

/// How a trouble is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A limit bounds the amount that the hog gets. The victim's progress is compared.
    Amount,
    /// The attack must fail. In the control, the hog is in the victim's namespace of this kind.
    Wall(&'static str),
    /// The attack must fail. In the control, the hog has an additional right.
    Right,
}

/// What the host needs for a row. It is undone at the end of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Nothing.
    Nothing,
    /// A directory of the disk, which both containers have as /run/data.
    Data,
    /// Swap of this many MiB.
    Swap(u64),
    /// A small ext4 with project quotas, which both containers have as /run/data.
    SmallDisk,
    /// Another value of a parameter below /proc/sys.
    Parameter(&'static str, &'static str),
    /// This many open files for the whole system beside those that are open already (`fs.file-max`).
    OpenFiles(u64),
}

/// One trouble.
///
/// In the flags, `{disk}` stands for the disk of the directory /run/data, `{logs}` for the host's path of the hog's
/// directory on the small disk, and `{user}` for a user of the row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The name, which selects the row and, in `nspod-hog`, the victim and the hog.
    pub name: &'static str,
    /// The hog's action and the victim's work, for people.
    pub about: &'static str,
    /// How it is bounded.
    pub kind: Kind,
    /// The bounding flag, or the default of nspod that does the same.
    pub flag: &'static str,
    /// The flags of `nspod run` for both containers.
    pub both: &'static [&'static str],
    /// The victim's flags.
    pub victim: &'static [&'static str],
    /// The hog's flags, with and without its limit.
    pub hog: &'static [&'static str],
    /// The hog's flags in the control without a limit or wall, beside those that follow from the kind.
    pub free: &'static [&'static str],
    /// The hog's flags with a limit of the cgroup, which are the flags of its pod between two pods.
    pub bound: &'static [&'static str],
    /// The hog's flags with a limit that only containers have.
    pub bound_run: &'static [&'static str],
    /// The victim's flags with a limit of the cgroup, if the victim's side has the limit.
    pub guard: &'static [&'static str],
    /// The option of the hog's directory with a limit.
    pub data_bound: &'static str,
    /// The limits that both containers share, as those of a small machine: file and value.
    pub machine: &'static [(&'static str, &'static str)],
    /// What the host needs.
    pub setup: Setup,
    /// Whether the hog runs in the background, to its end. Its output is its log.
    pub detached: bool,
    /// Whether both containers are in one network.
    pub network: bool,
    /// The relations for which the row is measured.
    pub relations: &'static [Relation],
    /// Whether a kernel without controllers of cgroup v2 can run it.
    pub host: bool,
    /// Whether it may be measured at the same time as other such rows.
    pub quiet: bool,
    /// How long a victim with work per second is measured, in seconds.
    pub seconds: f64,
    /// The missing feature of the kernel, if nothing bounds it.
    pub missing: Option<&'static str>,
}

impl Row {
    /// Returns a user whose objects no other row takes.
    pub(crate) fn user(&self) -> usize {
        41_000 + self.number()
    }

    /// Returns one of the relations, so that the rows of the table take turns.
    pub fn one_relation(&self) -> Relation {
        self.relations[self.number() % self.relations.len()]
    }

    fn number(&self) -> usize {
        ROWS.iter().take_while(|row| row.name != self.name).count()
    }
}

const ROW: Row = Row {
    name: "",
    about: "",
    kind: Kind::Amount,
    flag: "",
    both: &[],
    victim: &[],
    hog: &[],
    free: &[],
    bound: &[],
    bound_run: &[],
    guard: &[],
    data_bound: "",
    machine: &[],
    setup: Setup::Nothing,
    detached: false,
    network: false,
    relations: &Relation::ALL,
    host: false,
    quiet: false,
    seconds: 0.75,
    missing: None,
};

/// A row whose victim and hog do not compete for a processor.
const APART: Row = Row { victim: &["--cpuset-cpus", "0"], hog: &["--cpuset-cpus", "1"], ..ROW };

/// A row about objects that the kernel counts for each user. It runs as an ordinary user, who has smaller limits.
const USER: Row = Row {
    flag: "--userns auto",
    both: &["-u", "{user}"],
    bound: &["--userns", "auto"],
    guard: &["--userns", "auto"],
    host: true,
    quiet: true,
    ..ROW
};

/// A row about a wall, which any kernel has.
const WALL: Row = Row { host: true, quiet: true, ..ROW };

/// Returns the rows whose names contain one of these texts; all if there are none.
///
/// # Errors
/// The texts that no name contains.
pub fn select(texts: &[String]) -> Result<Vec<&'static Row>, Vec<String>> {
    let unknown = texts.iter().filter(|text| !ROWS.iter().any(|row| row.name.contains(text.as_str())));
    let unknown: Vec<String> = unknown.cloned().collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let is_wanted =
        |row: &&Row| texts.is_empty() || texts.iter().any(|text| row.name.contains(text.as_str()));
    Ok(ROWS.iter().filter(is_wanted).collect())
}

/// All rows.
pub const ROWS: &[Row] = &[
    Row {
        name: "cpu",
        about: "four threads spin; the victim counts on the same processor",
        flag: "--cpus 0.1",
        both: &["--cpuset-cpus", "0"],
        bound: &["--cpus", "0.1"],
        ..ROW
    },
    Row {
        name: "forks",
        about: "a fork bomb; the victim starts processes",
        flag: "--pids-limit 16",
        bound: &["--pids-limit", "16"],
        machine: &[("pids.max", "64")],
        ..ROW
    },
    Row {
        name: "memory",
        about: "eight processes hold more than the machine has; the victim holds 64 MiB",
        flag: "-m 64m --memory-swap 64m",
        bound: &["-m", "64m", "--memory-swap", "64m"],
        machine: &[("memory.max", "192M"), ("memory.swap.max", "0")],
        seconds: 0.5,
        ..ROW
    },
    Row {
        name: "swap",
        about: "processes fill the swap; the victim needs a part of it",
        flag: "-m 8m --memory-swap 8m",
        victim: &["-m", "8m"],
        free: &["-m", "8m"],
        bound: &["-m", "8m", "--memory-swap", "8m"],
        setup: Setup::Swap(16),
        seconds: 1.5,
        ..ROW
    },
    Row {
        name: "page-cache",
        about: "reads a file larger than the memory; the victim reads a small file again and again",
        flag: "-m 16m",
        bound: &["-m", "16m"],
        machine: &[("memory.max", "64M"), ("io.max", "{disk} rbps=33554432")],
        setup: Setup::Data,
        ..APART
    },
    Row {
        name: "disk-rate",
        about: "four threads write past the page cache; the victim does too",
        flag: "--device-write-bps DISK:1m",
        bound: &["--device-write-bps", "{disk}:1m"],
        machine: &[("io.max", "{disk} wbps=16777216")],
        setup: Setup::Data,
        ..ROW
    },
    Row {
        name: "fsync",
        about: "four threads write and call fdatasync(2); the victim does too",
        flag: "--device-write-iops DISK:4",
        bound: &["--device-write-iops", "{disk}:4"],
        machine: &[("io.max", "{disk} wiops=40")],
        setup: Setup::Data,
        ..ROW
    },
    Row {
        name: "descriptors",
        about: "opens files until the system has no more; the victim opens one",
        flag: "--ulimit nofile=64:64",
        bound_run: &["--ulimit", "nofile=64:64"],
        setup: Setup::OpenFiles(400),
        ..ROW
    },
    Row { name: "pipes", about: "takes the user's memory for pipes; the victim makes a large pipe", ..USER },
    Row { name: "inotify", about: "takes the user's inotify instances; the victim makes one", ..USER },
    Row {
        name: "inotify-watches",
        about: "takes the user's inotify watches; the victim adds one",
        setup: Setup::Parameter("user/max_inotify_watches", "2000"),
        host: false,
        ..USER
    },
    Row {
        name: "fanotify",
        about: "takes the user's fanotify groups; the victim makes one",
        both: &["-u", "{user}", "--security-opt", "seccomp=unconfined"],
        ..USER
    },
    Row {
        name: "keys",
        about: "takes the user's keys; the victim adds one",
        both: &["-u", "{user}", "--security-opt", "seccomp=unconfined"],
        ..USER
    },
    Row { name: "message-queues", about: "takes the user's message queues; the victim makes one", ..USER },
    Row {
        name: "timers",
        about: "takes the user's timers and queued signals; the victim makes a timer",
        both: &["-u", "{user}", "--ulimit", "sigpending=1000:1000"],
        ..USER
    },
    Row { name: "locked-memory", about: "takes the user's locked memory; the victim locks a page", ..USER },
    Row {
        name: "processes",
        about: "takes the user's processes; the victim starts a thread",
        both: &["-u", "{user}", "--ulimit", "nproc=50:50"],
        ..USER
    },
    Row {
        name: "sent-descriptors",
        about: "takes the user's descriptors in messages; the victim sends one",
        both: &["-u", "{user}", "--ulimit", "nofile=300:300"],
        ..USER
    },
    Row {
        name: "epoll",
        about: "watches files with epoll until the user may watch no more; the victim watches one",
        setup: Setup::Parameter("fs/epoll/max_user_watches", "20000"),
        host: false,
        ..USER
    },
    Row {
        name: "fanotify-marks",
        about: "takes the user's fanotify marks; the victim marks a file",
        both: &["-u", "{user}", "--security-opt", "seccomp=unconfined"],
        setup: Setup::Parameter("user/max_fanotify_marks", "300"),
        host: false,
        ..USER
    },
    Row {
        name: "namespaces",
        about: "takes the user's namespaces; the victim makes one",
        both: &["-u", "{user}", "--security-opt", "seccomp=unconfined"],
        setup: Setup::Parameter("user/max_uts_namespaces", "300"),
        host: false,
        ..USER
    },
    Row {
        name: "io-uring",
        about: "takes the memory that the user may pin with io_uring; the victim pins a page",
        both: &[
            "-u",
            "{user}",
            "--security-opt",
            "seccomp=unconfined",
            "--ulimit",
            "memlock=1048576:1048576",
        ],
        host: false,
        ..USER
    },
    Row {
        name: "terminals",
        about: "takes the host's terminals; the victim opens one",
        flag: "default: a container has at most 1024",
        hog: &["--ulimit", "nofile=8192:8192"],
        free: &["-v", "/dev/pts:/dev/pts:dev", "--cap-add", "dac_override"],
        ..ROW
    },
    Row {
        name: "cgroups",
        about: "makes cgroups in its own; the victim makes one in its own",
        flag: "--limit cgroup.max.descendants=10, default: the cgroup is read-only",
        both: &["--mount", "type=cgroup,target=/sys/fs/cgroup,readonly=false"],
        bound: &["--limit", "cgroup.max.descendants=10"],
        machine: &[("cgroup.max.descendants", "60")],
        ..ROW
    },
    Row {
        name: "datagrams",
        about: "fills the host's memory for datagrams; the victim sends one to itself",
        flag: "--max-sockets 20",
        bound: &["--max-sockets", "20"],
        setup: Setup::Parameter("net/ipv4/udp_mem", "4096 4096 4096"),
        ..ROW
    },
    Row {
        name: "disk-space",
        about: "fills the disk; the victim writes a file and removes it",
        flag: "-v DIR:DIR:size=8m, --storage-opt size=8m",
        setup: Setup::SmallDisk,
        data_bound: ":size=8m",
        relations: &[Relation::Containers, Relation::OnePod],
        ..ROW
    },
    Row {
        name: "log-flood",
        about: "prints 32 MiB to its log, on the victim's disk of 24 MiB; the victim writes a file and removes it",
        flag: "default of -d: --log-max-size 10m --log-max-files 3",
        setup: Setup::SmallDisk,
        detached: true,
        free: &["--log-file", "{logs}/log"],
        bound_run: &["--log-max-size", "1m"],
        ..ROW
    },
    Row {
        name: "inodes",
        about: "makes files until there are no more inodes; the victim makes one and removes it",
        flag: "-v DIR:DIR:inodes=50, --storage-opt inodes=50",
        setup: Setup::SmallDisk,
        data_bound: ":inodes=50",
        relations: &[Relation::Containers, Relation::OnePod],
        ..ROW
    },
    Row {
        name: "egress",
        about: "sends as much as the network takes; the victim sends 8 KiB 20 times a second and waits for answers",
        flag: "--egress-rate 2mbit",
        bound: &["--egress-rate", "2mbit"],
        machine: &[("net.egress.max", "1000000")],
        ..APART
    },
    Row {
        name: "ingress",
        about: "receives as much as the network takes; the victim sends 8 KiB to itself 20 times a second",
        flag: "--ingress-rate 2mbit",
        bound: &["--ingress-rate", "2mbit"],
        machine: &[("net.ingress.max", "1000000")],
        ..APART
    },
    Row {
        name: "sockets",
        about: "takes all ports of the network; the victim binds a socket",
        flag: "--max-sockets 20",
        bound: &["--max-sockets", "20"],
        setup: Setup::Parameter("net/ipv4/ip_local_port_range", "40000 40199"),
        network: true,
        relations: &[Relation::Containers, Relation::Pods],
        ..ROW
    },
    Row {
        name: "aio",
        about: "takes the host's events of asynchronous I/O; the victim takes one",
        flag: "none",
        missing: Some(
            "a limit of asynchronous I/O for each cgroup or user: fs.aio-max-nr counts the whole host",
        ),
        ..ROW
    },
    Row {
        name: "packets",
        about: "sends datagrams to the victim's server, which loses those of its own client",
        flag: "--packet-rate 20",
        bound: &["--packet-rate", "20"],
        network: true,
        ..APART
    },
    Row {
        name: "connections",
        about: "connects to the victim's server and says nothing; the victim's own client has to wait",
        flag: "--connect-rate 2",
        bound: &["--connect-rate", "2"],
        network: true,
        ..APART
    },
    Row {
        name: "requests",
        about: "sends requests, each of which costs the victim's server time, which the victim's own work lacks",
        flag: "--accept-rate 2 (the victim's)",
        guard: &["--accept-rate", "2"],
        network: true,
        ..APART
    },
    Row {
        name: "signals",
        about: "sends SIGUSR1 to the victim",
        kind: Kind::Wall("pid"),
        flag: "pid namespace (default)",
        ..WALL
    },
    Row {
        name: "ptrace",
        about: "traces the victim",
        kind: Kind::Wall("pid"),
        flag: "pid namespace (default)",
        ..WALL
    },
    Row {
        name: "proc-mem",
        about: "overwrites the victim's memory through /proc/PID/mem",
        kind: Kind::Wall("pid"),
        flag: "pid namespace (default)",
        ..WALL
    },
    Row {
        name: "shared-memory",
        about: "overwrites the victim's segment of System V shared memory",
        kind: Kind::Wall("ipc"),
        flag: "ipc namespace (default; in a pod --share without ipc)",
        ..WALL
    },
    Row {
        name: "abstract-sockets",
        about: "connects to the victim's abstract socket",
        kind: Kind::Wall("net"),
        flag: "net namespace (default; in a pod --share without net)",
        ..WALL
    },
    Row {
        name: "path-sockets",
        about: "connects to the victim's socket in /run",
        kind: Kind::Wall("mnt"),
        flag: "mnt namespace (default)",
        ..WALL
    },
    Row {
        name: "files",
        about: "overwrites the victim's file in /tmp",
        kind: Kind::Wall("mnt"),
        flag: "mnt namespace (default)",
        ..WALL
    },
    Row {
        name: "clock",
        about: "sets the clock of the machine",
        kind: Kind::Right,
        flag: "no CAP_SYS_TIME (default)",
        free: &["--cap-add", "sys_time"],
        host: false,
        quiet: false,
        ..WALL
    },
    Row {
        name: "hostname",
        about: "changes the victim's host name, with CAP_SYS_ADMIN",
        kind: Kind::Wall("uts"),
        flag: "uts namespace (default; in a pod --share without uts)",
        both: &["--cap-add", "sys_admin"],
        ..WALL
    },
    Row {
        name: "mounts",
        about: "mounts over the victim's /tmp, with CAP_SYS_ADMIN",
        kind: Kind::Wall("mnt"),
        flag: "mnt namespace (default)",
        both: &["--cap-add", "sys_admin"],
        ..WALL
    },
];
