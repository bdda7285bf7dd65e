//! The child's side of a start: performs the steps in order, between clone3 and execve.
//!
//! This code may share its memory with a program that has any number of threads, and any of these
//! threads may be inside malloc at the time of the clone. Therefore this code allocates nothing,
//! acquires no lock, never panics, never returns, and leaves only through execve or `_exit`. It
//! passes prepared data to the kernel. The lints below (with the list in `clippy.toml`), the
//! missing prelude, and tests with a trapping allocator check these rules.
//!
//! If a step fails, the child sends a record of eight bytes, [`Message`]. The parent has the plan,
//! and converts the record to an error message.
//!
//! | module | contents |
//! |---|---|
//! | `context` | data that the parent prepares for the child |
//! | `sys` | one function for each system call; all unsafe code |
//! | `report` | messages to the parent |
//! | `namespaces`, `root`, `mount`, `path`, `file`, `copy` | steps about namespaces and files |
//! | `identity`, `streams`, `program` | steps about the program |
//! | `procfs` | a process that only makes a mount |
//! | `watch` | the start of the watcher |

#![no_implicit_prelude]
#![deny(
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

use ::core::ffi::c_int;
use ::core::iter::Iterator;
use ::core::option::Option::{self, Some};
use ::core::result::Result::{self, Err, Ok};
use ::libc;
use ::std::os::fd::{AsRawFd, OwnedFd};

pub(crate) use self::context::{ChildContext, PremadeParts};
use self::file::{write_beneath, write_file};
use self::identity::{ambient, bounding, capabilities, credentials, io_priority, keyring, label, proc};
use self::mount::{console, make_ready, mask, mount, place, private, propagation, read_only};
use self::namespaces::{
    EXIT_SETUP, become_owner, change_owner, clone_again, join, loopback, map_self, wait_for_limits,
    wait_for_parent,
};
use self::path::{directory, file, new_directory, node, symlink};
pub(crate) use self::procfs::Procfs;
use self::program::{execute, hook};
use self::report::send;
pub(crate) use self::report::{Message, Note, SharedNote};
use self::root::{change_root, enter_directory, enter_directory_as_user, enter_root, pivot_root};
use self::streams::{descriptors, give_streams, terminal};
use self::sys::{Done, Fault, close, close_range, default_signals, exit};
pub(crate) use self::sys::{End, Run, SecondStack, default_signal, enter, inherit_nothing, mount_setattr};
pub(crate) use self::watch::Watch;
use crate::step::{Call, Slot, Step};

mod context;
mod copy;
mod file;
mod identity;
mod mount;
mod namespaces;
mod path;
mod procfs;
mod program;
mod report;
mod root;
mod streams;
mod sys;
mod watch;

impl Run for ChildContext<'_> {
    fn run(&mut self) -> ! {
        match self.next {
            0 => begin(self),
            // This is the process of Step::Clone. It has the first process's descriptors.
            _ => close(self.cgroup),
        }
        perform_all(self)
    }
}

/// Resets signal actions, closes descriptors that no step needs, and enters the namespaces of a pool.
fn begin(context: &mut ChildContext<'_>) {
    default_signals();
    // With this copy open, the child's socket would not see the end of the parent.
    close(context.peer);
    for (first, last) in context.foreign_fds {
        let _ = close_range(*first, *last, 0);
    }
    for (namespace, kind) in context.premade.enter {
        if let Err(fault) = join(*namespace, *kind) {
            fail(fault, PremadeParts::STEP, context)
        }
    }
}

fn perform_all(context: &mut ChildContext<'_>) -> ! {
    let steps = context.steps;
    while let Some(step) = steps.get(context.next) {
        let at = context.next;
        context.next = at.wrapping_add(1);
        let done = match context.premade.steps.start <= at && at < context.premade.steps.end {
            true => place_ready(step, context),
            false => perform(step, context),
        };
        if let Err(fault) = done {
            fail(fault, context.step(), context)
        }
    }
    exit(EXIT_SETUP)
}

/// Reports the failed step, and ends this process.
fn fail(fault: Fault, step: u16, context: &ChildContext<'_>) -> ! {
    let message = Message { tag: Message::FAILED, call: fault.call as u8, step, value: fault.errno };
    if let Some(note) = context.note {
        note.fail(message);
    }
    let _ = send(context.report, message);
    exit(EXIT_SETUP)
}

/// Attaches the mount of a step that a pool has already performed.
fn place_ready(step: &Step, context: &mut ChildContext<'_>) -> Done {
    match (step, context.premade.dev.split_first()) {
        (Step::Mount(step), Some((fd, rest))) => {
            context.premade.dev = rest;
            place(step, *fd, context)
        }
        _ => Ok(()),
    }
}

/// Brings up `lo` and performs steps in a thread of this process. Mounts are made but not attached,
/// and stored in `mounts`: see [`perform_ahead`](crate::spawn::perform_ahead).
///
/// # Errors
/// The index of the failed step, the call and the errno.
pub(crate) fn ahead(steps: &[Step], mounts: &mut [Option<OwnedFd>]) -> Result<(), (usize, Call, c_int)> {
    if let Err(fault) = loopback() {
        return Err((steps.len(), fault.call, fault.errno));
    }
    let mut context = ChildContext::of_steps(steps);
    context.clear_umask();
    let mut mounts = mounts.iter_mut();
    let mut done = Ok(());
    for (step, at) in steps.iter().zip(0..) {
        let performed = match step {
            Step::Mount(step) => make_ready(step, &mut context).map(|fd| {
                if let Some(mount) = mounts.next() {
                    *mount = Some(fd);
                }
            }),
            step => perform(step, &mut context),
        };
        if let Err(fault) = performed {
            done = Err((at, fault.call, fault.errno));
            break;
        }
    }
    // The thread makes cgroups too, with the caller's umask.
    context.restore_umask();
    done
}

