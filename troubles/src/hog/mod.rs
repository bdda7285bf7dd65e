//! Victims and hogs, as one table of functions.

mod act;
mod calls;
mod children;
mod cpu;
mod disk;
mod forks;
mod memory;
mod net;
mod objects;
mod user;
mod walls;

use std::io;

pub use act::{DATA, Hog, Victim};
pub use children::child;
pub(crate) use walls::clock_offset;

/// A victim and a hog.
#[derive(Debug)]
pub struct Trouble {
    /// The name, as argument of `nspod-hog`.
    pub name: &'static str,
    /// Starts the attack. Returns when it is in full swing; its threads and objects remain.
    pub hog: fn() -> io::Result<Hog>,
    /// Prepares the victim.
    pub victim: fn() -> io::Result<Victim>,
}

/// All victims and hogs.
pub const TABLE: &[Trouble] = &[
    Trouble { name: "cpu", hog: cpu::hog, victim: cpu::victim },
    Trouble { name: "forks", hog: forks::hog, victim: forks::victim },
    Trouble { name: "memory", hog: memory::hog, victim: memory::victim },
    Trouble { name: "swap", hog: memory::swap_hog, victim: memory::swap_victim },
    Trouble { name: "page-cache", hog: memory::cache_hog, victim: memory::cache_victim },
    Trouble { name: "descriptors", hog: objects::descriptor_hog, victim: objects::descriptor_victim },
    Trouble { name: "disk-space", hog: disk::space_hog, victim: disk::space_victim },
    Trouble { name: "log-flood", hog: disk::log_hog, victim: disk::space_victim },
    Trouble { name: "inodes", hog: disk::inode_hog, victim: disk::inode_victim },
    Trouble { name: "egress", hog: net::stream_hog, victim: net::stream_victim },
    Trouble { name: "ingress", hog: net::stream_hog, victim: net::stream_victim },
    Trouble { name: "sockets", hog: net::port_hog, victim: net::port_victim },
    Trouble { name: "packets", hog: net::packet_hog, victim: net::packet_victim },
    Trouble { name: "connections", hog: net::connection_hog, victim: net::connection_victim },
    Trouble { name: "requests", hog: net::request_hog, victim: net::request_victim },
    Trouble { name: "signals", hog: walls::signal_hog, victim: walls::signal_victim },
    Trouble { name: "ptrace", hog: walls::ptrace_hog, victim: walls::ptrace_victim },
    Trouble { name: "proc-mem", hog: walls::memory_hog, victim: walls::memory_victim },
    Trouble { name: "shared-memory", hog: walls::shm_hog, victim: walls::shm_victim },
    Trouble { name: "abstract-sockets", hog: walls::abstract_hog, victim: walls::abstract_victim },
    Trouble { name: "path-sockets", hog: walls::path_hog, victim: walls::path_victim },
    Trouble { name: "files", hog: walls::file_hog, victim: walls::file_victim },
    Trouble { name: "clock", hog: walls::clock_hog, victim: walls::clock_victim },
    Trouble { name: "hostname", hog: walls::hostname_hog, victim: walls::hostname_victim },
    Trouble { name: "mounts", hog: walls::mount_hog, victim: walls::mount_victim },
    Trouble { name: "disk-rate", hog: disk::rate_hog, victim: disk::rate_victim },
    Trouble { name: "fsync", hog: disk::fsync_hog, victim: disk::fsync_victim },
    Trouble { name: "inotify", hog: user::inotify_hog, victim: user::inotify_victim },
    Trouble { name: "inotify-watches", hog: user::watch_hog, victim: user::watch_victim },
    Trouble { name: "fanotify", hog: user::fanotify_hog, victim: user::fanotify_victim },
    Trouble { name: "pipes", hog: user::pipe_hog, victim: user::pipe_victim },
    Trouble { name: "timers", hog: user::timer_hog, victim: user::timer_victim },
    Trouble { name: "message-queues", hog: user::queue_hog, victim: user::queue_victim },
    Trouble { name: "keys", hog: user::key_hog, victim: user::key_victim },
    Trouble { name: "locked-memory", hog: user::lock_hog, victim: user::lock_victim },
    Trouble { name: "processes", hog: user::process_hog, victim: user::process_victim },
    Trouble { name: "sent-descriptors", hog: user::flight_hog, victim: user::flight_victim },
    Trouble { name: "epoll", hog: user::epoll_hog, victim: user::epoll_victim },
    Trouble { name: "terminals", hog: user::terminal_hog, victim: user::terminal_victim },
    Trouble { name: "fanotify-marks", hog: user::mark_hog, victim: user::mark_victim },
    Trouble { name: "namespaces", hog: user::namespace_hog, victim: user::namespace_victim },
    Trouble { name: "io-uring", hog: user::ring_hog, victim: user::ring_victim },
    Trouble { name: "cgroups", hog: objects::cgroup_hog, victim: objects::cgroup_victim },
    Trouble { name: "datagrams", hog: net::datagram_hog, victim: net::datagram_victim },
    Trouble { name: "aio", hog: user::aio_hog, victim: user::aio_victim },
];

/// Returns the trouble with this name.
pub fn find(name: &str) -> Option<&'static Trouble> {
    TABLE.iter().find(|trouble| trouble.name == name)
}
