//! Devices of the network and terminals, descriptors, capabilities, and the program.

use ::core::ffi::{CStr, c_char, c_int, c_void};
use ::core::iter::Iterator;
use ::core::matches;
use ::core::option::Option::Some;
use ::core::result::Result::{self, Err, Ok};
use ::libc;
use ::std::os::fd::AsRawFd;

use super::mount::new_mount;
use super::sys::{Done, Fault, call, close, drop, fstat, is_procfs_root, openat, openat2, prctl, write_all};
use super::{Loan, Message, send, set_slot, slot_fd};
use crate::step::{Call, Exec, SLOTS, Slot};

pub(super) fn loopback() -> Done {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { ::core::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    let socket = call!(Socket, libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
    call!(Ioctl, libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS, &raw const request)?;
    close(socket);
    Ok(())
}

/// Opens a terminal of the container's own `/dev/pts` (or of the host's, where the
/// container shares it), makes it the standard streams, and sends the other end to the
/// parent.
pub(super) fn terminal(rows: u16, columns: u16, owner: u32, loan: &mut Loan<'_>) -> Done {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let pts = slot_fd(loan, Slot::Pts);
    let main = match pts {
        -1 => openat(libc::AT_FDCWD, c"/dev/ptmx", flags, 0)?,
        pts => openat(pts, c"ptmx", flags, 0)?,
    };
    let ioctl = |fd: c_int, request: libc::Ioctl, argument: *const c_void| {
        call!(Ioctl, libc::SYS_ioctl, fd, request, argument)
    };
    let unlock: c_int = 0;
    ioctl(main, libc::TIOCSPTLCK, (&raw const unlock).cast())?;
    let line = ioctl(main, libc::TIOCGPTPEER, flags as usize as *const c_void)?;
    if rows > 0 {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        ioctl(line, libc::TIOCSWINSZ, (&raw const size).cast())?;
    }
    // An owner without a place in the user namespace is refused where it is become, in words.
    let _ = call!(Fchownat, libc::SYS_fchown, line, owner, u32::MAX);
    set_slot(loan, Slot::Terminal, line);
    let step = loan.next.wrapping_sub(1) as u16;
    send(loan.report, Message { tag: Message::TERMINAL, call: 0, step, value: 0 }, Some(main))?;
    close(main);
    for (from, to) in loan.fds.iter_mut() {
        if (0..=2).contains(to) {
            *from = line;
        }
    }
    Ok(())
}

/// Places the descriptors in two passes, so that no target covers a source that is still
/// wanted, and closes the rest for good.
pub(super) fn descriptors(loan: &mut Loan<'_>) -> Done {
    let above = loan.above;
    let lift = |fd: c_int| call!(Fcntl, libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, above);
    for (from, to) in loan.fds.iter_mut() {
        if from != to {
            *from = lift(*from)?;
        }
    }
    for (from, to) in loan.fds.iter() {
        if from != to {
            call!(Dup3, libc::SYS_dup3, *from, *to, 0)?;
        } else {
            call!(Fcntl, libc::SYS_fcntl, *to, libc::F_SETFD, 0)?;
        }
    }
    for (first, last) in loan.close {
        call!(CloseRange, libc::SYS_close_range, *first, *last, 0)?;
    }
    loan.slots = [-1; SLOTS];
    Ok(())
}

/// Makes the user the owner of the standard streams, but for devices, which others use too, and,
/// unless all are wanted, for files that are not open for writing.
pub(super) fn give_streams(uid: u32, all: bool) -> Done {
    for fd in 0..=2 {
        // There is none of this number.
        let Ok(stat) = fstat(fd) else { continue };
        let kind = stat.st_mode & libc::S_IFMT;
        if stat.st_uid == uid || kind == libc::S_IFCHR || kind == libc::S_IFBLK {
            continue;
        }
        if !all && (kind == libc::S_IFREG || kind == libc::S_IFDIR) {
            let flags = call!(Fcntl, libc::SYS_fcntl, fd, libc::F_GETFL)?;
            if flags & libc::O_ACCMODE == libc::O_RDONLY {
                continue;
            }
        }
        match call!(Fchown, libc::SYS_fchown, fd, uid, u32::MAX) {
            // An owner or a user whom the user namespace lacks, or a file system that is read-only.
            Err(fault) if matches!(fault.errno, libc::EINVAL | libc::EPERM | libc::EROFS) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

pub(super) fn keyring(name: &CStr) -> Done {
    const JOIN_SESSION_KEYRING: c_int = 1;
    const SETPERM: c_int = 5;
    // What a session keyring gives its possessor and its user, and to the user also leave to
    // find it, which a later process of the container joins it by.
    const PERMISSIONS: u32 = 0x3f1b_0000;
    let id = match call!(Keyctl, libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) {
        Ok(id) => id,
        Err(fault) if fault.errno == libc::ENOSYS => return Ok(()),
        Err(fault) => return Err(fault),
    };
    match call!(Keyctl, libc::SYS_keyctl, SETPERM, id, PERMISSIONS) {
        // Another user's that was found by its name.
        Err(fault) if fault.errno == libc::EACCES => Ok(()),
        other => other.map(drop),
    }
}

/// Writes a file of a procfs that can only be the kernel's: through a descriptor of its
/// root, along no mount on the way, so that nothing in the container can redirect the write.
pub(super) fn label(file: &CStr, text: &CStr) -> Done {
    let root = proc_root()?;
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
    let fd = openat2(root, file, libc::O_WRONLY | libc::O_CLOEXEC, resolve)?;
    close(root);
    let done = write_all(fd, text);
    close(fd);
    done
}

/// Opens the root of a procfs as `to`, for the stage. If it `enters` a pid namespace, a new procfs
/// would show another one.
pub(super) fn proc(to: c_int, enters: bool) -> Done {
    let root = if enters { proc_at_root()? } else { proc_root()? };
    if root == to {
        return call!(Fcntl, libc::SYS_fcntl, to, libc::F_SETFD, 0).map(drop);
    }
    call!(Dup3, libc::SYS_dup3, root, to, 0)?;
    close(root);
    Ok(())
}

/// The root of the container's procfs, or of one of our own where the container has none or
/// something else in its place.
fn proc_root() -> Result<c_int, Fault> {
    proc_at_root().or_else(|_| new_mount(c"proc", &[], 0))
}

/// The root of the procfs that is mounted on `/proc`.
pub(super) fn proc_at_root() -> Result<c_int, Fault> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let fd = openat(libc::AT_FDCWD, c"/proc", flags, 0)?;
    if is_procfs_root(fd)? {
        return Ok(fd);
    }
    close(fd);
    Err(Fault { call: Call::Fstatfs, errno: libc::ENODEV })
}

pub(super) fn drop_bounding(mask: u64) -> Done {
    for capability in 0..64u64 {
        if mask.checked_shr(capability as u32).is_some_and(|m| m & 1 == 1) {
            match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                // Beyond the last that this kernel has.
                Err(fault) if fault.errno == libc::EINVAL => return Ok(()),
                other => other?,
            }
        }
    }
    Ok(())
}

pub(super) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Done {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    call!(Capset, libc::SYS_capset, header.as_ptr(), data.as_ptr()).map(drop)
}

pub(super) fn ambient(mask: u64) -> Done {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for capability in 0..64u64 {
        if mask.checked_shr(capability as u32).is_some_and(|m| m & 1 == 1) {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)?;
        }
    }
    Ok(())
}

/// Becomes the program.
pub(super) fn execute(exec: &Exec, image: c_int) -> Done {
    let (argv, envp) = (exec.argv.as_ptr(), exec.envp.as_ptr());
    if let Some(file) = &exec.file {
        let file = if image >= 0 { image } else { file.as_raw_fd() };
        return call!(Execveat, libc::SYS_execveat, file, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH)
            .map(drop);
    }
    // As execvp(3): a directory that lacks the program is passed over, and one that holds
    // it without leave is remembered, in case nothing better follows.
    let mut worst = libc::ENOENT;
    for path in exec.candidates.iter() {
        let fault = match call!(Execve, libc::SYS_execve, path.as_ptr(), argv, envp) {
            Ok(_) => return Ok(()),
            Err(fault) => fault,
        };
        match fault.errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            errno => return Err(Fault { call: Call::Execve, errno }),
        }
    }
    Err(Fault { call: Call::Execve, errno: worst })
}
