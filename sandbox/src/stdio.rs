//! The standard streams of a container.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

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
    /// This descriptor.
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

/// Both ends of the standard streams of one start.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// The child's ends; `None` is the caller's stream.
    child: [Option<OwnedFd>; 3],
    /// The caller's ends of pipes.
    pub(crate) ours: [Option<File>; 3],
}

impl Streams {
    /// Opens `/dev/null` and makes the pipes, in the order of the streams.
    pub(crate) fn open(stdio: [Stdio; 3]) -> Result<Streams, Error> {
        let mut streams = Streams::default();
        for (number, stdio) in stdio.into_iter().enumerate() {
            match stdio {
                Stdio::Inherit => {}
                Stdio::Null => {
                    let null = File::options().read(true).write(true).open("/dev/null");
                    let null = null.map_err(|e| Error::io("process", "open /dev/null", "open", &e))?;
                    streams.child[number] = Some(null.into());
                }
                Stdio::Fd(fd) => streams.child[number] = Some(fd),
                Stdio::Piped => {
                    let (reader, writer) =
                        std::io::pipe().map_err(|e| Error::io("process", "make a pipe", "pipe2", &e))?;
                    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
                    let (child, ours) = if number == 0 { (reader, writer) } else { (writer, reader) };
                    streams.child[number] = Some(child);
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
        std::array::from_fn(|n| self.child[n].as_ref().map_or(own[n], |fd| fd.as_raw_fd()))
    }

    /// Closes this process's copies of the child's ends.
    pub(crate) fn close_child(&mut self) {
        self.child = Default::default();
    }
}
