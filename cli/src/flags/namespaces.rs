//! Namespace flags: for each kind a new namespace, the caller's, or that of another process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use ns_core::{Extent, IdMap, Kind, Kinds, TimeOffset, TimeOffsets};
use nspod_sandbox::spec::{IdMaps, Join, NamespaceMode, Spec};

use super::Facts;
use super::network;
use crate::error::{Error, Result};
use crate::network::{Port, Wanted, Way};
use crate::state::ids::Range;
use crate::value;

/// Namespace of one kind, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    New,
    Host,
    /// The pod's namespace.
    Pod,
    Pid(i32),
    Path(PathBuf),
    Container(String),
    /// A new net namespace with a network that leads out of it.
    Network(Way),
}

/// User namespace, as typed: the namespace and its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserChoice {
    namespace: Choice,
    ids: UserIds,
}

/// Ids of a new user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UserIds {
    /// Those of [`IdMaps::Auto`].
    Shared,
    /// The caller's.
    Single,
    /// A range that no other container has, of a size.
    Own(Option<u32>),
}

/// The request for a range of ids that no other container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnIds {
    /// Number of ids; by default it depends on the available ids.
    pub(crate) size: Option<u32>,
}

// A plain comment: clap would print a doc comment of flattened arguments as help of the command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Namespaces")]
pub(crate) struct NamespaceArgs {
    /// Network namespace: none (new, with only the loopback interface), pasta (new, with a way out through the
    /// program pasta), cni:NAME (new, in this network of CNI), host, container:ID or pod
    #[arg(long, visible_alias = "net", value_name = "WHICH", value_parser = network_choice)]
    network: Option<Choice>,
    /// With --network pasta or cni:NAME, publish a port of the container on the host, or a range of ports
    #[arg(short = 'p', long, value_name = "[ADDRESS:]HOST:CONTAINER[/udp]", value_parser = network::ports)]
    publish: Vec<Vec<Port>>,
    /// Pid namespace: new, host, container:ID or pod
    #[arg(long, value_name = "WHICH", value_parser = |t: &str| choice(Kind::Pid, t))]
    pid: Option<Choice>,
    /// IPC namespace: new, host, container:ID or pod
    #[arg(long, value_name = "WHICH", value_parser = |t: &str| choice(Kind::Ipc, t))]
    ipc: Option<Choice>,
    /// UTS namespace (host name): new, host, container:ID or pod
    #[arg(long, value_name = "WHICH", value_parser = |t: &str| choice(Kind::Uts, t))]
    uts: Option<Choice>,
    /// User namespace: host, auto[:size=N] (new, with ids that no other container has), new (with ids
    /// that other containers share), single (new, with only the caller's ids) or container:ID
    #[arg(long, value_name = "WHICH", value_parser = user_choice)]
    userns: Option<UserChoice>,
    /// Cgroup namespace: new or host
    #[arg(long, value_name = "WHICH", value_parser = |t: &str| choice(Kind::Cgroup, t))]
    cgroupns: Option<Choice>,
    /// Namespace of any kind (mnt, net, pid, user, uts, ipc, cgroup, time): KIND=new, KIND=host,
    /// or KIND=join:TARGET with a pid, a path or container:ID as TARGET
    #[arg(long, value_name = "KIND=WHICH", value_parser = kind_choice)]
    ns: Vec<(Kind, Choice)>,
    /// Map COUNT user ids, INSIDE in the new user namespace to OUTSIDE on the host
    #[arg(long, value_name = "INSIDE:OUTSIDE[:COUNT]", value_parser = extent)]
    uidmap: Vec<Extent>,
    /// Map group ids in the same way [default: the mappings of --uidmap]
    #[arg(long, value_name = "INSIDE:OUTSIDE[:COUNT]", value_parser = extent)]
    gidmap: Vec<Extent>,
    /// Offsets of clocks in a new time namespace, in seconds: monotonic=3600,boottime=-5.5
    #[arg(long, value_name = "CLOCK=SECONDS,…", value_parser = time_offsets, allow_hyphen_values = true)]
    time_offset: Option<TimeOffsets>,
    /// Host name [default: the container's name or id]
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Set a kernel parameter of a new net, ipc, uts or user namespace: net.ipv4.ip_forward=1
    #[arg(long, value_name = "NAME=VALUE", value_parser = value::pair)]
    sysctl: Vec<(String, String)>,
}

