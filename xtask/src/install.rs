//! Installs the Debian packages that the chores need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sh;

/// Packages for `cargo xtask guest`.
pub(crate) const GUEST: &[&str] = &[
    "busybox-static",     // the guest's first programs
    "e2fsprogs",          // mkfs.ext4, for the scratch disk
    "kmod",               // depmod, and modprobe inside
    "qemu-system-common", // virtiofsd
    "qemu-system-x86",
    "util-linux", // unshare and setpriv around virtiofsd and qemu
];

/// Packages for building and running the tests, in addition to those of every Debian system. One of the
/// alternatives in a line is enough: Docker's package contains containerd and runc, and Debian's packages
/// would replace it.
pub(crate) const TESTS: &[&str] = &[
    "apparmor",       // apparmor_parser
    "attr",           // setfattr
    "busybox-static", // the image of a container
    "catatonit",      // podman's init, and the infra container of its pods
    "conmon",         // podman's monitor
    "containerd|containerd.io",
    "containernetworking-plugins", // the networks of `nspod run --network cni:NAME`
    "criu",                        // checkpoint and restore
    "crun",                        // a runtime to compare with
    "dbus-user-session",           // a bus for a user's systemd
    "e2fsprogs",                   // an ext4 with project quotas
    "g++",                         // libFuzzer
    "gcc",                         // linking
    "iproute2",
    "iptables", // criu blocks the connections of a container with it
    "libc6-dev",
    "libdevmapper1.02.1", // dockerd
    "libseccomp2",        // a seccomp compiler to compare with
    "netavark",           // podman's networks
    "passt",              // `nspod run --network pasta`
    "podman",
    "procps",
    "python3",
    "python3-jsonschema", // the specification's schemas
    "runc|containerd.io", // a runtime to compare with
    "strace",
    "systemd", // delegation of cgroups
    "uidmap",  // newuidmap and newgidmap
    "util-linux",
    "xfsprogs", // an xfs with project quotas
];

/// Installs the missing packages if it `may`. Otherwise the error contains the command that does.
pub(crate) fn packages(packages: &[&str], may: bool) -> Result<()> {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${binary:Package} ${db:Status-Status}\n"])
        .args(packages.iter().flat_map(|names| names.split('|')))
        .output();
    let Ok(query) = query else {
        bail!("dpkg-query cannot be started: this requires a Debian system");
    };
    let missing = missing(packages, &String::from_utf8_lossy(&query.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !may || !is_root()? {
        bail!("these Debian packages are missing; as root, run `{command}`");
    }
    eprintln!("xtask: {command}");
    with_lists(|| sh::run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing)))
}

/// Runs `step`, which uses the lists of apt. If there are none or it fails, fetches the lists and runs it again.
fn with_lists(step: impl Fn() -> Result<()>) -> Result<()> {
    let lists = Path::new("/var/lib/apt/lists");
    let have_lists = lists.read_dir().is_ok_and(|mut entries| {
        entries
            .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages")))
    });
    if have_lists && step().is_ok() {
        return Ok(());
    }
    sh::run(apt_get().arg("update"))?;
    step()
}

/// Unpacks a package to a new directory without installing it. An installed kernel would be booted, and an
/// installed daemon started.
pub(crate) fn unpack(
    package: impl Fn() -> Result<String>,
    to: &Path,
    finish: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    let parent = to.parent().context("a folder is in another")?;
    fs::create_dir_all(parent)?;
    let temporary = tempfile::Builder::new().prefix("package-").tempdir_in(parent)?;
    with_lists(|| {
        // apt warns that its own user cannot write here, which does no harm.
        let user = ["-o", "APT::Sandbox::User=root"];
        sh::run(apt_get().args(user).args(["download", &package()?]).current_dir(&temporary))
    })?;
    let file = only_entry(temporary.path())?;
    let tree = temporary.path().join("tree");
    sh::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree))?;
    finish(&tree)?;
    match fs::rename(&tree, to) {
        // Another run has unpacked it meanwhile.
        Err(_) if to.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("moving what was unpacked to {}", to.display())),
    }
}

/// Returns the only entry of a directory.
pub(crate) fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut entries = directory.read_dir().with_context(|| format!("reading {}", directory.display()))?;
    let entry = entries.next().with_context(|| {
        format!("{} is empty; delete target/guest to have it made anew", directory.display())
    })?;
    Ok(entry?.path())
}

/// Returns `apt-get` without questions, waiting for its lock, with its output on stderr.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command.stdout(std::io::stderr());
    command
}

/// Returns whether the caller is root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(sh::read(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Returns the packages that dpkg-query does not list as installed. It may list a name with its architecture.
fn missing<'a>(wanted: &[&'a str], dpkg_query: &str) -> Vec<&'a str> {
    let installed: Vec<&str> = dpkg_query
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(|name| name.split(':').next().unwrap_or(name))
        .collect();
    let is_there = |names: &str| names.split('|').any(|name| installed.contains(&name));
    let first = |names: &'a str| names.split('|').next().unwrap_or(names);
    wanted.iter().filter(|names| !is_there(names)).map(|names| first(names)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_removed_packages_are_missing() {
        let dpkg_query = "kmod installed\nuidmap config-files\nlibc6:amd64 installed\nstrace not-installed\n";
        assert_eq!(
            missing(&["kmod", "uidmap", "libc6", "strace", "bridge"], dpkg_query),
            ["uidmap", "strace", "bridge"]
        );
        assert_eq!(missing(&["kmod|mod", "mod|kmod", "a|b"], dpkg_query), ["a"]);
    }
}
