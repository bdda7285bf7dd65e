//! The standard streams of a container.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::error::Error;

/// A standard stream of a container.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's stream.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// A pipe. [`Container`](crate::Container) holds its other end.
    Piped,
    /// The container's standard output. Only for the standard error.
    Stdout,
    /// These bytes, in a file that cannot be changed: see
    /// [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html), `MFD_ALLOW_SEALING`. Only
    /// for the standard input.
    Bytes(Vec<u8>),
    /// This descriptor. The [`Command`](crate::Command) keeps it open for later starts, so a reader
    /// of a pipe sees the end of file only after the command is dropped.
    Fd(OwnedFd),
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Stdio {
        Stdio::Fd(fd)
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Stdio {
        Stdio::Fd(file.into())
    }
}

/// The child's end of a standard stream.
#[derive(Debug)]
enum ChildEnd<'a> {
    /// The caller's stream.
    Inherited,
    /// A descriptor that is closed after the start.
    Owned(OwnedFd),
    /// A descriptor of the [`Command`](crate::Command), which later starts use again.
    Borrowed(BorrowedFd<'a>),
    /// The same as the standard output.
    Stdout,
}

/// Both ends of the standard streams of one start.
#[derive(Debug)]
pub(crate) struct Streams<'a> {
    child: [ChildEnd<'a>; 3],
    /// The caller's ends of pipes.
    pub(crate) ours: [Option<File>; 3],
}

impl<'a> Streams<'a> {
    /// Returns the caller's streams.
    pub(crate) fn inherited() -> Streams<'a> {
        Streams { child: [const { ChildEnd::Inherited }; 3], ours: Default::default() }
    }

    /// Opens `/dev/null` and makes the pipes, in the order of the streams. With `capture`, the output goes
    /// to pipes in place of the caller's streams.
    pub(crate) fn open(stdio: &'a [Arc<Stdio>; 3], capture: bool) -> Result<Streams<'a>, Error> {
        let mut streams = Streams::inherited();
        for (number, stdio) in stdio.iter().enumerate() {
            let stdio = match (&**stdio, capture, number) {
                (Stdio::Inherit, true, 0) => &Stdio::Null,
                (Stdio::Inherit, true, _) => &Stdio::Piped,
                (stdio, ..) => stdio,
            };
            match stdio {
                Stdio::Stdout if number == 2 => streams.child[number] = ChildEnd::Stdout,
                Stdio::Bytes(bytes) if number == 0 => {
                    streams.child[number] = ChildEnd::Owned(sealed(bytes)?);
                }
                Stdio::Stdout | Stdio::Bytes(_) => {
                    let stream = ["standard input", "standard output", "standard error"][number];
                    let problem =
                        "Stdio::Stdout is for the standard error, and Stdio::Bytes for the standard input";
                    return Err(Error::invalid(stream, problem));
                }
                Stdio::Inherit => {}
                Stdio::Null => {
                    let null = File::options().read(true).write(true).open("/dev/null");
                    let null =
                        null.map_err(|e| Error::io("process", "open /dev/null", "open", &e).on("/dev/null"))?;
                    streams.child[number] = ChildEnd::Owned(null.into());
                }
                Stdio::Fd(fd) => streams.child[number] = ChildEnd::Borrowed(fd.as_fd()),
                Stdio::Piped => {
                    let (reader, writer) =
                        std::io::pipe().map_err(|e| Error::io("process", "make a pipe", "pipe2", &e))?;
                    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
                    let (child, ours) = if number == 0 { (reader, writer) } else { (writer, reader) };
                    streams.child[number] = ChildEnd::Owned(child);
                    streams.ours[number] = Some(File::from(ours));
                }
            }
        }
        Ok(streams)
    }

    /// Returns the descriptors that become the child's 0, 1 and 2.
    pub(crate) fn child(&self) -> [RawFd; 3] {
        let own = [
            std::io::stdin().as_fd().as_raw_fd(),
            std::io::stdout().as_fd().as_raw_fd(),
            std::io::stderr().as_fd().as_raw_fd(),
        ];
        std::array::from_fn(|n| {
            let n = if matches!(self.child[n], ChildEnd::Stdout) { 1 } else { n };
            match &self.child[n] {
                ChildEnd::Inherited | ChildEnd::Stdout => own[n],
                ChildEnd::Owned(fd) => fd.as_raw_fd(),
                ChildEnd::Borrowed(fd) => fd.as_raw_fd(),
            }
        })
    }

    /// Closes this process's copies of the child's ends.
    pub(crate) fn close_child(&mut self) {
        self.child = [const { ChildEnd::Inherited }; 3];
    }
}

/// Returns a file with these bytes, which cannot be changed.
fn sealed(bytes: &[u8]) -> Result<OwnedFd, Error> {
    let failed = |call: &'static str| {
        move |e: std::io::Error| Error::io("process", "make the file of the standard input", call, &e)
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("nspod-stdin", flags).map_err(|e| failed("memfd_create")(e.into()))?;
    let file = File::from(fd);
    file.write_all_at(bytes, 0).map_err(failed("pwrite64"))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).map_err(|e| failed("fcntl")(e.into()))?;
    Ok(file.into())
}
