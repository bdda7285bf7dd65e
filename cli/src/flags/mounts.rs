//! Parsers of `-v`, `--tmpfs`, `--mount`, `--symlink` and `--device`: pure functions of text.

use std::path::PathBuf;

use cgroup_core::device::Access;
use nspod_sandbox::spec::{Link, Mount, MountKind, Propagation, PropagationKind, StorageLimit};

use crate::value;

type Parsed<T> = std::result::Result<T, String>;

/// A mount of `-v` or `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) mount: Mount,
    /// Whether the mount is left out if its source does not exist.
    pub(crate) optional: bool,
}

impl Volume {
    /// Returns the mount, and whether it is optional.
    pub(crate) fn parts(&self) -> (&Mount, bool) {
        (&self.mount, self.optional)
    }
}

/// Parses `SOURCE:DESTINATION[:OPTIONS]`. `PATH` alone is both source and destination.
pub(crate) fn volume(text: &str) -> Parsed<Volume> {
    let mut parts = text.splitn(3, ':');
    let source = parts.next().unwrap_or_default();
    let (destination, options) = (parts.next().unwrap_or(source), parts.next().unwrap_or(""));
    if source.is_empty() || !destination.starts_with('/') {
        return Err(format!("{text:?} must have the form SOURCE:/DESTINATION[:OPTIONS]"));
    }
    if !source.contains('/') && source != "." && source != ".." {
        return Err(format!(
            "{source:?} must be a path: nspod has no named volumes; for a directory or file in the working directory use ./{source}"
        ));
    }
    let mount = Mount::new(destination, MountKind::Bind { source: source.into(), recursive: true });
    let mut volume = Volume { mount, optional: false };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match (option, &mut volume.mount.kind) {
            ("rbind", MountKind::Bind { recursive, .. }) => *recursive = true,
            ("bind", MountKind::Bind { recursive, .. }) => *recursive = false,
            // Labels of SELinux, which docker sets.
            ("z" | "Z", _) => {}
            _ => option_of_bind(&mut volume, option)?,
        }
    }
    Ok(volume)
}

/// Parses `DESTINATION[:size=64m,mode=1777,…]`.
pub(crate) fn tmpfs(text: &str) -> Parsed<Mount> {
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    if !destination.starts_with('/') {
        return Err(format!("{text:?} must have the form /DESTINATION[:OPTIONS]"));
    }
    let mut mount = Mount::new(destination, MountKind::Tmpfs { mode: None });
    for option in options.split(',').filter(|o| !o.is_empty()) {
        option_of_tmpfs(&mut mount, option)?;
    }
    Ok(mount)
}

fn option_of_bind(volume: &mut Volume, option: &str) -> Parsed<()> {
    let mount = &mut volume.mount;
    if option == "optional" {
        volume.optional = true;
        return Ok(());
    }
    if let Some(propagation) = propagation(option)? {
        mount.propagation = propagation;
        return Ok(());
    }
    match option.split_once('=') {
        Some((name @ ("size" | "inodes"), text)) => {
            limit(&mut mount.limit, name, text)?;
            // The mounts below it would not be limited.
            if let MountKind::Bind { recursive, .. } = &mut mount.kind {
                *recursive = false;
            }
            Ok(())
        }
        _ => flag(mount, option),
    }
}

/// Parses the propagation of mount events. Returns `None` for another word, and nothing for the default.
fn propagation(word: &str) -> Parsed<Option<Vec<Propagation>>> {
    let slave = |recursive| Ok(Some(vec![Propagation { kind: PropagationKind::Slave, recursive }]));
    match word {
        "private" | "rprivate" => Ok(Some(Vec::new())),
        "slave" => slave(false),
        "rslave" => slave(true),
        "shared" | "rshared" => Err(format!(
            "{word:?} would send mounts of the container to the host, which nspod does not do: use rslave to \
             receive those of the host"
        )),
        _ => Ok(None),
    }
}

fn option_of_tmpfs(mount: &mut Mount, option: &str) -> Parsed<()> {
    let MountKind::Tmpfs { mode } = &mut mount.kind else { return flag(mount, option) };
    match option.split_once('=') {
        Some(("mode" | "tmpfs-mode", text)) => *mode = Some(value::mode(text)?),
        Some((name, text)) if limit(&mut mount.limit, name.trim_start_matches("tmpfs-"), text)? => {}
        _ => flag(mount, option)?,
    }
    Ok(())
}

