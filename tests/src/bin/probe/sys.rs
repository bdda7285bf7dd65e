//! System calls for which no crate has a safe function.
#![allow(unsafe_code)]

use std::io::{Error, Result};

/// Forks. Returns `None` in the child.
pub(crate) fn fork() -> Result<Option<i32>> {
    // SAFETY: this process has one thread, so no lock is held by another.
    match check(unsafe { libc::fork() })? {
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Tries to set an invalid length of the clock tick. The call fails with EPERM without the right to set the clock, and
/// with EINVAL otherwise, so it never changes a clock.
pub(crate) fn set_tick() -> Result<i32> {
    // SAFETY: all zeroes is a value of this plain struct.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = libc::ADJ_TICK;
    // SAFETY: the kernel reads and writes this struct only.
    check(unsafe { libc::adjtimex(&mut timex) })
}

/// Tries to set a clock that time namespaces have, which the kernel never allows.
pub(crate) fn set_monotonic() -> Result<i32> {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel reads this struct only.
    check(unsafe { libc::clock_settime(libc::CLOCK_MONOTONIC, &zero) })
}

/// Allows every process to trace this process, as far as Yama decides.
pub(crate) fn let_anyone_trace() {
    // SAFETY: the call takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
}

/// Makes a segment of shared memory with eight bytes in it, or reads the bytes.
pub(crate) fn shm(key: i32, text: Option<[u8; 8]>) -> Result<[u8; 8]> {
    let flags = if text.is_some() { libc::IPC_CREAT | libc::IPC_EXCL | 0o666 } else { 0 };
    // SAFETY: the call takes numbers only.
    let id = check(unsafe { libc::shmget(key, 8, flags) })?;
    // SAFETY: the kernel chooses the address.
    let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    if at.addr() == usize::MAX {
        return Err(Error::last_os_error());
    }
    let at = at.cast::<[u8; 8]>();
    // SAFETY: the segment is mapped, writable and at least eight bytes long.
    unsafe {
        if let Some(text) = text {
            at.write(text);
        }
        Ok(at.read())
    }
}

/// Makes a semaphore, or finds it and decrements its value.
pub(crate) fn sem(key: i32, make: bool) -> Result<i32> {
    let flags = if make { libc::IPC_CREAT | libc::IPC_EXCL | 0o666 } else { 0 };
    // SAFETY: the calls take numbers only.
    unsafe {
        let id = check(libc::semget(key, 1, flags))?;
        check(libc::semctl(id, 0, libc::SETVAL, 7))
    }
}

/// Makes a message queue with a message in it, or receives the message.
pub(crate) fn msg(key: i32, make: bool) -> Result<i32> {
    let flags = if make { libc::IPC_CREAT | libc::IPC_EXCL | 0o666 } else { 0 };
    let mut message = [1_i64, 0];
    // SAFETY: the buffer has the type and eight bytes of text.
    unsafe {
        let id = check(libc::msgget(key, flags))?;
        match make {
            true => check(libc::msgsnd(id, message.as_ptr().cast(), 8, libc::IPC_NOWAIT)),
            false => check(libc::msgrcv(id, message.as_mut_ptr().cast(), 8, 0, libc::IPC_NOWAIT) as i32),
        }
    }
}

fn check(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
