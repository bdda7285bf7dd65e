//! Specs and hosts, from ordinary to absurd, that are safe to plan on this machine.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use arbitrary::{Result, Unstructured};
use cgroup_core::{CpuList, device::DEFAULT};
use ns_core::{Extent, IdMap, Kind, SubIdRange, TimeOffset, TimeOffsets};
use nspod_sandbox::spec::{
    Attributes, Capabilities, Hook, Hooks, IdMaps, IoPriority, Join, Link, MemoryPolicy, Mount, MountIdMaps,
    MountKind, NamespaceMode, Node, NodeKind, Process, Propagation, PropagationKind, Rlimit, Root, Scheduler,
    Seccomp, Spec, StorageLimit, StreamOwner, Terminal, User, Writes,
};
use nspod_sandbox::{Host, HostMount};

use crate::{limits, maybe, seccomp, several};

/// Returns the facts of some host.
pub fn host(u: &mut Unstructured<'_>) -> Result<Host> {
    let capabilities = if u.arbitrary()? { u64::MAX } else { u.arbitrary()? };
    let range = |u: &mut Unstructured<'_>| Ok(SubIdRange { start: u.arbitrary()?, count: u.arbitrary()? });
    Ok(Host {
        uid: u.arbitrary()?,
        gid: u.arbitrary()?,
        capabilities,
        nested: u.arbitrary()?,
        subuids: several(u, 2, range)?,
        subgids: several(u, 2, range)?,
        newidmap: u.arbitrary()?,
        apparmor: u.arbitrary()?,
        selinux: u.arbitrary()?,
        kernel: (u.int_in_range(4..=7)?, u.int_in_range(0..=20)?),
        cgroup2: u.arbitrary::<bool>()?.then(|| "/sys/fs/cgroup".into()),
        mounts: HostMount::parse(&u.arbitrary::<Vec<u8>>()?),
    })
}

/// Returns any spec. Half of them start from an ordinary container, because the first checks reject a random spec.
pub fn any(u: &mut Unstructured<'_>) -> Result<Spec> {
    let mut spec = if u.arbitrary()? { Spec::new("true") } else { Spec::bare("/bin/true") };
    for kind in Kind::ALL {
        if u.ratio(1, 2)? {
            *spec.namespaces.get_mut(kind) = namespace(u, kind)?;
        }
    }
    change(u, &mut spec.process, process)?;
    change(u, &mut spec.id_maps, id_maps)?;
    change(u, &mut spec.time_offsets, |u| maybe(u, time_offsets))?;
    change(u, &mut spec.root, root)?;
    change(u, &mut spec.mounts, |u| several(u, 5, mount))?;
    change(u, &mut spec.nodes, |u| several(u, 3, node))?;
    change(u, &mut spec.links, |u| several(u, 2, |u| Ok(Link { path: path(u)?, target: path(u)? })))?;
    change(u, &mut spec.propagation, |u| maybe(u, propagation))?;
    spec.root_nodev = u.arbitrary()?;
    spec.root_sockets = u.arbitrary()?;
    change(u, &mut spec.masked_paths, |u| several(u, 3, path))?;
    change(u, &mut spec.readonly_paths, |u| several(u, 3, path))?;
    change(u, &mut spec.hostname, |u| maybe(u, name))?;
    change(u, &mut spec.domainname, |u| maybe(u, name))?;
    change(u, &mut spec.sysctls, |u| Ok(several(u, 2, sysctl)?.into_iter().collect()))?;
    change(u, &mut spec.limits, limits::any)?;
    spec.loopback = u.arbitrary()?;
    spec.init = u.arbitrary()?;
    spec.devices = maybe(u, |_| Ok(DEFAULT.to_vec()))?;
    change(u, &mut spec.hooks, hooks)?;
    spec.no_pivot = u.ratio(1, 4)?;
    if u.ratio(1, 8)? {
        spec.mounts_stay = true;
        change(u, &mut spec.namespaces.mnt, |_| Ok(NamespaceMode::Host))?;
        change(u, &mut spec.root, |u| Ok(Root::Dir { path: path(u)?, readonly: u.arbitrary()? }))?;
    }
    Ok(spec)
}

