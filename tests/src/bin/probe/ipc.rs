//! Communication with other processes through names in the ipc and net namespaces.

use std::io::{Error, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::fcntl::OFlag;
use nix::mqueue::{MQ_OFlag, MqAttr, mq_open, mq_receive, mq_send};
use nix::sys::stat::Mode;

/// Listeners that stay open.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Vec<UnixListener>, Vec<TcpListener>);

impl Listeners {
    pub(crate) fn unix(&mut self, name: &str) -> Result<()> {
        self.0.push(UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?);
        Ok(())
    }

    pub(crate) fn tcp(&mut self, port: u16) -> Result<()> {
        self.1.push(TcpListener::bind(("127.0.0.1", port))?);
        Ok(())
    }
}

/// Connects to an abstract socket.
pub(crate) fn connect_unix(name: &str) -> Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Connects to a port of localhost.
pub(crate) fn connect_tcp(port: u16) -> Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port))
}

/// Makes a POSIX message queue with a message in it, or receives the message.
pub(crate) fn mq(name: &str, make: bool) -> Result<String> {
    let mode = Mode::from_bits_truncate(0o666);
    let flags = match make {
        true => MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR,
        false => MQ_OFlag::O_RDWR,
    } | MQ_OFlag::O_NONBLOCK;
    // Without attributes nix passes no mode either, and the call reads an undefined one.
    let attributes = MqAttr::new(0, 10, 8192, 0);
    let queue = mq_open(name, flags, mode, Some(&attributes)).map_err(Error::from)?;
    if make {
        mq_send(&queue, b"secret", 0)?;
        return Ok("made".into());
    }
    let mut text = vec![0; 1 << 16];
    let len = mq_receive(&queue, &mut text, &mut 0)?;
    Ok(String::from_utf8_lossy(&text[..len]).into_owned())
}

/// Makes POSIX shared memory with a text in it, or reads the text.
pub(crate) fn posix_shm(name: &str, make: bool) -> Result<String> {
    let mode = Mode::from_bits_truncate(0o666);
    let flags = if make { OFlag::O_CREAT | OFlag::O_EXCL } else { OFlag::empty() } | OFlag::O_RDWR;
    let path = format!("/dev/shm/{name}");
    let mut file = std::fs::File::from(nix::fcntl::open(path.as_str(), flags, mode)?);
    let mut text = String::new();
    match make {
        true => file.write_all(b"secret")?,
        false => drop(file.read_to_string(&mut text)?),
    }
    Ok(text)
}
