//! Moves network devices into a container with rtnetlink.
//!
//! See [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::Error;

/// Constants of linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Constants of linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_PERMANENT: u8 = 0x80;
/// `IFLA_IFNAME` and `IFLA_NET_NS_FD` of linux/if_link.h.
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;

/// The size of struct nlmsghdr.
const HEADER: usize = 16;

/// Moves a device from the caller's network namespace to another, keeps its permanent addresses of
/// global scope, and brings it up. Gives it a new name if one is set.
///
/// Requires CAP_NET_ADMIN in the user namespaces of both network namespaces. Since Linux 3.0,
/// the first version with [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html); see
/// [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html).
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#network-devices).
///
/// ```no_run
/// use std::os::fd::AsFd;
/// let theirs = std::fs::File::open("/proc/42/ns/net").unwrap();
/// nspod_oci_runtime::move_net_device("eth1", Some("eth0"), theirs.as_fd())?;
/// # Ok::<(), nspod_oci_runtime::Error>(())
/// ```
///
/// # Errors
/// - [`InvalidConfig`](crate::ErrorKind::InvalidConfig): the name is not valid for a device.
/// - `ENODEV`: no such device. `EEXIST`: the target has a device with the name, and the device is not
///   moved. `EPERM`: the caller lacks CAP_NET_ADMIN. `EINVAL`: the device cannot be moved.
pub fn move_net_device(name: &str, new_name: Option<&str>, target: BorrowedFd<'_>) -> Result<(), Error> {
    let inside = new_name.unwrap_or(name);
    for one in [name, inside] {
        check_name(&format!("linux.netDevices.{name}"), one)?;
    }
    let failed = |what: String, call: &'static str, errno: Errno, hint: &str| {
        let error = Error::call("net-devices", what, call, errno as i32).on(name);
        if hint.is_empty() { error } else { error.with_hint(hint) }
    };
    let here = Netlink::open().map_err(|e| failed(format!("find the device {name}"), "socket", e, ""))?;
    let index = here.index(name).map_err(|e| {
        let hint = "the caller's net namespace has no such device: see `ip link`";
        failed(format!("find the device {name}"), "rtnetlink", e, if e == Errno::ENODEV { hint } else { "" })
    })?;
    let addresses = here
        .addresses(index)
        .map_err(|e| failed(format!("read the addresses of the device {name}"), "rtnetlink", e, ""))?;

    let enter = |e| failed("enter the container's net namespace".into(), "setns", e, "");
    let taken = within(target, |there| there.index(inside)).map_err(enter)?;
    let moved = match taken {
        Ok(_) => Err(Errno::EEXIST),
        Err(_) => {
            here.set_link(index, 0, &[(IFLA_NET_NS_FD, &target.as_raw_fd().to_ne_bytes()), ifname(inside)])
        }
    };
    moved.map_err(|e| {
        let hint = match e {
            Errno::EEXIST => "the container has a device of that name already",
            Errno::EPERM => "this requires CAP_NET_ADMIN in both net namespaces",
            Errno::EINVAL => "this device cannot leave its net namespace, like lo and some tunnels",
            _ => "",
        };
        failed(format!("move the device {name} into the container as {inside}"), "rtnetlink", e, hint)
    })?;
    let settled = within(target, |there| {
        let index = there.index(inside)?;
        for address in &addresses {
            there.add(address, index)?;
        }
        there.set_link(index, libc::IFF_UP as u32, &[])
    });
    settled.map_err(enter)?.map_err(|e| {
        failed(
            format!("give the device {inside} its addresses and bring it up in the container"),
            "rtnetlink",
            e,
            "",
        )
    })
}

/// Checks a name of a network device, as the kernel's `dev_valid_name`. A `%` would make the kernel
/// choose a number.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), Error> {
    let wrong = name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || matches!(name, "." | "..")
        || name.bytes().any(|b| matches!(b, b'/' | b':' | b'%' | 0) || b.is_ascii_whitespace());
    match wrong {
        false => Ok(()),
        true => {
            let problem =
                "not a name of a network device: at most 15 bytes, and neither / : % nor white space";
            Err(Error::invalid(field, format!("{name:?} is {problem}")))
        }
    }
}