/// Replaces each joined process and file by one of this process, because a plan opens the namespaces that it joins.
pub fn harmless(spec: &mut Spec) {
    for kind in Kind::ALL {
        match spec.namespaces.get_mut(kind) {
            NamespaceMode::Join(Join::Pid(pid)) if *pid > 0 => *pid = std::process::id() as i32,
            NamespaceMode::Join(Join::Path(path)) => *path = own(kind),
            _ => {}
        }
    }
}

/// Returns the file of this process's own namespace.
fn own(kind: Kind) -> PathBuf {
    format!("/proc/self/ns/{kind}").into()
}

fn change<'a, T>(
    u: &mut Unstructured<'a>,
    field: &mut T,
    one: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<()> {
    if u.ratio(1, 3)? {
        *field = one(u)?;
    }
    Ok(())
}

fn namespace(u: &mut Unstructured<'_>, kind: Kind) -> Result<NamespaceMode> {
    Ok(match u.int_in_range(0..=6)? {
        0..=2 => NamespaceMode::New,
        3 => NamespaceMode::Host,
        4 => NamespaceMode::Join(Join::Pid(u.int_in_range(-1..=1)?)),
        5 => NamespaceMode::Join(Join::Path(own(kind))),
        _ => NamespaceMode::Join(Join::Handle),
    })
}

fn process(u: &mut Unstructured<'_>) -> Result<Process> {
    Ok(Process {
        args: several(u, 3, os_string)?,
        env: several(u, 2, |u| {
            Ok((if u.arbitrary()? { "PATH".into() } else { os_string(u)? }, os_string(u)?))
        })?,
        cwd: maybe(u, path)?,
        user: maybe(u, |u| {
            Ok(User { uid: u.arbitrary()?, gid: u.arbitrary()?, groups: several(u, 2, |u| u.arbitrary())? })
        })?,
        umask: u.arbitrary()?,
        capabilities: maybe(u, capabilities)?,
        no_new_privs: u.arbitrary()?,
        seccomp: match u.int_in_range(0..=2)? {
            0 => Seccomp::Unconfined,
            1 => Seccomp::Standard,
            _ => Seccomp::Profile(Box::new(seccomp::any(u)?)),
        },
        rlimits: several(u, 2, |u| {
            let name = u.choose(&["nofile", "RLIMIT_NPROC", "core", "nothing"])?.to_string();
            Ok(Rlimit { name, soft: u.arbitrary()?, hard: u.arbitrary()? })
        })?,
        oom_score_adj: maybe(u, |u| u.int_in_range(-1001..=1001))?,
        terminal: maybe(u, |u| Ok(Terminal { rows: u.arbitrary()?, columns: u.arbitrary()? }))?,
        keep_projects: u.arbitrary()?,
        no_user_namespaces: u.arbitrary()?,
        new_session: u.arbitrary()?,
        create_cwd: u.arbitrary()?,
        streams: *u.choose(&[StreamOwner::Caller, StreamOwner::Needed, StreamOwner::User])?,
        scheduler: maybe(u, scheduler)?,
        io_priority: maybe(u, |u| {
            Ok(IoPriority { class: u.int_in_range(0..=4)?, level: u.int_in_range(0..=8)? })
        })?,
        affinity: maybe(u, cpu_list)?,
        apparmor_profile: maybe(u, name)?,
        selinux_label: maybe(u, name)?,
        personality: u.arbitrary()?,
        memory_policy: maybe(u, |u| {
            Ok(MemoryPolicy {
                mode: u.int_in_range(0..=7)?,
                flags: u.int_in_range(0u32..=15)? << 12,
                nodes: cpu_list(u)?,
            })
        })?,
        keyring: maybe(u, name)?,
    })
}

fn scheduler(u: &mut Unstructured<'_>) -> Result<Scheduler> {
    Ok(Scheduler {
        policy: u.int_in_range(0..=7)?,
        flags: u.int_in_range(0..=0x80)?,
        nice: u.int_in_range(-21..=20)?,
        priority: u.int_in_range(0..=100)?,
        runtime: u.arbitrary()?,
        deadline: u.arbitrary()?,
        period: u.arbitrary()?,
    })
}