/// Performs a step.
fn perform(step: &Step, context: &mut ChildContext<'_>) -> Done {
    match step {
        Step::JoinFd { kind, ns, .. } => join(ns.as_raw_fd(), kind.clone_flag()),
        Step::JoinPidfd { kinds, pidfd, .. } => join(pidfd.as_raw_fd(), kinds.bits()),
        Step::Owner(uid) => change_owner(*uid, context.shared),
        Step::Unshare(kinds) => sys::unshare(kinds.bits()),
        Step::MapSelf { uid_map, gid_map } => map_self(uid_map, gid_map),
        Step::AwaitMaps | Step::Ready => wait_for_parent(context),
        Step::AwaitLimits => wait_for_limits(context),
        Step::Become { uid, gid, leave_groups } => become_owner(*uid, *gid, *leave_groups),
        Step::TimeOffsets(text) => write_file(c"/proc/self/timens_offsets", text),
        Step::Undumpable => sys::set_undumpable(),
        Step::Clone(kinds) => clone_again(kinds.bits(), context),
        Step::Setsid => sys::setsid(),
        Step::Propagation(flags) => propagation(*flags, context),
        Step::Mount(step) => mount(step, context),
        Step::Private(path) => private(path),
        Step::Node { dest, mode, device, owner } => node(dest, *mode, *device, *owner, context),
        Step::File { slot, name } => file(*slot, name, context),
        Step::Symlink { dest, target } => symlink(dest, target, context),
        Step::Mkdir { slot, name, mode, owner } => new_directory(*slot, name, *mode, *owner, context),
        Step::Directory(dest) => directory(dest, context),
        Step::Mask(dest) => mask(dest, context),
        Step::ReadOnly(dest) => read_only(dest, context),
        Step::Sysctl { path, value } => sysctl(path, value, context),
        Step::PivotRoot { readonly, shared } => pivot_root(*readonly, *shared, context),
        Step::ChangeRoot { over, readonly, hide } => change_root(*over, *readonly, hide, context),
        Step::EnterRoot(root) => enter_root(root.as_raw_fd()),
        Step::Terminal { rows, columns, owner } => terminal(*rows, *columns, *owner, context),
        Step::ControllingTerminal => sys::set_controlling_terminal(0),
        Step::Console(dest) => console(dest, context),
        Step::Hostname(name) => sys::sethostname(name),
        Step::Domainname(name) => sys::setdomainname(name),
        // In a pool's net namespace `lo` is already up.
        Step::Loopback if !context.premade.enter.is_empty() => Ok(()),
        Step::Loopback => loopback(),
        Step::Rlimit(limit) => sys::prlimit(limit.resource, &[limit.soft, limit.hard]),
        Step::OomScoreAdj(value) => write_file(c"/proc/self/oom_score_adj", value),
        Step::Descriptors => descriptors(context),
        Step::GiveStreams { uid, all } => give_streams(*uid, *all),
        Step::Umask(mask) => set_umask(*mask),
        Step::Keyring(name) => keyring(name),
        Step::Scheduler(attributes) => sys::sched_setattr(attributes),
        Step::IoPriority { class, level } => io_priority(*class, *level),
        Step::Affinity { mask, .. } => sys::sched_setaffinity(mask),
        Step::Personality(domain) => sys::personality(*domain),
        Step::MemoryPolicy { mode, mask, .. } => sys::set_mempolicy(*mode as c_int, mask),
        Step::Label { lsm, text } => label(lsm.file(), text),
        Step::Proc { to, enters } => proc(*to, *enters),
        Step::DropBounding(mask) => bounding(*mask),
        Step::KeepCapabilities => sys::keep_capabilities(),
        Step::Credentials { uid, gid, groups } => credentials(*uid, *gid, groups.as_deref()),
        Step::Chdir { path, again } => enter_directory(path, *again, context),
        Step::ChdirAsUser(path) => enter_directory_as_user(path, context),
        Step::Capabilities { effective, permitted, inheritable } => {
            capabilities(*effective, *permitted, *inheritable)
        }
        Step::Ambient(mask) => ambient(*mask),
        Step::NoNewPrivs => sys::no_new_privileges(),
        Step::Seccomp { filter, flags } => sys::seccomp(filter, *flags as u32),
        Step::Signals => sys::unblock_signals(),
        Step::Hook(step) => hook(step, context),
        Step::Stage(exec) | Step::Exec(exec) => execute(exec, context),
        // The stage performs these steps: a held container always has a stage.
        Step::Hold | Step::Started => Ok(()),
    }
}

/// Writes a file of the procfs that the child has mounted. Follows no link.
fn sysctl(path: &::core::ffi::CStr, value: &::core::ffi::CStr, context: &ChildContext<'_>) -> Done {
    write_beneath(context.slot(Slot::Proc), path, value, libc::RESOLVE_NO_SYMLINKS)
}

fn set_umask(mask: u32) -> Done {
    sys::umask(mask as c_int);
    Ok(())
}
