//! The program's descriptors and its terminal.

use ::core::matches;
use ::core::result::Result::{Err, Ok};
use ::libc;

use super::context::ChildContext;
use super::report::{Message, send_with};
use super::sys::{
    Done, chown_user, close, close_range, dup_above, dup3, fstat, keep_on_exec, open_flags,
    open_terminal_peer, openat, set_terminal_size, unlock_terminal,
};
use crate::step::{SLOTS, Slot};

/// Opens a terminal and makes it the standard streams. The parent gets the other side. The terminal
/// is in the container's `/dev/pts`, or in the host's if the container shares that.
pub(super) fn terminal(rows: u16, columns: u16, owner: u32, context: &mut ChildContext<'_>) -> Done {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let main = match context.slot(Slot::Pts) {
        -1 => openat(libc::AT_FDCWD, c"/dev/ptmx", flags, 0)?,
        pts => openat(pts, c"ptmx", flags, 0)?,
    };
    unlock_terminal(main)?;
    let terminal = open_terminal_peer(main, flags)?;
    if rows > 0 {
        set_terminal_size(terminal, rows, columns)?;
    }
    // If the owner is not mapped in the user namespace, a later step fails with a clearer error.
    let _ = chown_user(terminal, owner);
    context.set_slot(Slot::Terminal, terminal);
    let message = Message { tag: Message::TERMINAL, call: 0, step: context.step(), value: 0 };
    send_with(context.report, message, main)?;
    close(main);
    for (from, to) in context.fds.iter_mut() {
        if (0..=2).contains(to) {
            *from = terminal;
        }
    }
    Ok(())
}

/// Places the descriptors and closes all others. There are two passes, so that a target never
/// replaces a source that is still needed.
pub(super) fn descriptors(context: &mut ChildContext<'_>) -> Done {
    context.restore_umask();
    for (from, to) in context.fds.iter_mut() {
        if from != to {
            *from = dup_above(*from, context.above)?;
        }
    }
    for (from, to) in context.fds.iter() {
        if from != to {
            dup3(*from, *to)?;
        } else {
            keep_on_exec(*to)?;
        }
    }
    for (first, last) in context.close {
        close_range(*first, *last, 0)?;
    }
    context.slots = [-1; SLOTS];
    Ok(())
}

/// Makes the user the owner of the standard streams. Devices are excluded, because other programs
/// use them too. Unless `all` is set, files that are open only for reading are excluded too.
pub(super) fn give_streams(uid: u32, all: bool) -> Done {
    for fd in 0..=2 {
        // The program has no descriptor with this number.
        let Ok(stat) = fstat(fd) else { continue };
        let kind = stat.st_mode & libc::S_IFMT;
        if stat.st_uid == uid || kind == libc::S_IFCHR || kind == libc::S_IFBLK {
            continue;
        }
        let is_file = kind == libc::S_IFREG || kind == libc::S_IFDIR;
        if !all && is_file && open_flags(fd)? & libc::O_ACCMODE == libc::O_RDONLY {
            continue;
        }
        match chown_user(fd, uid) {
            // The owner or the user is not mapped in the user namespace, or the file system is
            // read-only.
            Err(fault) if matches!(fault.errno, libc::EINVAL | libc::EPERM | libc::EROFS) => {}
            other => other?,
        }
    }
    Ok(())
}