impl NamespaceArgs {
    /// Returns the network that leads out of the container; `None` without one.
    pub(crate) fn network(&self) -> Result<Option<Wanted>> {
        let way = match &self.network {
            Some(Choice::Network(way)) => Some(way),
            _ => None,
        };
        network::wanted(way, &self.publish)
    }

    /// Applies the flags to a spec. `shared` contains the kinds that the pod shares, or `None` without
    /// a pod; `pid_of` returns the pid of a container's first process.
    pub(crate) fn apply(
        &self,
        spec: &mut Spec,
        facts: &Facts,
        shared: Option<Kinds>,
        pid_of: &dyn Fn(&str) -> Result<i32>,
    ) -> Result<()> {
        let mut choices: Vec<(Kind, &Choice)> =
            self.ns.iter().map(|(kind, choice)| (*kind, choice)).collect();
        for (kind, choice) in [
            (Kind::Net, &self.network),
            (Kind::Pid, &self.pid),
            (Kind::Ipc, &self.ipc),
            (Kind::Uts, &self.uts),
            (Kind::User, &self.userns.as_ref().map(|user| user.namespace.clone())),
            (Kind::Cgroup, &self.cgroupns),
        ] {
            let Some(choice) = choice else { continue };
            if choices.iter().any(|(k, c)| *k == kind && *c != choice) {
                let flag = own_flag(kind);
                return Err(Error::usage("--ns", format!("`--ns {kind}=…` conflicts with `{flag}`")));
            }
            apply_one(spec, kind, choice, shared, pid_of)?;
        }
        choices.dedup();
        for (kind, choice) in &choices {
            apply_one(spec, *kind, choice, shared, pid_of)?;
        }
        let user_chosen = self.userns.is_some() || choices.iter().any(|(k, _)| *k == Kind::User);
        if !user_chosen && !facts.privileged {
            spec.namespaces.user = default_user(spec);
        }
        self.maps(spec)?;
        if let Some(offsets) = self.time_offset {
            if spec.namespaces.time == NamespaceMode::Host
                && shared.is_none_or(|s| !s.contains_kind(Kind::Time))
            {
                spec.namespaces.time = NamespaceMode::New;
            }
            spec.time_offsets = Some(offsets);
        }
        spec.hostname = self.hostname.clone();
        spec.domainname = self.domainname.clone();
        spec.sysctls.extend(self.sysctl.iter().cloned());
        Ok(())
    }

    /// Returns the words of the command line for the field of a namespace, such as `namespaces.net`.
    pub(crate) fn words(&self, field: &str) -> Option<String> {
        let kind = field.strip_prefix("namespaces.")?.parse().ok()?;
        match self.ns.iter().any(|(given, _)| *given == kind) {
            true => Some(format!("--ns {kind}=…")),
            false => Some(own_flag(kind).to_owned()),
        }
    }

    /// Returns the requested range of ids, if the container gets its own.
    pub(crate) fn own_ids(&self) -> Option<OwnIds> {
        self.userns.as_ref().and_then(UserChoice::own_ids)
    }