/// Ranges of any length: the plan for a list must not grow with its numbers.
fn cpu_list(u: &mut Unstructured<'_>) -> Result<CpuList> {
    let text = format!("{},{}-4294967295", u.int_in_range(0..=20_000)?, u.int_in_range(0..=u32::MAX)?);
    let text = if u.arbitrary()? { text.split(',').next().unwrap_or_default() } else { &text };
    Ok(text.parse().unwrap_or_default())
}

fn capabilities(u: &mut Unstructured<'_>) -> Result<Capabilities> {
    if u.arbitrary()? {
        return Ok(Capabilities::of(u.arbitrary()?));
    }
    Ok(Capabilities {
        bounding: u.arbitrary()?,
        effective: u.arbitrary()?,
        permitted: u.arbitrary()?,
        inheritable: u.arbitrary()?,
        ambient: u.arbitrary()?,
    })
}

fn id_map(u: &mut Unstructured<'_>) -> Result<IdMap> {
    let extent = |u: &mut Unstructured<'_>| {
        Ok(Extent { inside: u.int_in_range(0..=9)?, outside: u.arbitrary()?, count: u.int_in_range(0..=9)? })
    };
    Ok(IdMap::from(several(u, 3, extent)?))
}

fn id_maps(u: &mut Unstructured<'_>) -> Result<IdMaps> {
    Ok(match u.int_in_range(0..=3)? {
        0 => IdMaps::Auto,
        1 => IdMaps::Single,
        2 => IdMaps::Own { uid: id_map(u)?, gid: id_map(u)? },
        _ => IdMaps::Maps { uid: id_map(u)?, gid: id_map(u)? },
    })
}

fn time_offsets(u: &mut Unstructured<'_>) -> Result<TimeOffsets> {
    let offset = |u: &mut Unstructured<'_>| Ok(TimeOffset { secs: u.arbitrary()?, nanos: u.arbitrary()? });
    Ok(TimeOffsets { monotonic: offset(u)?, boottime: offset(u)? })
}

fn hooks(u: &mut Unstructured<'_>) -> Result<Hooks> {
    let variable = |u: &mut Unstructured<'_>| Ok((os_string(u)?, os_string(u)?));
    let hook = |u: &mut Unstructured<'_>| {
        Ok(Hook {
            path: path(u)?,
            args: several(u, 2, os_string)?,
            env: maybe(u, |u| several(u, 2, variable))?,
            timeout: u.arbitrary()?,
        })
    };
    Ok(Hooks { create_container: several(u, 2, hook)?, start_container: several(u, 2, hook)? })
}

fn root(u: &mut Unstructured<'_>) -> Result<Root> {
    Ok(match u.int_in_range(0..=5)? {
        0 => Root::Host,
        1 => Root::HostReadOnly,
        2 => Root::Dir { path: path(u)?, readonly: u.arbitrary()? },
        3 => Root::Empty,
        4 => Root::Overlay { lower: several(u, 3, path)?, writes: Writes::Tmpfs, limit: limit(u)? },
        _ => {
            let writes = Writes::Dir { upper: path(u)?, work: path(u)? };
            Root::Overlay { lower: several(u, 3, path)?, writes, limit: limit(u)? }
        }
    })
}

fn limit(u: &mut Unstructured<'_>) -> Result<StorageLimit> {
    Ok(StorageLimit { size: u.arbitrary()?, inodes: u.arbitrary()? })
}