/// Parses `size=64m,inodes=10k`.
pub(crate) fn storage(text: &str) -> Parsed<StorageLimit> {
    let mut parsed = StorageLimit::default();
    for option in text.split(',') {
        let known = option.split_once('=').map(|(name, text)| limit(&mut parsed, name, text)).transpose()?;
        if known != Some(true) {
            return Err(format!("{option:?} must have the form size=BYTES or inodes=COUNT"));
        }
    }
    Ok(parsed)
}

/// Sets the size or the number of inodes. Returns false for another name.
fn limit(limit: &mut StorageLimit, name: &str, text: &str) -> Parsed<bool> {
    let (field, number) = match name {
        "size" => (&mut limit.size, value::bytes(text)?),
        // The kernel's name for a tmpfs, and its unit of 1024.
        "inodes" | "nr_inodes" => {
            let count =
                value::bytes(text).map_err(|_| format!("{text:?} is not a count such as 1000 or 10k"));
            (&mut limit.inodes, count?)
        }
        _ => return Ok(false),
    };
    if number == 0 {
        return Err(format!("{name}={text} must be positive"));
    }
    *field = Some(number);
    Ok(true)
}

fn flag(mount: &mut Mount, option: &str) -> Parsed<()> {
    match option {
        "ro" | "readonly" => mount.readonly = true,
        "rw" => mount.readonly = false,
        "nosuid" => mount.nosuid = true,
        "suid" => mount.nosuid = false,
        "nodev" => mount.nodev = true,
        "dev" => mount.nodev = false,
        "noexec" => mount.noexec = true,
        "exec" => mount.noexec = false,
        _ => return Err(format!("{option:?} is not an option of this mount")),
    }
    Ok(())
}

/// Parses `type=bind,source=…,target=…[,readonly]`.
pub(crate) fn mount(text: &str) -> Parsed<Volume> {
    let (mut kind, mut source, mut target, mut rest) = ("bind", None, None, Vec::new());
    for part in text.split(',').filter(|p| !p.is_empty()) {
        match part.split_once('=') {
            Some(("type", text)) => kind = text,
            Some(("source" | "src", path)) => source = Some(path),
            Some(("target" | "destination" | "dst", path)) => target = Some(path),
            Some((name @ ("readonly" | "ro"), "true")) => rest.push(name),
            Some(("readonly" | "ro", "false")) => rest.push("rw"),
            Some(("bind-recursive", "disabled")) => rest.push("bind"),
            Some(("propagation" | "bind-propagation", word)) if propagation(word)?.is_some() => {
                rest.push(word)
            }
            _ => rest.push(part),
        }
    }
    let target = match target {
        Some(path) if path.starts_with('/') => path,
        _ => return Err(format!("{text:?} requires target=/PATH")),
    };
    let kind = match (kind, source) {
        ("bind", Some(source)) => MountKind::Bind { source: source.into(), recursive: true },
        ("bind", None) => return Err(format!("{text:?} requires source=PATH")),
        ("tmpfs", _) => MountKind::Tmpfs { mode: None },
        ("proc", _) => MountKind::Proc,
        ("sysfs", _) => MountKind::Sysfs,
        ("mqueue", _) => MountKind::Mqueue,
        ("devpts", _) => MountKind::Devpts,
        ("cgroup" | "cgroup2", _) => MountKind::Cgroup,
        ("dev", _) => MountKind::Dev,
        (other, _) => {
            return Err(format!(
                "type={other} must be bind, tmpfs, proc, sysfs, mqueue, devpts, cgroup or dev"
            ));
        }
    };
    let mut volume = Volume { mount: Mount::new(target, kind), optional: false };
    for option in rest {
        match (option, &mut volume.mount.kind) {
            ("bind", MountKind::Bind { recursive, .. }) => *recursive = false,
            (_, MountKind::Bind { .. }) => option_of_bind(&mut volume, option)?,
            _ => option_of_tmpfs(&mut volume.mount, option)?,
        }
    }
    Ok(volume)
}

/// Parses `TARGET:PATH`.
pub(crate) fn symlink(text: &str) -> Parsed<Link> {
    match text.split_once(':') {
        Some((target, path)) if !target.is_empty() && path.starts_with('/') => {
            Ok(Link { path: path.into(), target: target.into() })
        }
        _ => Err(format!("{text:?} must have the form TARGET:/PATH")),
    }
}

/// A device node of the host, with its path and access in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceFlag {
    pub(crate) source: PathBuf,
    pub(crate) destination: PathBuf,
    pub(crate) access: Access,
}

