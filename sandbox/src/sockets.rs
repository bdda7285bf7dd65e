//! Sockets of the caller in a container's net namespace and root.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io::{PipeReader, PipeWriter, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ns_core::{Clone3, CloneFlags, Cloned, Kind, Kinds, NamespaceSet};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, sockopt};

use crate::container::Container;
use crate::error::Error;

/// Length of the queue of a listener, as of [`TcpListener::bind`].
const BACKLOG: c_int = 128;

/// Sockets in the container's net namespace. A socket stays in the namespace that it was made in, so the
/// caller uses it like any other, and it lasts until it is closed.
///
/// The calls for network addresses require a container of which the caller may join the net namespace: as root,
/// or as the user who started it. If the container has another net namespace than the caller, a short-lived
/// child of the caller makes the socket there. The child copies the caller's page tables (about 12 ms for
/// each GiB of resident memory).
///
/// To pass a socket of the caller to the program, use [`Command::fd`](crate::Command::fd).
impl Container {
    /// Listens at a TCP address in the container's net namespace: programs in the container connect to the
    /// caller. Port 0 selects a free port. Since Linux 5.8; see
    /// [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html) and
    /// [listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html).
    ///
    /// ```
    /// use nspod_sandbox::Command;
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let container = Command::new("sleep").arg("60").spawn()?;
    /// let listener = container.listen("127.0.0.1:80".parse().unwrap())?;
    /// let _client = container.connect("127.0.0.1:80".parse().unwrap())?;
    /// assert!(listener.accept().is_ok());
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - `EADDRINUSE`, `EADDRNOTAVAIL`: the address is in use, or no interface in the container has it.
    /// - `EPERM`: the caller may not join the net namespace.
    /// - `ESRCH` ([`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded)): the container has ended.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener, Error> {
        let socket = self.socket(address, SocketType::STREAM)?;
        let what = || format!("listen at {address} in the container");
        sockopt::set_socket_reuseaddr(&socket, true).map_err(|e| failed(what(), "setsockopt", e))?;
        bind(&socket, &address).map_err(|e| failed(what(), "bind", e))?;
        listen(&socket, BACKLOG).map_err(|e| failed(what(), "listen", e))?;
        Ok(socket.into())
    }

    /// Connects to a TCP address in the container's net namespace, on which a program in the container
    /// listens. Blocks like [`TcpStream::connect`]. Since Linux 5.8; see
    /// [connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html).
    ///
    /// # Errors
    /// - `ECONNREFUSED`: no program listens there.
    /// - The same as [`listen`](Self::listen), except for the address.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream, Error> {
        let socket = self.socket(address, SocketType::STREAM)?;
        let what = || format!("connect to {address} in the container");
        connect(&socket, &address).map_err(|e| failed(what(), "connect", e))?;
        Ok(socket.into())
    }

    /// Makes a UDP socket with this address in the container's net namespace. It receives what programs in the
    /// container send there, and sends to them. Port 0 selects a free port. Since Linux 5.8; see
    /// [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html).
    ///
    /// # Errors
    /// The same as [`listen`](Self::listen).
    pub fn bind_udp(&self, address: SocketAddr) -> Result<UdpSocket, Error> {
        let socket = self.socket(address, SocketType::DGRAM)?;
        let what = || format!("bind a UDP socket to {address} in the container");
        bind(&socket, &address).map_err(|e| failed(what(), "bind", e))?;
        Ok(socket.into())
    }

    /// Listens at a Unix socket. `path` is absolute in the container; its directory must exist, and the file
    /// must not. The file belongs to the caller. It is not removed with the listener. Since Linux 5.6; see
    /// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html).
    ///
    /// # Errors
    /// - `EADDRINUSE`: the file exists.
    /// - `ENOENT`, `EACCES`, `EROFS` and others: the directory is missing, or not writable.
    /// - `ESRCH` ([`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded)): the container has ended.
    pub fn listen_unix(&self, path: impl AsRef<Path>) -> Result<UnixListener, Error> {
        let path = path.as_ref();
        let what = || format!("listen at {} in the container", path.display());
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::invalid("path", "a Unix socket needs a path with a name"));
        };
        let directory = self.open_inside(directory, OFlags::DIRECTORY, &what)?;
        let listener = UnixListener::bind(own_path(&directory).join(name));
        listener.map_err(|e| Error::io("socket", what(), "bind", &e).on(path.display().to_string()))
    }

    /// Connects to a Unix socket. `path` is absolute in the container, and its symbolic links lead nowhere
    /// outside of the container's root. Since Linux 5.6; see
    /// [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html), `RESOLVE_IN_ROOT`.
    ///
    /// # Errors
    /// - `ENOENT`, `ECONNREFUSED`: there is no such file, or no program listens.
    /// - `EACCES`: the caller may not write to the file.
    /// - `ESRCH` ([`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded)): the container has ended.
    pub fn connect_unix(&self, path: impl AsRef<Path>) -> Result<UnixStream, Error> {
        let path = path.as_ref();
        let what = || format!("connect to {} in the container", path.display());
        let file = self.open_inside(path, OFlags::empty(), &what)?;
        let stream = UnixStream::connect(own_path(&file));
        stream.map_err(|e| Error::io("socket", what(), "connect", &e).on(path.display().to_string()))
    }

    /// Makes a socket in the container's net namespace.
    fn socket(&self, address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Error> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let what = "make a socket in the container";
        let same = self.namespaces()?.coincide(&NamespaceSet::current()?);
        if same.contains(Kinds::NET) {
            let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None);
            return socket.map_err(|e| failed(what, "socket", e));
        }
        let kinds = (Kinds::NET | Kinds::USER) - same;
        let flags = kinds.kinds().map(Kind::clone_flag).fold(0, |flags, flag| flags | flag as c_int);
        let numbers = [flags, family.as_raw().into(), kind.as_raw() as c_int];
        match made_by_child(self.pidfd().as_fd(), numbers)? {
            Ok(socket) => Ok(socket),
            Err((call, errno)) => Err(failed(what, call, errno)),
        }
    }

    /// Opens a path in the container's root, as an `O_PATH` descriptor.
    fn open_inside(&self, path: &Path, flags: OFlags, what: &dyn Fn() -> String) -> Result<OwnedFd, Error> {
        if !path.is_absolute() {
            return Err(Error::invalid("path", "the path must be absolute in the container"));
        }
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let root = open(format!("/proc/{}/root", self.pid()), flags | OFlags::DIRECTORY, Mode::empty());
        let root = root.map_err(|e| failed(what(), "open", e))?;
        // If the process still exists, its pid was not reused before the open.
        self.pidfd().send_signal(0)?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(&root, path, flags, Mode::empty(), resolve);
        opened.map_err(|e| failed(what(), "openat2", e).on(path.display().to_string()))
    }
}

