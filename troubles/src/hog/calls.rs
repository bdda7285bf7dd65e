//! System calls that `nix` lacks.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const PROCESS_KEYRING: libc::c_long = -2;

/// A key in the keyring of this process. Dropping it removes the key.
pub(super) struct Key(libc::c_long);

/// Adds a key to the keyring of this process, or updates it.
pub(super) fn add_key(name: &str) -> io::Result<Key> {
    let name = CString::new(name)?;
    let (payload, size) = (c"x".as_ptr(), 1usize);
    // SAFETY: the kernel reads two strings, and `size` bytes of the payload.
    let key = unsafe {
        libc::syscall(libc::SYS_add_key, c"user".as_ptr(), name.as_ptr(), payload, size, PROCESS_KEYRING)
    };
    checked(key).map(Key)
}

impl Drop for Key {
    fn drop(&mut self) {
        const UNLINK: libc::c_long = 9;
        // SAFETY: the arguments are numbers.
        unsafe { libc::syscall(libc::SYS_keyctl, UNLINK, self.0, PROCESS_KEYRING) };
    }
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

/// An instance of io_uring with a registered buffer.
pub(super) struct Ring {
    _ring: OwnedFd,
    _buffer: Vec<u8>,
}

/// Makes an instance of io_uring and registers a buffer, whose pages the kernel pins.
pub(super) fn registered_buffer(size: usize) -> io::Result<Ring> {
    const REGISTER_BUFFERS: libc::c_long = 0;
    // `struct io_uring_params`, in which the kernel wants zeros and writes offsets.
    let mut parameters = [0_u8; 120];
    // SAFETY: the kernel reads and writes the 120 bytes.
    let ring = checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, parameters.as_mut_ptr()) })?;
    // SAFETY: the call has made this descriptor.
    let ring = unsafe { OwnedFd::from_raw_fd(ring as i32) };
    let mut buffer = vec![0; size];
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: size };
    let (fd, operation, count) = (ring.as_raw_fd(), REGISTER_BUFFERS, 1_u32);
    // SAFETY: the buffer lives as long as the instance, which has no operation that uses it.
    checked(unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, &raw const part, count) })?;
    Ok(Ring { _ring: ring, _buffer: buffer })
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
