//! Helpers of the tests against the kernel.
#![allow(dead_code, unsafe_code, unreachable_pub, clippy::undocumented_unsafe_blocks)]

use ns_core::{Clone3, CloneFlags, Cloned, ExitStatus, Pidfd};

/// A child, killed and reaped when it goes out of scope.
pub struct Child {
    pub pid: i32,
    pub pidfd: Pidfd,
}

impl Child {
    /// Starts a child that runs `f` and exits with its result. In a process with several threads, `f`
    /// must be async-signal-safe.
    pub fn run(clone: Clone3<'_>, f: impl FnOnce() -> i32) -> Child {
        Self::try_run(clone, f).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_run(clone: Clone3<'_>, f: impl FnOnce() -> i32) -> ns_core::Result<Child> {
        let clone = Clone3 { flags: clone.flags | CloneFlags::PIDFD, ..clone };
        // SAFETY: `f` is async-signal-safe, or there is one thread only. The child ends by _exit and
        // does not unwind.
        match unsafe { clone.spawn() }? {
            Cloned::Child => {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
                // SAFETY: the call ends this process and reads no memory.
                unsafe { libc::_exit(result.unwrap_or(101)) }
            }
            Cloned::Parent { pid, pidfd } => Ok(Child { pid, pidfd: pidfd.expect("asked for") }),
        }
    }

    /// Starts a child that sleeps until it is killed.
    pub fn sleeping(clone: Clone3<'_>) -> Child {
        Self::run(clone, pause)
    }

    pub fn wait(&self) -> ExitStatus {
        self.pidfd.wait().unwrap().status
    }

    #[track_caller]
    pub fn assert_success(&self) {
        assert_eq!(self.wait(), ExitStatus::Exited(0), "the child has printed the cause");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.pidfd.send_signal(libc::SIGKILL);
        let _ = self.pidfd.wait();
    }
}

pub fn pause() -> i32 {
    loop {
        // SAFETY: the call has no arguments and writes no memory.
        unsafe { libc::pause() };
    }
}

/// A pipe by raw numbers, for children that call system calls only.
pub struct Gate {
    read: i32,
    write: i32,
}

impl Gate {
    pub fn new() -> Gate {
        let mut fds = [0; 2];
        // SAFETY: the kernel writes two descriptors to the array.
        assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        Gate { read: fds[0], write: fds[1] }
    }

    /// Lets one waiter go on.
    pub fn open(&self) {
        assert_eq!(unsafe { libc::write(self.write, b"x".as_ptr().cast(), 1) }, 1);
    }

    pub fn wait(&self) {
        let mut byte = 0u8;
        while unsafe { libc::read(self.read, (&raw mut byte).cast(), 1) } != 1 {}
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        unsafe {
            libc::close(self.read);
            libc::close(self.write);
        }
    }
}
