//! File flags: the container's root, mounts and devices.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cgroup_core::device::{DEFAULT, Kind as DeviceKind, Rule};
use clap::Args;
use nspod_sandbox::layer::Layer;
use nspod_sandbox::spec::{Link, Mount, MountKind, NamespaceMode, Root, Spec, StorageLimit, Writes};

use super::Facts;
use super::limits::device_number;
use super::mounts::{self, DeviceFlag, Volume};
use crate::error::{Error, Result};

// A plain comment: clap would print a doc comment of flattened arguments as help of the command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileArgs {
    /// Directory to use as the container's /, with new /proc, /dev and /sys [default: the host's /,
    /// read-only, with new /proc, /dev, /sys, /tmp and /run]
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Mount an overlay over the root (--rootfs, or the host's /): writes go to a tmpfs that is
    /// deleted with the container, or to DIR/upper, where `nspod diff` and `nspod commit` find them. In a
    /// user namespace, an overlay of the host's / has no DIR, and files of users without an id in the
    /// container cannot be changed
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    overlay: Option<Option<PathBuf>>,
    /// Maximum size and number of inodes of the writes to the overlay: size=64m,inodes=10k; more fail with
    /// ENOSPC. Without DIR, the files are in memory and count as memory of the container. With DIR, the limit
    /// is a project quota, which requires root, and an ext4 or xfs with the mount option prjquota
    #[arg(long, value_name = "size=BYTES,inodes=COUNT", value_parser = mounts::storage, requires = "overlay")]
    storage_opt: Vec<StorageLimit>,
    /// Allow access to sockets and named pipes among the host's files. By default an overlay prevents it,
    /// because a read-only mount alone does not
    #[arg(long, conflicts_with_all = ["rootfs", "overlay"])]
    host_sockets: bool,
    /// Make the root read-only; /tmp and /run are tmpfs
    #[arg(long, conflicts_with = "overlay")]
    read_only: bool,
    /// Mount a file or directory of the host. Options: ro, noexec, nosuid, nodev, bind (without the
    /// mounts below it), optional (left out if the source does not exist), rslave or slave (with later
    /// mounts of the host), size=64m and inodes=10k (limits of a directory, as with --storage-opt)
    #[arg(short, long, value_name = "SOURCE:DESTINATION[:OPTIONS]", value_parser = mounts::volume)]
    volume: Vec<Volume>,
    /// Mount an empty tmpfs. Options: size=64m, inodes=10k, mode=1777, exec, dev, ro. With / the root is empty
    /// and read-only, except for the mounts and symbolic links in it
    #[arg(long, value_name = "DESTINATION[:OPTIONS]", value_parser = mounts::tmpfs)]
    tmpfs: Vec<Mount>,
    /// Mount a file system: type=bind|tmpfs|proc|sysfs|mqueue|devpts|cgroup|dev,source=…,target=…, with the
    /// options of --volume or --tmpfs, and propagation=rslave
    #[arg(long, value_name = "TYPE,…", value_parser = mounts::mount)]
    mount: Vec<Volume>,
    /// Make a symbolic link to TARGET in the container. An existing file stays
    #[arg(long, value_name = "TARGET:PATH", value_parser = mounts::symlink)]
    symlink: Vec<Link>,
    /// Allow a device of the host. All others are denied, except the standard ones such as /dev/null
    #[arg(long, value_name = "PATH[:PATH][:rwm]", value_parser = mounts::device)]
    device: Vec<DeviceFlag>,
}

