//! System calls that `nix` lacks.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::ptr;

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Adds a key to the keyring of this process, or updates it.
pub(super) fn add_key(name: &str) -> io::Result<()> {
    const PROCESS_KEYRING: libc::c_long = -2;
    let name = CString::new(name)?;
    let (payload, size) = (c"x".as_ptr(), 1usize);
    // SAFETY: the kernel reads two strings, and `size` bytes of the payload.
    let key = unsafe {
        libc::syscall(libc::SYS_add_key, c"user".as_ptr(), name.as_ptr(), payload, size, PROCESS_KEYRING)
    };
    checked(key).map(drop)
}

/// A locked segment of shared memory. It vanishes when it is dropped.
pub(super) struct Segment(i32);

/// Makes a segment of shared memory and locks it.
pub(super) fn locked_segment(size: usize) -> io::Result<Segment> {
    // SAFETY: the arguments are integers.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, size, 0o600) };
    let segment = Segment(checked(id.into())? as i32);
    // SAFETY: this operation reads no memory.
    checked(unsafe { libc::shmctl(segment.0, libc::SHM_LOCK, ptr::null_mut()) }.into())?;
    Ok(segment)
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: this operation reads no memory.
        unsafe { libc::shmctl(self.0, libc::IPC_RMID, ptr::null_mut()) };
    }
}

/// A context of asynchronous I/O.
pub(super) struct Aio(libc::c_ulong);

/// Makes a context of asynchronous I/O for a number of events.
pub(super) fn aio(events: u32) -> io::Result<Aio> {
    let mut context: libc::c_ulong = 0;
    // SAFETY: the kernel writes one word.
    checked(unsafe { libc::syscall(libc::SYS_io_setup, events, &raw mut context) })?;
    Ok(Aio(context))
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the argument is a number that the kernel checks.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// The key of the victim's segment.
const KEY: i32 = 0x6e73_706f;

/// A segment of System V shared memory with a number in it. It stays mapped until the process ends.
pub(super) struct SharedMemory(*mut u64);

impl SharedMemory {
    /// Makes the segment, which the ipc namespace keeps.
    pub(super) fn make() -> io::Result<Self> {
        Self::with(libc::IPC_CREAT | 0o666)
    }

    /// Finds the segment.
    pub(super) fn find() -> io::Result<Self> {
        Self::with(0)
    }

    fn with(flags: i32) -> io::Result<Self> {
        // SAFETY: the call takes numbers only.
        let id = unsafe { libc::shmget(KEY, 8, flags) };
        if id == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel chooses the address.
        let at = unsafe { libc::shmat(id, ptr::null(), 0) };
        if at.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(at.cast()))
    }

    pub(super) fn set(&self, number: u64) {
        // SAFETY: the segment has eight bytes, and is mapped and writable.
        unsafe { self.0.write_volatile(number) }
    }

    pub(super) fn get(&self) -> u64 {
        // SAFETY: the segment has eight bytes, and is mapped.
        unsafe { self.0.read_volatile() }
    }
}
