//! The files for name lookup in a container with a network or in a pod: `/etc/hosts`, `/etc/hostname` and
//! `/etc/resolv.conf`.
//!
//! They are bound read-only: the container could otherwise fill the host's file system with them.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nspod_sandbox::Error;
use nspod_sandbox::spec::{Mount, MountKind, Root};

use super::data::STEP;
use super::hosts::{self, HOSTNAME, HOSTS};
use super::pasta;

/// Name of the file with the nameservers in the store.
const RESOLVER: &str = "resolv.conf";
/// Names of the files in the store. In the container they are in `/etc`.
const FILES: [&str; 3] = [HOSTS, RESOLVER, HOSTNAME];
const HOST: &str = "/etc/resolv.conf";
/// The nameservers of a host whose `resolv.conf` names only systemd-resolved.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Whether the container can use a nameserver at the host's loopback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loopback {
    /// pasta forwards the queries.
    Forwarded,
    Unreachable,
}

/// The contents of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolver {
    pub(super) nameservers: Vec<String>,
    /// Other lines: search, options.
    pub(super) others: Vec<String>,
}

impl Resolver {
    /// Returns the host's, adapted to the container.
    pub(super) fn of_host(loopback: Loopback) -> Resolver {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let text = read(HOST);
        let found = Resolver::parse(&text, loopback);
        if found.nameservers.is_empty() && loopback == Loopback::Unreachable {
            let other = Resolver::parse(&read(RESOLVED), loopback);
            if !other.nameservers.is_empty() {
                return other;
            }
        }
        found
    }

    fn parse(text: &str, loopback: Loopback) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines().map(str::trim) {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words.next()) {
                (Some("nameserver"), Some(server)) => {
                    let server = match server.parse::<IpAddr>() {
                        Ok(address) if address.is_loopback() => match loopback {
                            Loopback::Forwarded => {
                                pasta::NAMESERVERS[usize::from(address.is_ipv6())].to_string()
                            }
                            Loopback::Unreachable => continue,
                        },
                        _ => server.to_owned(),
                    };
                    if !resolver.nameservers.contains(&server) {
                        resolver.nameservers.push(server);
                    }
                }
                (Some("search" | "domain" | "options"), Some(_)) => resolver.others.push(line.into()),
                _ => {}
            }
        }
        resolver
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.others {
            let _ = writeln!(text, "{line}");
        }
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        text
    }
}

/// Makes the files of a network, empty, unless they exist.
pub(super) fn make(dir: &Path) -> Result<(), Error> {
    [HOSTS, RESOLVER].iter().try_for_each(|name| make_one(dir, name, ""))
}

/// Makes the hosts file of a pod.
pub(super) fn make_hosts(dir: &Path, hostname: Option<&str>) -> Result<(), Error> {
    make_one(dir, hosts::LOCK, "")?;
    make_one(dir, HOSTS, &hosts::text(hostname, &hosts::LOOPBACK))
}

/// Makes the file with the host name, unless the name is not one word.
pub(super) fn make_hostname(dir: &Path, name: &str) -> Result<(), Error> {
    if hosts::is_plain(name) { make_one(dir, HOSTNAME, &format!("{name}\n")) } else { Ok(()) }
}

/// Makes a file that programs of any user in the container can read.
fn make_one(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = dir.join(name);
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(&path);
    made.and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    })
    .map_err(|e| Error::path(STEP, "make", &path, &e))
}

/// Writes the files of a network in place, because they are bound in the container already.
pub(super) fn write(
    dir: &Path,
    hostname: Option<&str>,
    addresses: &[IpAddr],
    resolver: &Resolver,
) -> Result<(), Error> {
    for (name, text) in [(HOSTS, hosts::text(hostname, addresses)), (RESOLVER, resolver.text())] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|e| Error::path(STEP, "write", &path, &e))?;
    }
    Ok(())
}