impl FileArgs {
    /// Returns whether no flag was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.rootfs.is_none()
            && self.overlay.is_none()
            && !self.read_only
            && !self.host_sockets
            && self.mounts().next().is_none()
            && self.symlink.is_empty()
            && self.device.is_empty()
    }

    /// Returns the mounts, and whether each is optional.
    fn mounts(&self) -> impl Iterator<Item = (&Mount, bool)> {
        let tmpfs = self.tmpfs.iter().map(|mount| (mount, false));
        self.volume.iter().map(Volume::parts).chain(tmpfs).chain(self.mount.iter().map(Volume::parts))
    }

    /// Returns the words of the command line for a field of one of these mounts, such as `mounts[6].kind.source`.
    pub(crate) fn words(&self, field: &str, mounts: &[Mount]) -> Option<String> {
        let index = field.strip_prefix("mounts[")?.split_once(']')?.0.parse::<usize>().ok()?;
        let Mount { destination, kind, .. } = mounts.get(index)?;
        let is_it = |mount: &Mount| mount.destination == *destination;
        let at = destination.display();
        Some(match kind {
            MountKind::Bind { source, .. } if self.volume.iter().any(|volume| is_it(&volume.mount)) => {
                format!("--volume {}:{at}", source.display())
            }
            _ if self.tmpfs.iter().any(is_it) => format!("--tmpfs {at}"),
            _ if self.mount.iter().any(|volume| is_it(&volume.mount)) => format!("--mount target={at}"),
            _ if self.device.iter().any(|device| device.destination == *destination) => {
                format!("--device {at}")
            }
            _ => format!("the mount of {at}"),
        })
    }

    pub(crate) fn apply(&self, spec: &mut Spec, facts: &Facts) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        if spec.namespaces.mnt != NamespaceMode::New {
            return Err(Error::usage(
                "--ns",
                "mounts and a container root require a new mnt namespace: remove `--ns mnt=…`, or the file flags",
            ));
        }
        self.check_root(spec, facts)?;
        self.root(spec, facts);
        // The kernel's ENOTDIR would not say which path is wrong.
        if let Root::Dir { path, .. } = &spec.root
            && path.metadata().is_ok_and(|found| !found.is_dir())
        {
            let problem = format!("--rootfs {} is not a directory", path.display());
            return Err(Error::usage("--rootfs", problem).on(path.display()));
        }
        for (mount, optional) in self.mounts().filter(|(mount, _)| !is_root(mount)) {
            let mut mount = mount.clone();
            if let MountKind::Bind { source, .. } = &mut mount.kind {
                *source = facts.cwd.join(&source);
                if optional && is_missing(source) {
                    continue;
                }
            }
            // This mount replaces a default mount at the same destination.
            spec.mounts.retain(|other| other.destination != mount.destination);
            spec.mounts.push(mount);
        }
        spec.links.extend(self.symlink.iter().cloned());
        for device in &self.device {
            let (mount, rule) = device_node(device)?;
            spec.mounts.push(mount);
            spec.devices.get_or_insert_with(|| DEFAULT.to_vec()).push(rule);
        }
        Ok(())
    }

    /// Checks that the flags for the root do not conflict.
    fn check_root(&self, spec: &Spec, facts: &Facts) -> Result<()> {
        let own_user = !facts.privileged || spec.namespaces.user != NamespaceMode::Host;
        if self.rootfs.is_none() && matches!(self.overlay, Some(Some(_))) && own_user {
            let problem = "in a user namespace, an overlay of the host's root cannot keep its writes in a directory, \
                           because the host's mounts are locked together: use --overlay without DIR, add --rootfs, \
                           or run as root without --userns";
            return Err(Error::usage("--overlay", problem));
        }
        let Some((root, _)) = self.mounts().find(|(mount, _)| is_root(mount)) else { return Ok(()) };
        if *root != Mount::new("/", MountKind::Tmpfs { mode: None }) {
            let problem = "a tmpfs on / accepts no options: it becomes read-only after the start";
            return Err(Error::usage("--tmpfs", problem));
        }
        if self.rootfs.is_some() || self.overlay.is_some() || self.host_sockets {
            let problem =
                "a tmpfs on / is an empty root and conflicts with --rootfs, --overlay and --host-sockets";
            return Err(Error::usage("--tmpfs", problem));
        }
        Ok(())
    }

    fn root(&self, spec: &mut Spec, facts: &Facts) {
        let rootfs = self.rootfs.as_ref().map(|dir| facts.cwd.join(dir));
        spec.root = match (&self.overlay, rootfs) {
            (Some(writes), rootfs) => Root::Overlay {
                lower: vec![rootfs.unwrap_or_else(|| "/".into())],
                writes: match writes {
                    None => Writes::Tmpfs,
                    Some(dir) => {
                        let dir = facts.cwd.join(dir);
                        Writes::Dir { upper: dir.join("upper"), work: dir.join("work") }
                    }
                },
                limit: self.storage_opt.iter().fold(StorageLimit::default(), |all, one| StorageLimit {
                    size: one.size.or(all.size),
                    inodes: one.inodes.or(all.inodes),
                }),
            },
            (None, Some(path)) => Root::Dir { path, readonly: self.read_only },
            (None, None) if self.mounts().any(|(mount, _)| is_root(mount)) => Root::Empty,
            (None, None) => Root::HostReadOnly,
        };
        spec.root_sockets = self.host_sockets;
        if self.rootfs.is_some() && !self.read_only {
            // The root directory has its own /tmp and /run.
            spec.mounts.retain(|m| m.destination != Path::new("/tmp") && m.destination != Path::new("/run"));
        }
    }

    /// Creates the upper and work directories of an overlay.
    pub(crate) fn make_directories(spec: &Spec) -> Result<()> {
        let Root::Overlay { lower, writes: Writes::Dir { upper, work }, .. } = &spec.root else {
            return Ok(());
        };
        let make = |dir: &Path| std::fs::create_dir_all(dir).map_err(|e| Error::io("make", "make", dir, &e));
        make(work)?;
        // The start reports a lower directory that does not exist.
        match lower.first().filter(|lower| lower.is_dir()) {
            Some(lower) => {
                upper.parent().map_or(Ok(()), make)?;
                Ok(Layer::prepare(upper, lower)?)
            }
            None => make(upper),
        }
    }
}