/// Parses `/dev/SOURCE[:/dev/DESTINATION][:rwm]`.
pub(crate) fn device(text: &str) -> Parsed<DeviceFlag> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, last] if last.starts_with('/') => (source, last, "rwm"),
        [source, last] => (source, source, last),
        [source, destination, access] => (source, destination, access),
        _ => ("", "", ""),
    };
    let mut allowed = Access::empty();
    for letter in access.chars() {
        allowed |= match letter {
            'r' => Access::READ,
            'w' => Access::WRITE,
            'm' => Access::MKNOD,
            _ => return Err(format!("access {access:?} must consist of the letters r, w and m")),
        };
    }
    if !source.starts_with('/') || !destination.starts_with('/') || allowed.is_empty() {
        return Err(format!("{text:?} must have the form /dev/SOURCE[:/dev/DESTINATION][:rwm]"));
    }
    Ok(DeviceFlag { source: source.into(), destination: destination.into(), access: allowed })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bind(destination: &str, source: &str) -> Mount {
        Mount::new(destination, MountKind::Bind { source: source.into(), recursive: true })
    }

    fn always(mount: Mount) -> Volume {
        Volume { mount, optional: false }
    }

    #[test]
    fn a_volume_is_a_bind_with_options() {
        assert_eq!(volume("/a:/b"), Ok(always(bind("/b", "/a"))));
        assert_eq!(volume("/a"), Ok(always(bind("/a", "/a"))));
        assert_eq!(volume("./a:/b:ro"), Ok(always(Mount { readonly: true, ..bind("/b", "./a") })));
        let strict = Mount { readonly: true, noexec: true, nosuid: true, nodev: true, ..bind("/b", "/a") };
        assert_eq!(volume("/a:/b:ro,noexec,nosuid,nodev,Z"), Ok(always(strict)));
        let limited = volume("/a:/b:size=64m,inodes=1k").unwrap();
        assert_eq!(limited.mount.limit, StorageLimit { size: Some(64 << 20), inodes: Some(1 << 10) });
        assert_eq!(limited.mount.kind, MountKind::Bind { source: "/a".into(), recursive: false });
        assert_eq!(mount("src=/a,dst=/b,size=64m,inodes=1k"), Ok(limited));
        let flat = volume("/a:/b:bind").unwrap().mount.kind;
        assert_eq!(flat, MountKind::Bind { source: "/a".into(), recursive: false });
    }

    #[test]
    fn a_volume_without_a_path_is_explained() {
        for bad in ["", ":", "/a:", "/a:b", ":/b"] {
            let why = format!("{bad:?} must have the form SOURCE:/DESTINATION");
            nspod_testkit::assert_refused(volume(bad), &why);
        }
        nspod_testkit::assert_refused(volume("/a:/b:ro,x"), "\"x\" is not an option of this mount");
        for bad in ["/a:/b:shared", "/a:/b:ro,rshared"] {
            nspod_testkit::assert_refused(volume(bad), "would send mounts of the container to the host");
        }
        assert!(volume("data:/b").unwrap_err().contains("use ./data"));
    }

    #[test]
    fn a_tmpfs_has_a_size_and_a_mode() {
        let mount = tmpfs("/t:size=64m,mode=700,noexec").unwrap();
        assert_eq!(mount.kind, MountKind::Tmpfs { mode: Some(0o700) });
        assert_eq!(mount.limit, StorageLimit::of_size(64 << 20));
        assert_eq!(tmpfs("/t:inodes=10k").unwrap().limit.inodes, Some(10 << 10));
        assert!(mount.noexec && mount.nosuid && mount.nodev);
        assert!(!tmpfs("/t:dev").unwrap().nodev);
        for (bad, why) in [
            ("", "\"\" must have the form /DESTINATION"),
            ("t", "\"t\" must have the form /DESTINATION"),
            ("/t:size=x", "\"x\" is not a size"),
            ("/t:size=0", "size=0 must be positive"),
            ("/t:inodes=x", "\"x\" is not a count"),
            ("/t:mode=9", "\"9\" is not an octal mode"),
            ("/t:what", "\"what\" is not an option of this mount"),
        ] {
            nspod_testkit::assert_refused(tmpfs(bad), why);
        }
    }

    #[test]
    fn a_storage_option_has_a_size_and_a_number_of_inodes() {
        let both = StorageLimit { size: Some(64 << 20), inodes: Some(10 << 10) };
        assert_eq!(storage("size=64m,inodes=10k"), Ok(both));
        assert_eq!(storage("size=64m"), Ok(StorageLimit::of_size(64 << 20)));
        for (bad, why) in [
            ("", "\"\" must have the form size=BYTES or inodes=COUNT"),
            ("64m", "\"64m\" must have the form"),
            ("size=64m,what=1", "\"what=1\" must have the form"),
            ("size=x", "\"x\" is not a size"),
            ("inodes=0", "inodes=0 must be positive"),
        ] {
            nspod_testkit::assert_refused(storage(bad), why);
        }
    }

    #[test]
    fn the_long_form_equals_the_short_form() {
        let long = |text: &str| mount(text).unwrap();
        assert_eq!(long("type=bind,source=/a,target=/b,readonly"), volume("/a:/b:ro").unwrap());
        assert_eq!(long("src=/a,dst=/b,ro=true"), volume("/a:/b:ro").unwrap());
        assert_eq!(long("type=bind,src=/a,dst=/b,bind-recursive=disabled"), volume("/a:/b:bind").unwrap());
        assert_eq!(long("type=tmpfs,target=/t,tmpfs-size=1m"), always(tmpfs("/t:size=1m").unwrap()));
        assert_eq!(long("type=tmpfs,target=/t,inodes=9"), always(tmpfs("/t:nr_inodes=9").unwrap()));
        assert_eq!(long("type=proc,target=/proc").mount.kind, MountKind::Proc);
        for (bad, why) in [
            ("", "requires target=/PATH"),
            ("type=bind,target=/b", "requires source=PATH"),
            ("type=bind,source=/a", "requires target=/PATH"),
            ("type=nfs,target=/b", "type=nfs must be bind"),
            ("type=proc,target=/p,size=1", "\"size=1\" is not an option of this mount"),
            ("type=tmpfs,target=/t,optional", "\"optional\" is not an option of this mount"),
            ("src=/a,dst=/b,propagation=ro", "\"propagation=ro\" is not an option of this mount"),
        ] {
            nspod_testkit::assert_refused(mount(bad), why);
        }
    }

    #[test]
    fn a_bind_can_be_optional_and_receive_mounts() {
        let parsed = volume("/a:/b:optional,rslave").unwrap();
        let slave = |recursive| vec![Propagation { kind: PropagationKind::Slave, recursive }];
        assert!(parsed.optional && !volume("/a:/b").unwrap().optional);
        assert_eq!(parsed.mount.propagation, slave(true));
        assert_eq!(mount("src=/a,dst=/b,optional,propagation=rslave"), Ok(parsed.clone()));
        assert_eq!(mount("src=/a,dst=/b,optional,bind-propagation=rslave"), Ok(parsed));
        assert_eq!(volume("/a:/b:slave").unwrap().mount.propagation, slave(false));
        assert_eq!(volume("/a:/b:slave,rprivate"), volume("/a:/b"));
    }

    #[test]
    fn a_symbolic_link_has_a_target_and_a_path() {
        assert_eq!(symlink("usr/bin:/bin"), Ok(Link { path: "/bin".into(), target: "usr/bin".into() }));
        for bad in ["", "/bin", ":/bin", "usr/bin:bin", "usr/bin:"] {
            nspod_testkit::assert_refused(symlink(bad), &format!("{bad:?} must have the form TARGET:/PATH"));
        }
    }

    #[test]
    fn a_device_has_a_path_and_an_access_mode() {
        let parsed = device("/dev/fuse").unwrap();
        assert_eq!((parsed.destination.as_path(), parsed.access), ("/dev/fuse".as_ref(), Access::all()));
        let parsed = device("/dev/a:/dev/b:r").unwrap();
        assert_eq!((parsed.destination.as_path(), parsed.access), ("/dev/b".as_ref(), Access::READ));
        assert_eq!(device("/dev/a:rw").unwrap().access, Access::READ | Access::WRITE);
        for bad in ["", "dev", "/dev/a:/b:", "/dev/a:/b:r:w"] {
            nspod_testkit::assert_refused(device(bad), &format!("{bad:?} must have the form /dev/SOURCE"));
        }
        nspod_testkit::assert_refused(device("/dev/a:x"), "access \"x\" must consist of");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "[a-z/:=,.]{0,40}") {
            let _ = (volume(&text), tmpfs(&text), mount(&text), device(&text), storage(&text), symlink(&text));
        }

        #[test]
        fn a_volume_keeps_both_paths(source in "/[a-z/]{1,20}", destination in "/[a-z/]{1,20}", ro: bool) {
            let text = format!("{source}:{destination}{}", if ro { ":ro" } else { "" });
            prop_assert_eq!(volume(&text), Ok(always(Mount { readonly: ro, ..bind(&destination, &source) })));
        }
    }
}
