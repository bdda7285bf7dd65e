//! The files for name lookup in a container with a network: `/etc/hosts` and `/etc/resolv.conf`.
//!
//! They are bound read-only: the container could otherwise fill the host's file system with them.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nspod_sandbox::Error;
use nspod_sandbox::spec::{Mount, MountKind, Root};

use super::data::STEP;
use super::pasta;

/// Names of the files in the store. In the container they are in `/etc`.
const FILES: [&str; 2] = ["hosts", "resolv.conf"];
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

fn hosts(hostname: Option<&str>, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for address in addresses {
        if let Some(name) = hostname {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    text
}

/// Makes the files, empty. Programs of any user in the container can read them.
pub(super) fn make(dir: &Path) -> Result<(), Error> {
    for name in FILES {
        let path = dir.join(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        made.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)))
            .map_err(|e| Error::path(STEP, "make", &path, &e))?;
    }
    Ok(())
}

/// Writes the files in place, because they are bound in the container already.
pub(super) fn write(
    dir: &Path,
    hostname: Option<&str>,
    addresses: &[IpAddr],
    resolver: &Resolver,
) -> Result<(), Error> {
    for (name, text) in FILES.into_iter().zip([hosts(hostname, addresses), resolver.text()]) {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|e| Error::path(STEP, "write", &path, &e))?;
    }
    Ok(())
}

/// Adds the mounts of the files. A file stays as it is if the caller mounts something there, or if a read-only root
/// does not have it.
pub(super) fn mount(dir: &Path, root: &Root, mounts: &mut Vec<Mount>) {
    for name in FILES {
        let place = Path::new("/etc").join(name);
        let taken = |mount: &Mount| mount.destination == place || mount.destination == Path::new("/etc");
        if mounts.iter().any(taken) || !can_have(root, name) {
            continue;
        }
        let kind = MountKind::Bind { source: dir.join(name), recursive: false };
        let mount =
            Mount { readonly: true, nosuid: true, nodev: true, noexec: true, ..Mount::new(place, kind) };
        mounts.push(mount);
    }
}

/// Returns whether the root has `/etc/NAME`, or can get it.
fn can_have(root: &Root, name: &str) -> bool {
    let has = |dir: PathBuf| dir.join("etc").join(name).symlink_metadata().is_ok();
    match root {
        Root::Dir { path, readonly } => !readonly || has(path.clone()),
        Root::Host | Root::HostReadOnly => has("/".into()),
        Root::Overlay { .. } | Root::Empty => true,
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
        let own = |place: &str| Mount::new(place, MountKind::Bind { source: "/x".into(), recursive: false });
        let mut mounts = vec![own("/etc/hosts")];
        mount(Path::new("/run/x"), &Root::Empty, &mut mounts);
        let places: Vec<_> = mounts.iter().map(|m| (m.destination.to_str().unwrap(), m.readonly)).collect();
        assert_eq!(places, [("/etc/hosts", false), ("/etc/resolv.conf", true)]);
        let mut mounts = vec![own("/etc")];
        mount(Path::new("/run/x"), &Root::Empty, &mut mounts);
        assert_eq!(mounts.len(), 1);
    }

    #[test]
    fn the_hosts_file_names_the_container_by_each_address() {
        let text = hosts(Some("box"), &pasta::ADDRESSES);
        assert!(text.ends_with("10.0.2.100\tbox\nfd00:6e73:706f:64::100\tbox\n"), "{text}");
        assert!(hosts(None, &pasta::ADDRESSES).ends_with("ip6-loopback\n"));
    }
}
