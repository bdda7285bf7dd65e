//! The host names of a container: `/etc/hosts` and `/etc/hostname`.
//!
//! The hosts file of a pod also names the containers of the pod. It is bound into all of them, so it is written in
//! place. The writers lock a file of their own: a program in a container can lock the hosts file.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nspod_sandbox::Error;
use nspod_sandbox::store::read_bounded;
use rustix::fs::{FlockOperation, flock};

use super::data::STEP;

/// File names in the store. In the container the files are in `/etc`.
pub(super) const HOSTS: &str = "hosts";
pub(super) const HOSTNAME: &str = "hostname";
/// The file that the writers of a pod's hosts file lock.
pub(super) const LOCK: &str = "hosts.lock";
/// Addresses at which the containers of a pod reach each other.
pub(super) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// The line above the names of a pod's containers.
const MARK: &str = "# containers of the pod\n";

/// Returns a hosts file that names the container or pod by each of its addresses.
pub(super) fn text(hostname: Option<&str>, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for name in hostname.into_iter().filter(|name| is_plain(name)) {
        addresses.iter().for_each(|address| line(&mut text, address, name));
    }
    text
}

fn line(text: &mut String, address: &IpAddr, name: &str) {
    let _ = writeln!(text, "{address}\t{name}");
}

/// Returns whether the name is one word of a hosts file. A host name can have any bytes, also line feeds.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
}

/// Returns the names of the containers in the hosts file of a pod.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.split_once(MARK).map_or("", |(_, lines)| lines).lines();
    lines.filter_map(|line| line.strip_prefix("127.0.0.1\t"))
}

/// Returns the hosts file of a pod with these containers.
fn with_names(text: &str, names: &[&str]) -> String {
    let mut text = text.split_once(MARK).map_or(text, |(head, _)| head).to_owned();
    if !names.is_empty() {
        text.push_str(MARK);
    }
    for name in names {
        LOOPBACK.iter().for_each(|address| line(&mut text, address, name));
    }
    text
}

/// Updates the names of the containers in the hosts file of the pod with this directory. Names for which `stays`
/// returns false are removed. Does nothing if the pod has no such file, or was removed.
pub(super) fn update(
    dir: &Path,
    added: Option<&str>,
    mut stays: impl FnMut(&str) -> bool,
) -> Result<(), Error> {
    // A program in a container can have a lease on the hosts file, which would suspend open(2) for 45 s.
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
    let open = |name| match options.open(dir.join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(|e| Error::path(STEP, "open", &dir.join(name), &e)),
    };
    let (Some(lock), Some(hosts)) = (open(LOCK)?, open(HOSTS)?) else { return Ok(()) };
    let failed = |what, e: io::Error| Error::path(STEP, what, &dir.join(HOSTS), &e);
    rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
        .map_err(|e| failed("lock", e.into()))?;
    // A privileged container of the pod can write anything into the file.
    let old = read_bounded(&hosts).map_err(|e| failed("read", e))?;
    let old = String::from_utf8_lossy(&old);
    let mut all: Vec<&str> = names(&old).filter(|name| stays(name)).collect();
    if let Some(name) = added.filter(|name| !all.contains(name)) {
        all.push(name);
    }
    let new = with_names(&old, &all);
    match new == old {
        true => Ok(()),
        false => replace(&hosts, old.len(), &new).map_err(|e| failed("write", e)),
    }
}

/// Replaces the text of an open file. A reader sees at most empty lines after the new text, and no part of the old
/// one.
fn replace(file: &File, old: usize, text: &str) -> io::Result<()> {
    let mut padded = text.as_bytes().to_vec();
    padded.resize(old.max(text.len()), b'\n');
    file.write_all_at(&padded, 0)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> (tempfile::TempDir, impl Fn() -> String) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [(HOSTS, text(Some("shop"), &LOOPBACK)), (LOCK, String::new())] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let path = dir.path().join(HOSTS);
        (dir, move || std::fs::read_to_string(&path).unwrap())
    }

    #[test]
    fn names_come_and_go_and_the_head_stays() {
        let (dir, hosts) = pod();
        let empty = hosts();
        update(dir.path(), Some("web"), |_| panic!("there is no name")).unwrap();
        let expected = format!("{empty}{MARK}127.0.0.1\tweb\n::1\tweb\n");
        assert_eq!(hosts(), expected);
        update(dir.path(), Some("db"), |name| name == "web").unwrap();
        assert_eq!(hosts(), format!("{expected}127.0.0.1\tdb\n::1\tdb\n"));
        update(dir.path(), Some("db"), |name| name == "db").unwrap();
        assert_eq!(hosts(), format!("{empty}{MARK}127.0.0.1\tdb\n::1\tdb\n"));
        update(dir.path(), None, |_| false).unwrap();
        assert_eq!(hosts(), empty);
    }

    #[test]
    fn the_file_stays_the_same_file() {
        use std::os::unix::fs::MetadataExt;
        let (dir, hosts) = pod();
        let inode = || dir.path().join(HOSTS).metadata().unwrap().ino();
        let before = inode();
        update(dir.path(), Some("a-long-name"), |_| true).unwrap();
        update(dir.path(), Some("b"), |_| false).unwrap();
        assert_eq!(inode(), before);
        assert!(hosts().ends_with("::1\tb\n"), "{}", hosts());
    }

    #[test]
    fn a_file_with_any_content_is_updated_or_refused() {
        let (dir, _) = pod();
        let path = dir.path().join(HOSTS);
        std::fs::write(&path, b"\xff\n").unwrap();
        update(dir.path(), Some("web"), |_| true).unwrap();
        assert!(std::fs::read(&path).unwrap().ends_with(b"127.0.0.1\tweb\n::1\tweb\n"));
        // The file is larger than the memory.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = update(dir.path(), Some("web"), |_| true).unwrap_err().to_string();
        assert!(error.contains("more than the maximum of 16777216 bytes"), "{error}");
    }

    #[test]
    fn a_removed_pod_has_no_names() {
        let (dir, _) = pod();
        std::fs::remove_file(dir.path().join(LOCK)).unwrap();
        update(dir.path(), Some("web"), |_| true).unwrap();
        assert_eq!(names(&std::fs::read_to_string(dir.path().join(HOSTS)).unwrap()).count(), 0);
    }

    #[test]
    fn a_name_cannot_add_a_line() {
        for name in ["", "a b", "a\n10.0.0.1\tb", "a\tb", "a#b", "a\0b", "a\u{2028}b"] {
            assert_eq!(text(Some(name), &LOOPBACK), text(None, &LOOPBACK), "{name:?}");
        }
        assert!(text(Some("a.b-c"), &LOOPBACK).ends_with("127.0.0.1\ta.b-c\n::1\ta.b-c\n"));
    }
}
