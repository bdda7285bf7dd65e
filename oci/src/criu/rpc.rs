//! Requests to `criu swrk` and its answers: protobuf messages over a socket, as criu's
//! `images/rpc.proto` defines them. The command line of criu cannot send a terminal.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use crate::error::{Error, ErrorKind, Result};

/// `criu_req_type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Dump = 1,
    Restore = 2,
    PreDump = 13,
}

const NOTIFY: u64 = 6;

/// Fields of `criu_opts`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    ImagesDirFd = 1,
    Pid = 2,
    LeaveRunning = 3,
    ExtUnixSk = 4,
    TcpEstablished = 5,
    ShellJob = 7,
    FileLocks = 8,
    LogLevel = 9,
    LogFile = 10,
    PageServer = 11,
    NotifyScripts = 12,
    Root = 13,
    ParentImages = 14,
    TrackMem = 15,
    AutoDedup = 16,
    WorkDirFd = 17,
    LinkRemap = 18,
    CgroupRoot = 25,
    RestoreSibling = 26,
    InheritFd = 27,
    ManageCgroupsMode = 34,
    External = 37,
    EmptyNs = 38,
    FreezeCgroup = 44,
    TcpSkipInFlight = 46,
    LazyPages = 48,
    StatusFd = 49,
    OrphanPtsMaster = 50,
    LsmProfile = 53,
    LsmMountContext = 63,
}

/// A message of protobuf.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(super) fn number(&mut self, field: u32, number: u64) -> &mut Self {
        self.varint(u64::from(field) << 3);
        self.varint(number);
        self
    }

    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }
}

/// The options of a request.
#[derive(Debug, Default)]
pub(super) struct Options {
    message: Message,
    /// Descriptors that criu inherits under the same number.
    inherited: Vec<OwnedFd>,
}

impl Options {
    pub(super) fn flag(&mut self, field: Field) {
        self.number(field, 1);
    }

    pub(super) fn number(&mut self, field: Field, number: u64) {
        self.message.number(field as u32, number);
    }

    pub(super) fn text(&mut self, field: Field, text: impl AsRef<std::ffi::OsStr>) {
        self.message.bytes(field as u32, text.as_ref().as_encoded_bytes());
    }

    pub(super) fn message(&mut self, field: Field, message: &Message) {
        self.message.bytes(field as u32, &message.0);
    }

    /// Names a descriptor for criu, which inherits it: it must not be closed on exec.
    pub(super) fn inherit(&mut self, fd: OwnedFd, name: &str) {
        let mut given = Message::default();
        given.bytes(1, name.as_bytes()).number(2, fd.as_raw_fd() as u64);
        self.message(Field::InheritFd, &given);
        self.inherited.push(fd);
    }
}

/// The answer of criu to a request that succeeded.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Pid of the first restored process.
    pub(super) pid: i32,
    /// Master end of that process's terminal.
    pub(super) terminal: Option<File>,
}

/// Sends criu a request and returns its answer. `spawn` starts criu.
///
/// # Errors
/// criu cannot be run, does not answer, or has failed. Its log has the reason.
pub(super) fn call(
    criu: &Path,
    action: Action,
    options: Options,
    spawn: impl FnOnce(&mut Command) -> Result<Child>,
) -> Result<Done> {
    let flags = SocketFlags::empty();
    let (own, other) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed("socketpair"))?;
    fcntl(&own, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|e| failed("fcntl")(rustix::io::Errno::from_raw_os_error(e as i32)))?;
    let mut command = Command::new(criu);
    command.arg("swrk").arg(other.as_raw_fd().to_string());
    let mut child = spawn(&mut command)?;
    drop(other);
    let done = converse(&own, action, &options);
    drop(own);
    let waited = child.wait();
    let status = waited.map_err(|e| Error::io_without_path("criu", "wait for criu", &e))?;
    match done {
        Ok(Some(done)) => Ok(done),
        Ok(None) => Err(Error::new(ErrorKind::HelperFailed, "criu", "criu failed")),
        Err(e) => {
            let sentence = format!("criu failed: {status}: {e}");
            Err(e.rephrased(sentence).with_kind(ErrorKind::HelperFailed))
        }
    }
}

/// Returns `None` if criu answers that it has failed.
fn converse(socket: &OwnedFd, action: Action, options: &Options) -> Result<Option<Done>> {
    let mut request = Message::default();
    request.number(1, action as u64).bytes(2, &options.message.0);
    send(socket, &request)?;
    let mut done = Done::default();
    loop {
        let (bytes, fd) = receive(socket)?;
        let unknown = || Error::new(ErrorKind::HelperFailed, "criu", "its answer has an unknown form");
        let answer = fields(&bytes).ok_or_else(unknown)?;
        let number =
            |wanted| answer.iter().find_map(|(field, value)| (*field == wanted).then(|| value.number()));
        if number(1) == Some(NOTIFY) {
            // criu announces each step. The step of the terminal has its descriptor.
            done.terminal = fd.map(File::from).or(done.terminal);
            send(socket, Message::default().number(1, NOTIFY).number(3, 1))?;
            continue;
        }
        let restored =
            answer.iter().find(|(field, _)| *field == 4).and_then(|(_, value)| fields(value.bytes()));
        done.pid = restored
            .iter()
            .flatten()
            .find(|(field, _)| *field == 1)
            .map_or(0, |(_, pid)| pid.number() as i32);
        return Ok((number(2) == Some(1)).then_some(done));
    }
}

fn failed(call: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |e| Error::call("criu", "communicate with criu", call, e.raw_os_error())
}

fn send(socket: &OwnedFd, message: &Message) -> Result<()> {
    rustix::net::send(socket, &message.0, SendFlags::NOSIGNAL).map(drop).map_err(failed("send"))
}

fn receive(socket: &OwnedFd) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut bytes, mut control) = (vec![0; 65_536], RecvAncillaryBuffer::new(&mut space));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = received.map_err(failed("recvmsg"))?.bytes;
    if length == 0 {
        return Err(Error::new(ErrorKind::HelperFailed, "criu", "it has ended without an answer"));
    }
    bytes.truncate(length);
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((bytes, fd))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            Value::Bytes(_) => 0,
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Value::Number(_) => &[],
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// Returns the fields of a message; `None` if the message is malformed.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        all.push((key >> 3, value));
    }
    Some(all)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_by_protobuf() {
        let mut message = Message::default();
        message.number(1, 300).bytes(2, b"ab").number(63, 0);
        assert_eq!(message.0, [0x08, 0xac, 0x02, 0x12, 2, b'a', b'b', 0xf8, 0x03, 0]);
        let expected = [(1, Value::Number(300)), (2, Value::Bytes(b"ab")), (63, Value::Number(0))];
        assert_eq!(fields(&message.0).unwrap(), expected);
        for cut in [&[0x08][..], &[0x08, 0x80], &[0x12, 3, b'a'], &[0x0d, 1], &[0xff; 11]] {
            assert_eq!(fields(cut), None, "{cut:?}");
        }
    }
}
