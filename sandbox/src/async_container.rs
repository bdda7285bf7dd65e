//! Containers in a tokio runtime.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::resume_unwind;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::command::{Command, CommandStart};
use crate::container::Container;
use crate::error::{Error, ErrorKind};
use crate::outcome::Outcome;
use crate::reap::ChildProcess;

/// Limits the threads that start containers. More threads than processors would only wait for one another.
static STARTS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

/// A running container in a tokio runtime (feature `tokio`).
///
/// [`Command::spawn_async`] and [`AsyncContainer::new`] make it. It waits on the pidfd of the first process,
/// so no thread waits for the container. The runtime needs the I/O driver and the time driver
/// (`enable_all`).
///
/// It dereferences to [`Container`] for the calls that do not wait, such as [`Container::kill`],
/// [`Container::update`] and [`Container::usage`]. The pipes are fields of this type.
///
/// Dropping the handle, or the future that owns it, kills every process in the container. The drop itself
/// only sends the signals. A task of the runtime then reaps the first process and removes the cgroup. If no
/// runtime runs, the drop does both, like the drop of a [`Container`]. With
/// [`Command::kill_on_drop(false)`](Command::kill_on_drop) the container stays.
#[derive(Debug)]
pub struct AsyncContainer {
    /// The container's standard input, if it is a pipe.
    pub stdin: Option<Sender>,
    /// The container's standard output, if it is a pipe.
    pub stdout: Option<Receiver>,
    /// The container's standard error, if it is a pipe.
    pub stderr: Option<Receiver>,
    /// `None` after the container was deleted.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    end: AsyncFd<Process>,
    container: Container,
}

/// The pidfd of a container's first process.
#[derive(Debug)]
struct Process(Arc<ChildProcess>);

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.0.pidfd.as_fd().as_raw_fd()
    }
}

impl Command {
    /// Starts the container like [`spawn`](Self::spawn), in a tokio runtime (feature `tokio`).
    ///
    /// A start blocks its thread for about a millisecond, and longer with hooks, with a function of
    /// [`prepared`](Self::prepared), or if the caller's memory is copied. Therefore a thread of the runtime's
    /// pool for blocking calls starts the container. At most one start for each processor runs at a time;
    /// the others wait without a thread. A start that waits for the end of a freeze
    /// ([`even_frozen`](Self::even_frozen)) counts too. If the future is dropped, a start that has begun is
    /// completed, and its container is then dropped. See
    /// [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html), `CLONE_VFORK`. Since Linux 5.14.
    ///
    /// ```
    /// use nspod_sandbox::{Command, Stdio};
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let mut container = Command::new("cat").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn_async().await?;
    /// container.stdin.take().unwrap().write_all(b"text").await.unwrap();
    /// let mut text = String::new();
    /// container.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    /// assert_eq!(text, "text");
    /// assert!(container.wait().await?.status.success());
    /// container.delete().await?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// # })?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// The same as [`spawn`](Self::spawn), and [`ErrorKind::State`] if the runtime is shutting down.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O driver is disabled.
    pub async fn spawn_async(&mut self) -> Result<AsyncContainer, Error> {
        self.spawn_async_with(false).await
    }

    pub(crate) async fn spawn_async_with(&mut self, capture: bool) -> Result<AsyncContainer, Error> {
        // This comes first: if the future is dropped while it waits, the command keeps all that a start uses.
        let permit = STARTS.acquire().await.expect("the semaphore is never closed");
        let start = self.start(capture)?;
        let perform = move || {
            let _permit = permit;
            perform(start)
        };
        let (start, started) = blocking("clone", "cannot start a container", perform).await?;
        self.started(start);
        AsyncContainer::new(started?)
    }

    /// Starts the container, waits for its end, and deletes it, like [`status`](Self::status). If the future is
    /// dropped, the container is dropped.
    /// Linux 5.14 or later; see [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// # Errors
    /// The same as [`spawn_async`](Self::spawn_async), [`AsyncContainer::wait`] and
    /// [`AsyncContainer::delete`].
    ///
    /// # Panics
    /// The same as [`spawn_async`](Self::spawn_async).
    pub async fn status_async(&mut self) -> Result<Outcome, Error> {
        let mut container = self.spawn_async().await?;
        let outcome = container.wait().await?;
        container.delete().await?;
        Ok(outcome)
    }
}

fn perform(mut start: CommandStart) -> (CommandStart, Result<Container, Error>) {
    let started = start.perform();
    (start, started)
}

impl AsyncContainer {
    /// Returns a handle for this runtime, of a container that was started or opened without it.
    /// See [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html): a pidfd is readable when
    /// the process has ended.
    ///
    /// # Errors
    /// - `ENOMEM`, `ENOSPC` and others: see
    ///   [epoll_ctl(2)](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html).
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its I/O driver is disabled.
    pub fn new(mut container: Container) -> Result<AsyncContainer, Error> {
        let failed = |e: std::io::Error| Error::io("process", "watch the container", "epoll_ctl", &e);
        let owned = |file: Option<File>| file.map(OwnedFd::from);
        let reader = |file| owned(file).map(Receiver::from_owned_fd).transpose().map_err(failed);
        Ok(AsyncContainer {
            stdin: owned(container.stdin.take()).map(Sender::from_owned_fd).transpose().map_err(failed)?,
            stdout: reader(container.stdout.take())?,
            stderr: reader(container.stderr.take())?,
            running: Some(Running { end: watch(&container).map_err(failed)?, container }),
        })
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("`delete` consumes the handle")
    }

