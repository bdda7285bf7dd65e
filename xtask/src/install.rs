//! What the chores need from Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sh;

/// What `cargo xtask guest` needs.
pub(crate) const GUEST: &[&str] = &[
    "busybox-static",     // the guest's first programs
    "e2fsprogs",          // mkfs.ext4, for the scratch disk
    "kmod",               // depmod, and modprobe inside
    "qemu-system-common", // virtiofsd
    "qemu-system-x86",
    "util-linux", // unshare and setpriv around virtiofsd and qemu
];

/// What the tests call, or what building them takes, beside what is in every Debian system. Of
/// several in one line any will do: Docker's own package brings containerd and runc, and
/// Debian's would drive it out.
pub(crate) const TESTS: &[&str] = &[
    "apparmor",       // apparmor_parser
    "attr",           // setfattr
    "busybox-static", // the image of a container
    "catatonit",      // podman's init, and the infra container of its pods
    "conmon",         // podman's monitor
    "containerd|containerd.io",
    "criu",              // checkpoint and restore
    "crun",              // a runtime to compare with
    "dbus-user-session", // a bus for a user's systemd
    "g++",               // libFuzzer
    "gcc",               // linking
    "iproute2",
    "iptables", // by which criu holds a container's connections
    "libc6-dev",
    "libdevmapper1.02.1", // dockerd
    "libseccomp2",        // what the compiler of seccomp profiles is compared with
    "netavark",           // podman's networks
    "podman",
    "procps",
    "python3",
    "python3-jsonschema", // the specification's schemas
    "runc|containerd.io", // as crun
    "strace",
    "systemd", // delegation of cgroups
    "uidmap",  // newuidmap and newgidmap
    "util-linux",
];

/// Installs those of `packages` that are missing, if it `may`; otherwise says how to.
pub(crate) fn packages(packages: &[&str], may: bool) -> Result<()> {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${binary:Package} ${db:Status-Status}\n"])
        .args(packages.iter().flat_map(|names| names.split('|')))
        .output();
    let Ok(query) = query else {
        bail!("dpkg-query could not be started: this needs a Debian system");
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

/// Runs `step`, which uses apt's lists; where there are none, or it fails as they are old, fetches them.
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

/// Unpacks a package to where nothing is yet, and does not install it: a kernel would be booted, and
/// a daemon be started.
pub(crate) fn unpack(
    package: impl Fn() -> Result<String>,
    to: &Path,
    finish: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    let parent = to.parent().context("a folder is in another")?;
    fs::create_dir_all(parent)?;
    let temporary = tempfile::Builder::new().prefix("package-").tempdir_in(parent)?;
    with_lists(|| {
        // As root apt warns when its own user cannot write here; nothing is amiss then.
        let user = ["-o", "APT::Sandbox::User=root"];
        sh::run(apt_get().args(user).args(["download", &package()?]).current_dir(&temporary))
    })?;
    let file = only_entry(temporary.path())?;
    let tree = temporary.path().join("tree");
    sh::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree))?;
    finish(&tree)?;
    match fs::rename(&tree, to) {
        // Another run was quicker.
        Err(_) if to.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("moving what was unpacked to {}", to.display())),
    }
}

/// The one thing in a folder.
pub(crate) fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut entries = directory.read_dir().with_context(|| format!("reading {}", directory.display()))?;
    let entry = entries.next().with_context(|| {
        format!("{} is empty; delete target/guest to have it made anew", directory.display())
    })?;
    Ok(entry?.path())
}

/// `apt-get`, which asks nothing, waits for others, and prints on stderr.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command.stdout(std::io::stderr());
    command
}

/// Whether the caller is root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(sh::read(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Those of `wanted` that dpkg-query does not show as installed. A name may come with its architecture.
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