/// Returns whether a mount is a tmpfs on `/`.
fn is_root(mount: &Mount) -> bool {
    mount.destination == Path::new("/") && matches!(mount.kind, MountKind::Tmpfs { .. })
}

/// Returns whether a path or the target of its link does not exist.
fn is_missing(path: &Path) -> bool {
    let found = path.metadata();
    found.is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

fn device_node(flag: &DeviceFlag) -> Result<(Mount, Rule)> {
    let meta = flag.source.metadata().map_err(|e| Error::io("look", "look at", &flag.source, &e))?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => DeviceKind::Char,
        t if t.is_block_device() => DeviceKind::Block,
        _ => {
            let problem = format!("{} is not a device", flag.source.display());
            return Err(Error::usage("--device", problem).on(flag.source.display()));
        }
    };
    let number = device_number(meta.rdev());
    let rule =
        Rule { allow: true, kind, major: Some(number.major), minor: Some(number.minor), access: flag.access };
    let bind = MountKind::Bind { source: flag.source.clone(), recursive: false };
    let mount = Mount { nosuid: true, noexec: true, nodev: false, ..Mount::new(&flag.destination, bind) };
    Ok((mount, rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;

    fn spec(flags: &[&str]) -> Result<Spec> {
        let mut spec = Spec::new("true");
        parse::<FileArgs>(flags)?.apply(&mut spec, &Facts::root())?;
        Ok(spec)
    }

    fn at<'a>(spec: &'a Spec, destination: &str) -> Vec<&'a Mount> {
        spec.mounts.iter().filter(|m| m.destination == Path::new(destination)).collect()
    }

    #[test]
    fn the_default_files_are_the_librarys() {
        assert_eq!(spec(&[]).unwrap(), Spec::new("true"));
    }

    #[test]
    fn a_container_root_keeps_its_tmp() {
        let writable = spec(&["--rootfs", "img"]).unwrap();
        assert_eq!(writable.root, Root::Dir { path: "/work/img".into(), readonly: false });
        assert!(at(&writable, "/tmp").is_empty() && at(&writable, "/proc").len() == 1);
        let fixed = spec(&["--rootfs", "/img", "--read-only"]).unwrap();
        assert_eq!(fixed.root, Root::Dir { path: "/img".into(), readonly: true });
        assert_eq!(at(&fixed, "/tmp").len(), 1);
    }

    #[test]
    fn an_overlay_writes_to_a_tmpfs_or_a_directory() {
        let root = |flags: &[&str]| spec(flags).unwrap().root;
        let limit = StorageLimit::default();
        assert_eq!(
            root(&["--overlay"]),
            Root::Overlay { lower: vec!["/".into()], writes: Writes::Tmpfs, limit }
        );
        let dir = Writes::Dir { upper: "/work/w/upper".into(), work: "/work/w/work".into() };
        assert_eq!(
            root(&["--rootfs=/img", "--overlay=w"]),
            Root::Overlay { lower: vec!["/img".into()], writes: dir, limit }
        );
        nspod_testkit::assert_refused(spec(&["--overlay", "--read-only"]), "--overlay");
        let limit = StorageLimit { size: Some(2 << 20), inodes: Some(9) };
        let flags = ["--overlay", "--storage-opt=size=1m,inodes=9", "--storage-opt=size=2m"];
        assert_eq!(root(&flags), Root::Overlay { lower: vec!["/".into()], writes: Writes::Tmpfs, limit });
        nspod_testkit::assert_refused(spec(&["--storage-opt", "size=1m"]), "--overlay");
    }

    #[test]
    fn a_mount_replaces_a_default_one() {
        let spec = spec(&["--tmpfs", "/tmp:size=1m", "-v", "a/b:/mnt"]).unwrap();
        let [tmp] = at(&spec, "/tmp")[..] else { panic!("{:?}", spec.mounts) };
        assert_eq!(
            (&tmp.kind, tmp.limit),
            (&MountKind::Tmpfs { mode: None }, StorageLimit::of_size(1 << 20))
        );
        let MountKind::Bind { source, .. } = &at(&spec, "/mnt")[0].kind else { panic!() };
        assert_eq!(source, Path::new("/work/a/b"));
    }

    #[test]
    fn a_tmpfs_on_the_root_is_an_empty_root() {
        let empty = spec(&["--tmpfs", "/"]).unwrap();
        assert_eq!(empty, Spec { root: Root::Empty, ..Spec::new("true") });
        assert_eq!(spec(&["--mount", "type=tmpfs,dst=/"]).unwrap(), empty);
        for (flags, why) in [
            (&["--tmpfs", "/:size=1m"][..], "accepts no options"),
            (&["--tmpfs", "/", "--rootfs", "/img"], "conflicts with --rootfs"),
            (&["--tmpfs", "/", "--overlay"], "conflicts with --rootfs"),
        ] {
            nspod_testkit::assert_refused(spec(flags), why);
        }
    }

    #[test]
    fn an_optional_bind_without_a_source_changes_nothing() {
        assert_eq!(spec(&["-v", "/no/such:/tmp:optional"]).unwrap(), Spec::new("true"));
        let there = spec(&["-v", "/usr:/tmp:optional"]).unwrap();
        assert!(matches!(at(&there, "/tmp")[..], [Mount { kind: MountKind::Bind { .. }, .. }]));
    }

    #[test]
    fn a_device_is_a_mount_and_a_rule() {
        let spec = spec(&["--device", "/dev/null:/dev/nothing:rw"]).unwrap();
        assert_eq!(at(&spec, "/dev/nothing").len(), 1);
        let rules = spec.devices.unwrap();
        assert_eq!(rules[..DEFAULT.len()], DEFAULT);
        assert_eq!(rules.last().unwrap().to_string(), "allow c 1:3 rw");
        assert_eq!(
            self::spec(&["--device", "/etc/passwd"]).unwrap_err().to_string(),
            "/etc/passwd is not a device"
        );
    }
}