/// Returns a path of an open file for calls that need a path.
fn own_path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn failed(what: impl Into<String>, call: &'static str, e: Errno) -> Error {
    Error::call("socket", what.into(), call, e.raw_os_error())
}

/// Makes a socket in namespaces of a process, with the flags of setns(2), the family and the type. Only a
/// process with one thread can join a user namespace, so a child does it. The child shares the table of
/// descriptors, so the socket is then in this process.
fn made_by_child(process: BorrowedFd<'_>, numbers: [c_int; 3]) -> Result<Made, Error> {
    let pipe = std::io::pipe().map_err(|e| Error::io("socket", "make a pipe", "pipe2", &e))?;
    let (mut reader, writer): (PipeReader, PipeWriter) = pipe;
    let flags = CloneFlags::PIDFD | CloneFlags::VFORK | CloneFlags::FILES | CloneFlags::CLEAR_SIGHAND;
    // Without an exit signal, a SIGCHLD handler of the program does not learn of the child, and a wait for any
    // child does not reap it.
    // SAFETY: the child only makes system calls in memory of its own, and ends.
    let child = match unsafe { Clone3 { flags, exit_signal: 0, ..Clone3::default() }.spawn() }? {
        Cloned::Child => in_child(process.as_raw_fd(), writer.as_raw_fd(), numbers),
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    // The child has ended: it was cloned with CLONE_VFORK. If another thread has reaped it, the answer is still valid.
    let _ = child.map(|child| child.wait());
    drop(writer);
    let mut answer = [0; 8];
    if let Err(e) = reader.read_exact(&mut answer) {
        return Err(Error::io("socket", "make a socket in the container", "read", &e));
    }
    let [joined, made] = [0, 4].map(|at| i32::from_ne_bytes(std::array::from_fn(|n| answer[at + n])));
    let failed = |call| Err((call, Errno::from_raw_os_error(-made)));
    Ok(match (joined, made) {
        (0, _) => failed("setns"),
        (_, ..0) => failed("socket"),
        // SAFETY: the child made this descriptor in the table that it shares with this process.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(made) }),
    })
}

/// The socket, or the call that failed.
type Made = Result<OwnedFd, (&'static str, Errno)>;

/// Joins the namespaces, makes the socket, and writes whether it has joined and the descriptor or the negative
/// errno.
fn in_child(process: c_int, answer: c_int, [namespaces, family, kind]: [c_int; 3]) -> ! {
    // SAFETY: system calls. The memory is a copy, so nothing else uses it.
    unsafe {
        let errno = || -*libc::__errno_location();
        // In the container's user namespace, its processes could trace this one.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        let joined = c_int::from(libc::setns(process, namespaces) == 0);
        let mut made = errno();
        if joined == 1 {
            made = libc::socket(family, kind | libc::SOCK_CLOEXEC, 0);
            made = if made < 0 { errno() } else { made };
        }
        let words = [joined, made];
        libc::write(answer, words.as_ptr().cast(), size_of_val(&words));
        libc::_exit(0)
    }
}