/// Adds the mounts of the files that the directory has. A file stays as it is if something is mounted there already,
/// or if the root does not have it. Only a network adds files to a writable root directory.
pub(super) fn mount(dir: &Path, root: &Root, mounts: &mut Vec<Mount>) {
    let connected = dir.join(RESOLVER).exists();
    for name in FILES.into_iter().filter(|name| dir.join(name).exists()) {
        let place = Path::new("/etc").join(name);
        let taken = |mount: &Mount| mount.destination == place || mount.destination == Path::new("/etc");
        if mounts.iter().any(taken) || !can_have(root, name, connected && name != HOSTNAME) {
            continue;
        }
        let kind = MountKind::Bind { source: dir.join(name), recursive: false };
        let mount =
            Mount { readonly: true, nosuid: true, nodev: true, noexec: true, ..Mount::new(place, kind) };
        mounts.push(mount);
    }
}

/// Returns whether the root has `/etc/NAME`, or can get it. `adds` allows to add it to a directory of the host.
fn can_have(root: &Root, name: &str, adds: bool) -> bool {
    let has = |dir: PathBuf| dir.join("etc").join(name).symlink_metadata().is_ok();
    match root {
        Root::Dir { path, readonly } => adds && !readonly || has(path.clone()),
        Root::Host | Root::HostReadOnly => has("/".into()),
        Root::Overlay { lower, .. } => adds || lower.iter().any(|dir| has(dir.clone())),
        Root::Empty => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_at_the_loopback_address_are_replaced_or_left_out() {
        let text = "# host\nsearch example.org\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\noptions edns0\n";
        let parsed = |loopback| Resolver::parse(text, loopback).text();
        assert_eq!(
            parsed(Loopback::Forwarded),
            "search example.org\noptions edns0\nnameserver 10.0.2.3\nnameserver fd00:6e73:706f:64::3\nnameserver 192.0.2.1\n"
        );
        assert_eq!(
            parsed(Loopback::Unreachable),
            "search example.org\noptions edns0\nnameserver 192.0.2.1\n"
        );
    }

    #[test]
    fn a_mount_of_the_caller_stays() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path()).unwrap();
        let own = |place: &str| Mount::new(place, MountKind::Bind { source: "/x".into(), recursive: false });
        let mut mounts = vec![own("/etc/hosts")];
        mount(dir.path(), &Root::Empty, &mut mounts);
        let places: Vec<_> = mounts.iter().map(|m| (m.destination.to_str().unwrap(), m.readonly)).collect();
        assert_eq!(places, [("/etc/hosts", false), ("/etc/resolv.conf", true)]);
        let mut mounts = vec![own("/etc")];
        mount(dir.path(), &Root::Empty, &mut mounts);
        assert_eq!(mounts.len(), 1);
    }

    #[test]
    fn only_a_network_adds_files_to_a_directory_of_the_host() {
        let (dir, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mounted = |readonly| {
            let mut mounts = Vec::new();
            let root = Root::Dir { path: root.path().into(), readonly };
            mount(dir.path(), &root, &mut mounts);
            mounts.iter().map(|m| m.destination.display().to_string()).collect::<Vec<_>>()
        };
        make_hosts(dir.path(), Some("shop")).unwrap();
        make_hostname(dir.path(), "shop").unwrap();
        assert_eq!(mounted(false), [""; 0]);
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/hostname"), "").unwrap();
        assert_eq!(mounted(true), ["/etc/hostname"]);
        make(dir.path()).unwrap();
        assert_eq!(mounted(false), ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"]);
        assert_eq!(mounted(true), ["/etc/hostname"]);
    }

    #[test]
    fn the_hosts_file_names_the_container_by_each_address() {
        let text = hosts::text(Some("box"), &pasta::ADDRESSES);
        assert!(text.ends_with("10.0.2.100\tbox\nfd00:6e73:706f:64::100\tbox\n"), "{text}");
        assert!(hosts::text(None, &pasta::ADDRESSES).ends_with("ip6-loopback\n"));
    }
}