    fn take(&mut self) -> Running {
        self.running.take().expect("only methods that consume the handle take it")
    }

    /// Waits for the first process to end, and returns how and why it ended, like [`Container::wait`]. Another
    /// call returns the same outcome. Dropping the future loses nothing. Since Linux 5.4; see
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// While it waits, it enforces [`Command::timeout`] and [`Command::cpu_time_max`].
    ///
    /// # Errors
    /// The same as [`Container::wait`].
    pub async fn wait(&mut self) -> Result<Outcome, Error> {
        /// The tracer of a process learns of its end first.
        const TRACED: Duration = Duration::from_millis(1);
        let Running { end, container } = self.running();
        let mut attempt = 0;
        let mut ended = false;
        loop {
            let patience = match container.try_wait(&mut attempt)? {
                Ok(outcome) => return Ok(outcome),
                Err(patience) if ended => Some(patience.unwrap_or(TRACED).max(TRACED)),
                Err(patience) => patience,
            };
            let ending = async { end.readable().await.map(drop).map_err(shut_down) };
            ended = match patience {
                Some(patience) if ended => {
                    sleep(patience).await;
                    true
                }
                Some(patience) => {
                    timeout(patience, ending).await.map_or(Ok(false), |end| end.map(|()| true))?
                }
                None => ending.await.map(|()| true)?,
            };
        }
    }

    /// Kills every process in the container, reaps the first process, and removes its cgroup, like
    /// [`Container::delete`]. If the future is dropped, a task of the runtime continues.
    /// See [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#organizing-processes-and-threads).
    ///
    /// # Errors
    /// The same as [`Container::delete`], and [`ErrorKind::State`] if the runtime is shutting down.
    pub async fn delete(mut self) -> Result<(), Error> {
        /// The time limit of [`Container::delete`].
        const PATIENCE: Duration = Duration::from_secs(5);
        self.running().container.begin_removal()?;
        let gone = self.running().until_gone(PATIENCE).await?;
        let container = self.into_inner();
        if gone {
            return container.delete();
        }
        // A process does not end, so this waits for it again.
        blocking("cgroup", "cannot delete a container", || container.delete()).await?
    }

    /// Returns the handle without the runtime. The pipes of this handle are closed.
    pub fn into_inner(mut self) -> Container {
        self.take().container
    }
}

/// Calls a function that blocks, in the runtime's pool for such calls. If the runtime is shutting down, the call
/// may not happen, which is an error of this step.
async fn blocking<T: Send + 'static>(
    step: &'static str,
    problem: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(call).await.map_err(|e| match e.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_) => Error::new(ErrorKind::State, step, format!("{problem}: the runtime is shutting down")),
    })
}

#[allow(unsafe_code)]
fn watch(container: &Container) -> std::io::Result<AsyncFd<Process>> {
    // SAFETY: the process keeps its pidfd open, and always returns this one.
    let watched =
        unsafe { AsyncFd::register_with_interest(Process(container.process.clone()), Interest::READABLE) };
    watched.map_err(|e| e.into_parts().1)
}

fn shut_down(e: std::io::Error) -> Error {
    Error::io("process", "wait for the container", "epoll_wait", &e)
}

impl Running {
    /// Waits until the first process was reaped and the cgroup has no process, for at most `patience`. Returns
    /// whether this is so.
    async fn until_gone(&mut self, patience: Duration) -> Result<bool, Error> {
        const LONGEST: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        while !self.container.is_gone()? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            // The process is usually the last one. If it has ended, the others must be polled.
            if timeout(pause, self.end.readable()).await.is_ok() {
                sleep(pause).await;
            }
            pause = (pause * 2).min(LONGEST);
        }
        Ok(true)
    }

    /// Removes a container that was killed.
    async fn remove(mut self) {
        let _ = self.until_gone(Duration::MAX / 4).await;
        // Without a runtime, the drop removes the container.
    }
}

impl Deref for AsyncContainer {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.running.as_ref().expect("`delete` consumes the handle").container
    }
}

impl DerefMut for AsyncContainer {
    fn deref_mut(&mut self) -> &mut Container {
        &mut self.running().container
    }
}

impl Drop for AsyncContainer {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        if running.container.ends_on_drop()
            && running.container.begin_removal().is_ok()
            && !running.container.is_gone().unwrap_or(true)
            && let Ok(runtime) = Handle::try_current()
        {
            // If the runtime shuts down, it drops the future and thereby the container.
            drop(runtime.spawn(running.remove()));
        }
    }
}
