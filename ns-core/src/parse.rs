//! Pure parsers of what `/proc` says about processes, and of `/etc/passwd`.
//!
//! The texts of id maps, sub-ids and time offsets are parsed by their types:
//! [`IdMap`](crate::IdMap), [`SubIds`](crate::SubIds), [`TimeOffsets`](crate::TimeOffsets).

use libc::pid_t;

use crate::Kind;

/// The pids of a process from the text of `/proc/PID/status`: first the one in the reader's
/// pid namespace, last the one in its own (the `NSpid` line, since Linux 4.1).
///
/// ```
/// let status = "Name:\tsh\nTgid:\t4242\nNSpid:\t4242\t17\t1\n";
/// assert_eq!(ns_core::parse::nspid(status), Some(vec![4242, 17, 1]));
/// ```
pub fn nspid(status: &str) -> Option<Vec<pid_t>> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let pids: Vec<pid_t> =
        line.split_ascii_whitespace().map(|pid| pid.parse().ok()).collect::<Option<_>>()?;
    (!pids.is_empty()).then_some(pids)
}

/// The pid from the text of a pidfd's `/proc/PID/fdinfo/FD`: -1 once it has been reaped, 0
/// if it is outside the reader's pid namespace. `None` if this is no pidfd.
///
/// ```
/// assert_eq!(ns_core::parse::fdinfo_pid("pos:\t0\nPid:\t42\nNSpid:\t42\n"), Some(42));
/// ```
pub fn fdinfo_pid(fdinfo: &str) -> Option<pid_t> {
    fdinfo.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// Kind and inode number from the target of a link below `/proc/PID/ns`.
///
/// ```
/// use ns_core::Kind;
/// assert_eq!(ns_core::parse::ns_link("net:[4026531840]"), Some((Kind::Net, 4026531840)));
/// ```
pub fn ns_link(target: &str) -> Option<(Kind, u64)> {
    let (kind, rest) = target.split_once(":[")?;
    let ino = rest.strip_suffix(']')?;
    if ino.is_empty() || !ino.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((kind.parse().ok()?, ino.parse().ok()?))
}

/// The name of a user from the text of `/etc/passwd`.
///
/// ```
/// let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
/// assert_eq!(ns_core::parse::user_name(passwd, 1000), Some("alice"));
/// assert_eq!(ns_core::parse::user_name(passwd, 1001), None);
/// ```
pub fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}