    fn maps(&self, spec: &mut Spec) -> Result<()> {
        if self.userns.as_ref().is_some_and(UserChoice::is_single) {
            spec.id_maps = IdMaps::Single;
        }
        if self.uidmap.is_empty() && self.gidmap.is_empty() {
            return Ok(());
        }
        if self.own_ids().is_some() {
            return Err(Error::usage(
                "--userns",
                "`--userns auto` chooses the ids itself and conflicts with --uidmap and --gidmap: omit it",
            ));
        }
        if spec.namespaces.user == NamespaceMode::Host {
            spec.namespaces.user = NamespaceMode::New;
        }
        let or = |own: &[Extent], other: &[Extent]| {
            IdMap::from(if own.is_empty() { other.to_vec() } else { own.to_vec() })
        };
        let (uid, gid) = (or(&self.uidmap, &self.gidmap), or(&self.gidmap, &self.uidmap));
        for (flag, map) in [("--uidmap", &uid), ("--gidmap", &gid)] {
            map.validate().map_err(|e| Error::usage(flag, e.to_string()))?;
        }
        spec.id_maps = IdMaps::Maps { uid, gid };
        Ok(())
    }
}

impl UserChoice {
    /// Returns the requested range of ids, if there is one.
    pub(crate) fn own_ids(&self) -> Option<OwnIds> {
        match self.ids {
            UserIds::Own(size) => Some(OwnIds { size }),
            UserIds::Shared | UserIds::Single => None,
        }
    }

    /// Returns whether the namespace has only the caller's ids.
    pub(crate) fn is_single(&self) -> bool {
        self.ids == UserIds::Single
    }
}

impl OwnIds {
    /// Sets the maps of a range. If the caller may choose the owner of the user namespace, an id of the range
    /// owns it. Otherwise the caller owns it, and each user of the container gets a share of the limits that
    /// the kernel counts for the owner.
    pub(crate) fn apply(
        range: Range,
        facts: &Facts,
        id_maps: &mut IdMaps,
        sysctls: &mut BTreeMap<String, String>,
    ) {
        let (uid, gid) = range.maps();
        if facts.privileged {
            *id_maps = IdMaps::Own { uid, gid };
            return;
        }
        *id_maps = IdMaps::Maps { uid, gid };
        for name in COUNTED {
            let limit = std::fs::read_to_string(format!("/proc/sys/user/{name}"));
            if let Some(limit) = limit.ok().and_then(|text| text.trim().parse::<u32>().ok()) {
                sysctls.entry(format!("user.{name}")).or_insert_with(|| (limit / SHARE).max(1).to_string());
            }
        }
    }
}

/// Objects that the kernel counts for the user who made the user namespace.
const COUNTED: [&str; 4] =
    ["max_inotify_instances", "max_inotify_watches", "max_fanotify_groups", "max_fanotify_marks"];
/// Part of the limits of an ordinary user that one user of a container gets.
const SHARE: u32 = 4;

fn apply_one(
    spec: &mut Spec,
    kind: Kind,
    choice: &Choice,
    shared: Option<Kinds>,
    pid_of: &dyn Fn(&str) -> Result<i32>,
) -> Result<()> {
    let in_pod = shared.is_some_and(|s| s.contains_kind(kind));
    let namespace = match choice {
        Choice::Pod if in_pod => return Ok(()),
        Choice::Pod => {
            let why = match shared {
                Some(_) => format!("the pod does not share its {kind} namespace"),
                None => "name the pod with --pod".to_owned(),
            };
            return Err(Error::usage(
                own_flag(kind),
                format!("cannot join the {kind} namespace of a pod: {why}"),
            ));
        }
        _ if in_pod => {
            let why = format!("the pod shares its {kind} namespace, so `{}` must be omitted", own_flag(kind));
            return Err(Error::usage(own_flag(kind), why));
        }
        Choice::New | Choice::Network(_) => NamespaceMode::New,
        Choice::Host => NamespaceMode::Host,
        Choice::Pid(pid) => NamespaceMode::Join(Join::Pid(*pid)),
        Choice::Path(path) => NamespaceMode::Join(Join::Path(path.clone())),
        Choice::Container(id) => NamespaceMode::Join(Join::Pid(pid_of(id)?)),
    };
    if kind == Kind::Mnt && namespace != NamespaceMode::New {
        spec.keep_mounts();
    }
    *spec.namespaces.get_mut(kind) = namespace;
    Ok(())
}

