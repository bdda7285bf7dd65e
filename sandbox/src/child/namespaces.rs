//! Namespaces, and the processes of a start.

use ::core::ffi::{CStr, c_int, c_ulong};
use ::core::option::Option::{None, Some};
use ::core::result::Result::{Err, Ok};
use ::libc;

use super::context::ChildContext;
use super::file::write_file;
use super::report::{Message, send};
use super::sys::{
    Done, Fault, Run, clone_sibling, close, exit, inet_socket, keep_capabilities_of_any_user, read_byte,
    set_dumpable, set_effective_uid, set_ids, set_loopback_flags, setgroups, setns,
};
use crate::step::Call;

/// Exit status of a child that could not execute the program. The parent gets a message too.
pub(super) const EXIT_SETUP: c_int = 127;

/// Joins namespaces of these kinds (`CLONE_NEW*`).
pub(super) fn join(fd: c_int, kinds: u64) -> Done {
    setns(fd, kinds as c_int)
}

/// Denies setgroups(2), and maps one user id and one group id in the user namespace.
pub(super) fn map_self(uid_map: &CStr, gid_map: &CStr) -> Done {
    write_file(c"/proc/self/setgroups", c"deny")?;
    write_file(c"/proc/self/uid_map", uid_map)?;
    write_file(c"/proc/self/gid_map", gid_map)
}

/// Changes to the user that makes, and then owns, the next user namespace. Keeps all capabilities;
/// the new namespace resets the securebits.
pub(super) fn change_owner(uid: u32, shares_memory: bool) -> Done {
    keep_capabilities_of_any_user()?;
    set_effective_uid(uid)?;
    if shares_memory {
        // Another start can rely on the memory being undumpable, and no later step writes to /proc/self.
        return Ok(());
    }
    // The change of user made the process undumpable. The files of its /proc/self would belong to
    // root outside, and later steps write to them. Only processes of this user could trace it, and
    // there are none.
    set_dumpable()
}

/// Changes to ids of the new user namespace.
pub(super) fn become_owner(uid: u32, gid: u32, leave_groups: bool) -> Done {
    if leave_groups {
        match setgroups(&[]) {
            // setgroups(2) is denied in this user namespace, so that no process can leave a group.
            Err(fault) if fault.errno == libc::EPERM => {}
            other => other?,
        }
    }
    set_ids(uid, gid)
}

/// Reports to the parent that the child waits, and waits for a byte. Ends this process if the
/// parent closes its end.
pub(super) fn wait_for_parent(context: &ChildContext<'_>) -> Done {
    send(context.report, Message { tag: Message::WAITING, call: 0, step: context.step(), value: 0 })?;
    wait_on(context.report)
}

/// Waits until another thread of the parent has set the network limits. If it cannot set them, ends this process.
pub(super) fn wait_for_limits(context: &ChildContext<'_>) -> Done {
    wait_on(context.limits)
}

/// Waits for a byte from the parent. If the parent has closed its end, ends this process.
fn wait_on(socket: c_int) -> Done {
    match read_byte(socket)? {
        true => Ok(()),
        false => exit(EXIT_SETUP),
    }
}

/// Continues in a sibling process in new namespaces (`CLONE_NEW*`), and ends this process.
pub(super) fn clone_again<'a>(kinds: c_ulong, context: &mut ChildContext<'a>) -> Done
where
    ChildContext<'a>: Run,
{
    let Some(stack) = context.stack.take() else {
        return Err(Fault { call: Call::Clone3, errno: libc::ENOMEM });
    };
    let cgroup = if context.cgroup >= 0 { Some(context.cgroup) } else { None };
    // If memory is shared, the sibling changes the context.
    let (report, note, step, memory) = (context.report, context.note, context.step(), context.clone_memory());
    let pid = clone_sibling(kinds, memory, cgroup, stack, context)?;
    if let Err(fault) = send(report, Message { tag: Message::CLONED, call: 0, step, value: pid }) {
        if let Some(note) = note {
            note.fail(Message { tag: Message::FAILED, call: fault.call as u8, step, value: fault.errno });
        }
        exit(EXIT_SETUP)
    }
    exit(0)
}

/// Brings up the interface `lo`.
pub(super) fn loopback() -> Done {
    let socket = inet_socket()?;
    set_loopback_flags(socket, libc::IFF_UP | libc::IFF_RUNNING)?;
    close(socket);
    Ok(())
}