/// Calls a function with a socket of another net namespace. A separate thread opens the socket, so that the
/// caller stays in its namespace.
fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    then: impl FnOnce(&Netlink) -> Result<T, Errno> + Send,
) -> Result<Result<T, Errno>, Errno> {
    let there = std::thread::scope(|scope| {
        let enter = || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Netlink::open()
        };
        // The thread contains no code that can panic.
        scope.spawn(enter).join().unwrap_or(Err(Errno::ECANCELED))
    })?;
    // A socket belongs to the namespace in which it was opened.
    Ok(then(&there))
}

/// An address: family, prefix length in bits, and attributes.
struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A socket of NETLINK_ROUTE.
struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Netlink, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).map(Netlink)
    }

    /// Sends a request, and calls `each` with the messages of the answer.
    fn request(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Errno> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..n];
            while let Some((kind, body, next)) = split_message(rest) {
                rest = next;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let errno = body.first_chunk().map_or(libc::EPROTO, |e| -i32::from_ne_bytes(*e));
                        return if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno)) };
                    }
                    kind => each(kind, body),
                }
            }
        }
    }

    /// Returns the index of a device.
    fn index(&self, name: &str) -> Result<u32, Errno> {
        let mut body = link(0, 0);
        push(&mut body, ifname(name));
        let mut index = Err(Errno::ENODEV);
        self.request(libc::RTM_GETLINK, NLM_F_ACK, &body, |kind, body| {
            if let (libc::RTM_NEWLINK, Some(bytes)) = (kind, body.get(4..8).and_then(|b| b.first_chunk())) {
                index = Ok(u32::from_ne_bytes(*bytes));
            }
        })?;
        index
    }

    /// Returns the permanent addresses of global scope of a device.
    fn addresses(&self, index: u32) -> Result<Vec<Address>, Errno> {
        let mut addresses = Vec::new();
        self.request(libc::RTM_GETADDR, NLM_F_DUMP, &[0; 8], |kind, body| {
            let Some((&[family, prefix, flags, scope, i0, i1, i2, i3], mut rest)) = body.split_first_chunk()
            else {
                return;
            };
            let permanent = flags & IFA_F_PERMANENT != 0 && scope == libc::RT_SCOPE_UNIVERSE;
            if kind != libc::RTM_NEWADDR || u32::from_ne_bytes([i0, i1, i2, i3]) != index || !permanent {
                return;
            }
            let mut attributes = Vec::new();
            while let Some((kind, value, next)) = split_attribute(rest) {
                rest = next;
                if matches!(kind, IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST) {
                    attributes.push((kind, value.to_vec()));
                }
            }
            addresses.push(Address { family, prefix, attributes });
        })?;
        Ok(addresses)
    }

    fn add(&self, address: &Address, index: u32) -> Result<(), Errno> {
        let mut body = vec![address.family, address.prefix, IFA_F_PERMANENT, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            push(&mut body, (*kind, value));
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(libc::RTM_NEWADDR, flags, &body, |_, _| {})
    }

    /// Sets flags and attributes of a device.
    fn set_link(&self, index: u32, flags: u32, attributes: &[(u16, &[u8])]) -> Result<(), Errno> {
        let mut body = link(index, flags);
        for attribute in attributes {
            push(&mut body, *attribute);
        }
        self.request(libc::RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }
}

/// Returns a struct ifinfomsg.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, flags, flags] {
        body.extend(word.to_ne_bytes());
    }
    body
}

fn ifname(name: &str) -> (u16, &[u8]) {
    (IFLA_IFNAME, name.as_bytes())
}

/// Adds an attribute: length, kind, value, and zeroes up to a multiple of four bytes. The kernel does not
/// require a NUL after a name.
fn push(body: &mut Vec<u8>, (kind, value): (u16, &[u8])) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Returns kind and body of the first message, and the bytes after it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..6)?.first_chunk()?);
    let rest = bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((kind, bytes.get(HEADER..length)?, rest))
}

/// Returns kind and value of the first attribute, and the bytes after it.
fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..4)?.first_chunk()?);
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, bytes.get(4..length)?, rest))
}