/// Returns the user namespace for a caller without privileges: that of the process whose
/// namespaces are joined, or a new one. Only its owner may join the others.
fn default_user(spec: &Spec) -> NamespaceMode {
    let joined = Kind::ALL.into_iter().find_map(|kind| match spec.namespaces.get(kind) {
        NamespaceMode::Join(Join::Pid(pid)) => Some(NamespaceMode::Join(Join::Pid(*pid))),
        _ => None,
    });
    joined.unwrap_or(NamespaceMode::New)
}

/// Returns the flag that chooses the namespace of one kind.
fn own_flag(kind: Kind) -> &'static str {
    match kind {
        Kind::Net => "--network",
        Kind::Pid => "--pid",
        Kind::Ipc => "--ipc",
        Kind::Uts => "--uts",
        Kind::User => "--userns",
        Kind::Cgroup => "--cgroupns",
        Kind::Mnt | Kind::Time => "--ns",
    }
}

fn choice(kind: Kind, text: &str) -> std::result::Result<Choice, String> {
    let whose = text.strip_prefix("join:").unwrap_or(text);
    let joins = whose.len() != text.len();
    match (text, kind) {
        ("new" | "private", _) | ("none", Kind::Net | Kind::Ipc) => return Ok(Choice::New),
        ("host", _) => return Ok(Choice::Host),
        ("pod", _) => return Ok(Choice::Pod),
        _ => {}
    }
    if let Some(id) = whose.strip_prefix("container:") {
        return value::name(id).map(Choice::Container);
    }
    match whose.parse() {
        Ok(pid) if joins && pid > 0 => return Ok(Choice::Pid(pid)),
        _ if joins && whose.starts_with('/') => return Ok(Choice::Path(whose.into())),
        _ => {}
    }
    let new = if kind == Kind::Net { "none" } else { "new" };
    Err(format!("{text:?} must be {new}, host, pod, container:ID, join:PID or join:/PATH"))
}

fn network_choice(text: &str) -> std::result::Result<Choice, String> {
    if let Some(way) = network::way(text) {
        return way.map(Choice::Network);
    }
    choice(Kind::Net, text).map_err(|e| e.replacen("none,", "none, pasta, cni:NAME,", 1))
}

/// Parses `--userns`.
pub(crate) fn user_choice(text: &str) -> std::result::Result<UserChoice, String> {
    let new = |ids| Ok(UserChoice { namespace: Choice::New, ids });
    match (text, text.strip_prefix("auto:")) {
        ("single", _) => new(UserIds::Single),
        ("auto", _) => new(UserIds::Own(None)),
        (_, Some(options)) => {
            let size = options.strip_prefix("size=").and_then(|size| size.parse().ok());
            match size.filter(|size| (1..=MOST_IDS).contains(size)) {
                Some(size) => new(UserIds::Own(Some(size))),
                None => Err(format!("{text:?} must be auto or auto:size=N with N from 1 to {MOST_IDS}")),
            }
        }
        _ => {
            let namespace =
                choice(Kind::User, text).map_err(|e| e.replacen("new,", "auto, single, new,", 1))?;
            Ok(UserChoice { namespace, ids: UserIds::Shared })
        }
    }
}

/// Largest range of ids of one container.
const MOST_IDS: u32 = 1 << 30;

fn kind_choice(text: &str) -> std::result::Result<(Kind, Choice), String> {
    let (kind, which) = value::pair(text)?;
    let kind = kind.parse().map_err(|e: ns_core::Error| e.to_string())?;
    Ok((kind, choice(kind, &which)?))
}

fn extent(text: &str) -> std::result::Result<Extent, String> {
    let numbers: Vec<u32> = text.split(':').map_while(|n| n.parse().ok()).collect();
    match (numbers[..].to_vec(), text.split(':').count()) {
        (n, 2) if n.len() == 2 => Ok(Extent { inside: n[0], outside: n[1], count: 1 }),
        (n, 3) if n.len() == 3 => Ok(Extent { inside: n[0], outside: n[1], count: n[2] }),
        _ => Err(format!("{text:?} must have the form INSIDE:OUTSIDE[:COUNT]")),
    }
}