fn mount(u: &mut Unstructured<'_>) -> Result<Mount> {
    let kind = match u.int_in_range(0..=9)? {
        0 => MountKind::Bind { source: path(u)?, recursive: u.arbitrary()? },
        1 => MountKind::Tmpfs { mode: u.arbitrary()? },
        2 => MountKind::Proc,
        3 => MountKind::Sysfs,
        4 => MountKind::Mqueue,
        5 => MountKind::Devpts,
        6 => MountKind::Cgroup,
        7 => MountKind::Remount,
        8 => {
            let names = ["proc", "sysfs", "devpts", "mqueue", "tmpfs", "overlay", "ext4", ""];
            let fstype = u.choose(&names)?.to_string();
            let options = several(u, 3, |u| Ok((option(u)?, maybe(u, option)?)))?;
            MountKind::FileSystem { fstype, source: path(u)?, options }
        }
        _ => MountKind::Dev,
    };
    let mut mount = Mount::new(path(u)?, kind);
    mount.readonly = u.arbitrary()?;
    mount.nosuid = u.arbitrary()?;
    mount.nodev = u.arbitrary()?;
    mount.noexec = u.arbitrary()?;
    change(u, &mut mount.attributes, attributes)?;
    change(u, &mut mount.recursive_attributes, attributes)?;
    change(u, &mut mount.propagation, |u| several(u, 2, propagation))?;
    change(u, &mut mount.id_maps, |u| {
        maybe(u, |u| {
            Ok(MountIdMaps { uid: maybe(u, id_map)?, gid: maybe(u, id_map)?, recursive: u.arbitrary()? })
        })
    })?;
    change(u, &mut mount.copy_up, |u| u.arbitrary())?;
    change(u, &mut mount.limit, limit)?;
    Ok(mount)
}

fn attributes(u: &mut Unstructured<'_>) -> Result<Attributes> {
    let bits =
        |u: &mut Unstructured<'_>| if u.arbitrary()? { u.int_in_range(0..=0xff) } else { u.arbitrary() };
    Ok(Attributes { set: bits(u)?, clear: bits(u)? })
}

fn propagation(u: &mut Unstructured<'_>) -> Result<Propagation> {
    use PropagationKind::{Private, Shared, Slave, Unbindable};
    Ok(Propagation { kind: *u.choose(&[Shared, Slave, Private, Unbindable])?, recursive: u.arbitrary()? })
}

fn node(u: &mut Unstructured<'_>) -> Result<Node> {
    let kind = match u.int_in_range(0..=2)? {
        0 => NodeKind::Char(u.arbitrary()?, u.arbitrary()?),
        1 => NodeKind::Block(u.int_in_range(0..=9)?, u.int_in_range(0..=9)?),
        _ => NodeKind::Fifo,
    };
    Ok(Node { path: path(u)?, kind, mode: u.arbitrary()?, uid: u.arbitrary()?, gid: u.arbitrary()? })
}

/// Option of a file system, sometimes longer than `fsconfig` accepts.
fn option(u: &mut Unstructured<'_>) -> Result<String> {
    let word: String = u.arbitrary()?;
    Ok(if u.ratio(1, 4)? { word.repeat(99) } else { word })
}

fn sysctl(u: &mut Unstructured<'_>) -> Result<(String, String)> {
    let names = [
        "net.ipv4.ip_forward",
        "kernel.shmmax",
        "kernel.hostname",
        "kernel.domainname",
        "user.max_net_namespaces",
        "vm.swappiness",
        "net..x",
        "fs.mqueue.x",
    ];
    Ok((u.choose(&names)?.to_string(), u.arbitrary()?))
}

fn path(u: &mut Unstructured<'_>) -> Result<PathBuf> {
    let paths = [
        "/",
        "/dev",
        "/dev/null",
        "/proc",
        "/a/b",
        "/a/../b",
        "a",
        "/a,b:c\\",
        "/./tmp//",
        "/etc/passwd",
        "",
    ];
    Ok(match u.ratio(3, 4)? {
        true => u.choose(&paths)?.into(),
        false => PathBuf::from("/").join(os_string(u)?),
    })
}

fn name(u: &mut Unstructured<'_>) -> Result<String> {
    if u.arbitrary()? { Ok("box".into()) } else { u.arbitrary() }
}

fn os_string(u: &mut Unstructured<'_>) -> Result<OsString> {
    let words: [&[u8]; 5] = [b"true", b"/bin/sh", b"x=y", b"", b":"];
    Ok(match u.ratio(2, 3)? {
        true => OsString::from_vec(u.choose(&words)?.to_vec()),
        false => OsString::from_vec(u.arbitrary()?),
    })
}