fn time_offsets(text: &str) -> std::result::Result<TimeOffsets, String> {
    let mut offsets = TimeOffsets::default();
    for part in text.split(',') {
        let (clock, seconds) = value::pair(part)?;
        let offset =
            time_offset(&seconds).ok_or_else(|| format!("{seconds:?} is not a number of seconds"))?;
        match clock.as_str() {
            "monotonic" => offsets.monotonic = offset,
            "boottime" => offsets.boottime = offset,
            _ => return Err(format!("clock {clock:?} must be monotonic or boottime")),
        }
    }
    Ok(offsets)
}

/// Parses seconds with a fraction. The kernel requires nanoseconds from 0 on: `-5.5` is -6 s plus
/// 500,000,000 ns.
fn time_offset(text: &str) -> Option<TimeOffset> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut secs: i64 = whole.parse().ok()?;
    let mut nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        (secs, nanos) = (secs.checked_sub(1)?, 1_000_000_000 - nanos);
    }
    Some(TimeOffset { secs, nanos })
}

#[cfg(test)]
mod tests {
    use nspod_sandbox::spec::Root;
    use proptest::prelude::*;

    use super::*;
    use crate::flags::parse;

    fn spec(facts: &Facts, shared: Option<Kinds>, flags: &[&str]) -> Result<Spec> {
        let mut spec = Spec::new("true");
        parse::<NamespaceArgs>(flags)?.apply(&mut spec, facts, shared, &|_| Ok(42))?;
        Ok(spec)
    }

    fn root(flags: &[&str]) -> Spec {
        spec(&Facts::root(), None, flags).unwrap()
    }

    #[test]
    fn the_default_spec_is_the_librarys() {
        assert_eq!(root(&[]), Spec::new("true"));
    }

    #[test]
    fn each_kind_is_selected_by_itself() {
        for kind in Kind::ALL {
            for (which, want) in [
                ("new", NamespaceMode::New),
                ("host", NamespaceMode::Host),
                ("join:7", NamespaceMode::Join(Join::Pid(7))),
                ("join:/run/x", NamespaceMode::Join(Join::Path("/run/x".into()))),
                ("join:container:web", NamespaceMode::Join(Join::Pid(42))),
            ] {
                let spec = root(&["--ns", &format!("{kind}={which}")]);
                let mut expected = Spec::new("true").namespaces;
                *expected.get_mut(kind) = want;
                assert_eq!(spec.namespaces, expected, "{kind}={which}");
            }
        }
    }

    #[test]
    fn dockers_flags_select_the_same() {
        let namespaces =
            root(&["--network=host", "--pid=container:web", "--ipc=none", "--uts=private"]).namespaces;
        assert_eq!(namespaces.net, NamespaceMode::Host);
        assert_eq!(namespaces.pid, NamespaceMode::Join(Join::Pid(42)));
        assert_eq!((namespaces.ipc, namespaces.uts), (NamespaceMode::New, NamespaceMode::New));
    }

    #[test]
    fn a_joined_mount_namespace_is_left_unchanged() {
        let spec = root(&["--ns", "mnt=host"]);
        assert_eq!(spec.root, Root::Host);
        assert!(spec.mounts.is_empty() && spec.masked_paths.is_empty() && spec.readonly_paths.is_empty());
    }

    #[test]
    fn contradictions_are_refused() {
        let error = spec(&Facts::root(), None, &["--ns", "net=new", "--network", "host"]).unwrap_err();
        assert_eq!(error.to_string(), "`--ns net=…` conflicts with `--network`");
        nspod_testkit::assert_refused(spec(&Facts::root(), None, &["--network", "pod"]), "pod");
        let error = spec(&Facts::root(), Some(Kinds::NET), &["--network", "host"]).unwrap_err();
        assert_eq!(error.to_string(), "the pod shares its net namespace, so `--network` must be omitted");
        assert!(spec(&Facts::root(), Some(Kinds::NET), &["--network", "pod"]).is_ok());
    }

    #[test]
    fn an_ordinary_user_gets_a_user_namespace() {
        let user = |flags| spec(&Facts::user(), None, flags).unwrap().namespaces.user;
        assert_eq!(user(&[]), NamespaceMode::New);
        assert_eq!(user(&["--userns=host"]), NamespaceMode::Host);
        assert_eq!(user(&["--network=container:web"]), NamespaceMode::Join(Join::Pid(42)));
        assert_eq!(root(&[]).namespaces.user, NamespaceMode::Host);
        assert_eq!(root(&["--userns=auto"]).namespaces.user, NamespaceMode::New);
    }

    #[test]
    fn maps_make_a_user_namespace() {
        let spec = root(&["--uidmap", "0:1000:10", "--uidmap", "10:5", "--gidmap", "0:100"]);
        assert_eq!(spec.namespaces.user, NamespaceMode::New);
        let (uid, gid) = ("0 1000 10\n10 5 1\n".parse().unwrap(), "0 100 1\n".parse().unwrap());
        assert_eq!(spec.id_maps, IdMaps::Maps { uid, gid });
        assert_eq!(root(&["--userns", "single"]).id_maps, IdMaps::Single);
        for bad in ["", "0", "0:x", "0:1:2:3", "0:1:", "-1:0:1"] {
            nspod_testkit::assert_refused(extent(bad), "must have the form INSIDE:OUTSIDE[:COUNT]");
        }
        nspod_testkit::assert_refused(self::spec(&Facts::root(), None, &["--uidmap", "0:0:0"]), "0");
    }

    #[test]
    fn a_range_of_its_own_is_requested_with_or_without_a_size() {
        let own = |text| user_choice(text).unwrap().own_ids();
        assert_eq!(own("auto"), Some(OwnIds { size: None }));
        assert_eq!(own("auto:size=1024"), Some(OwnIds { size: Some(1024) }));
        assert_eq!((own("new"), own("single"), own("host")), (None, None, None));
        for bad in
            ["auto:", "auto:size=", "auto:size=0", "auto:size=-1", "auto:size=1073741825", "auto:uid=1"]
        {
            nspod_testkit::assert_refused(user_choice(bad), "must be auto or auto:size=N with N from 1 to");
        }
        nspod_testkit::assert_refused(
            user_choice("wings"),
            "must be auto, single, new, host, pod, container:ID",
        );
        let mixed = spec(&Facts::root(), None, &["--userns=auto", "--uidmap=0:1:1"]);
        nspod_testkit::assert_refused(mixed, "conflicts with --uidmap and --gidmap");
    }

    #[test]
    fn clocks_are_offset_by_fractions_of_seconds() {
        let spec = root(&["--time-offset", "monotonic=3600,boottime=-5.5"]);
        assert_eq!(spec.namespaces.time, NamespaceMode::New);
        let offsets = spec.time_offsets.unwrap();
        assert_eq!(offsets.to_string(), "monotonic 3600 0\nboottime -6 500000000\n");
        for (bad, why) in [
            ("", "\"\" must have the form NAME=VALUE"),
            ("monotonic", "\"monotonic\" must have the form NAME=VALUE"),
            ("real=1", "clock \"real\" must be monotonic or boottime"),
            ("boottime=x", "\"x\" is not a number of seconds"),
            ("boottime=1.", "\"1.\" is not a number of seconds"),
            ("boottime=1.-5", "\"1.-5\" is not a number of seconds"),
        ] {
            nspod_testkit::assert_refused(time_offsets(bad), why);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,24}") {
            let _ = (kind_choice(&text), user_choice(&text), extent(&text), time_offsets(&text));
        }

        #[test]
        fn an_extent_is_its_three_numbers(inside: u32, outside: u32, count: u32) {
            prop_assert_eq!(extent(&format!("{inside}:{outside}:{count}")), Ok(Extent { inside, outside, count }));
        }
    }
}
