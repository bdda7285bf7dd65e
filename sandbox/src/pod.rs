//! Pods: containers that share some namespaces and a parent cgroup.
//!
//! A pod has no pause process. Descriptors hold the shared namespaces, and pins hold them after
//! this program has ended. Two cases require a process. A shared pid namespace needs an init,
//! because no process can enter a pid namespace without one. An unprivileged user cannot make pins.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgroup_core::{Cgroup, Limits, Usage};
use ns_core::{Kind, Kinds, Namespace, Pidfd, ProcessId, TimeOffsets};
use serde::{Deserialize, Serialize};

use crate::cgroups;
use crate::command::Command;
use crate::error::{Error, ErrorKind};
use crate::parent;
use crate::reap::{self, ChildProcess, ReapList};
use crate::spec::{Capabilities, IdMaps, Mount, MountKind, Namespaces, Root, Seccomp, Spec, User};
use crate::store::random_name;
use crate::watch::{Watched, watch_cgroup, watch_process};

/// The specification of a pod: the resources that its containers share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodSpec {
    /// Kinds of namespaces to share. The default is net, ipc and uts.
    pub share: Kinds,
    /// Host name, if uts is shared.
    pub hostname: Option<String>,
    /// Kernel parameters of the shared net, ipc, uts and user namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Id maps, if user is shared.
    pub id_maps: IdMaps,
    /// Clock offsets, if time is shared.
    pub time_offsets: Option<TimeOffsets>,
    /// Root and mounts, if mnt is shared.
    pub files: Option<Files>,
    /// Limits for all containers together, in addition to their own.
    pub limits: Limits,
    /// What keeps the shared namespaces alive.
    pub hold_by: HoldBy,
}

/// The file system that the containers of a pod share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The root that they see as `/`.
    pub root: Root,
    /// Mounts within the root.
    pub mounts: Vec<Mount>,
}

/// What keeps a pod's namespaces alive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldBy {
    /// Descriptors and, after [`Pod::pin`], files.
    #[default]
    Descriptors,
    /// A process, the embedded init, in its own cgroup below the pod's.
    Process,
}

impl Default for PodSpec {
    fn default() -> Self {
        PodSpec {
            share: [Kind::Net, Kind::Ipc, Kind::Uts].into_iter().collect(),
            hostname: None,
            sysctls: BTreeMap::new(),
            id_maps: IdMaps::Auto,
            time_offsets: None,
            files: None,
            limits: Limits::default(),
            hold_by: HoldBy::Descriptors,
        }
    }
}

/// A running pod: namespaces and a cgroup that several containers share. See
/// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
///
/// ```
/// use nspod_sandbox::{Pod, PodSpec, ns_core::Kind};
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
///
/// let name = "web";
/// # let name = &format!("web-{}", std::process::id());
/// let pod = Pod::create(name, &PodSpec::default())?;
/// let server = pod.command("sleep")?.arg("60").spawn()?;
/// let client = pod.command("sleep")?.arg("60").spawn()?;
/// let (server, client) = (server.namespaces()?, client.namespaces()?);
/// assert_eq!(server[Kind::Net], client[Kind::Net]);
/// assert_ne!(server[Kind::Pid], client[Kind::Pid]);
/// pod.delete()?;
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
///
/// Dropping the handle kills the pod's containers and removes its cgroup; [`detach`](Self::detach)
/// keeps the pod.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    namespaces: Vec<Namespace>,
    cgroup: Option<Cgroup>,
    base: Option<PathBuf>,
    /// The process that holds the pod's namespaces, if there is one.
    holder: Option<Holder>,
    /// The processes of the pod's containers that this program must reap.
    reaps: ReapList,
    shm: Option<PathBuf>,
    /// Whether the pod's user namespace maps a single id and denies setgroups(2).
    single_id: bool,
    /// The directory of the pod's pins.
    pins: Option<PathBuf>,
    /// Whether dropping the handle keeps the pod.
    detached: bool,
    /// Set if the pod ends with this program.
    watched: Option<Watched>,
}

impl Pod {
    /// Makes the shared namespaces and the parent cgroup.
    /// Linux 5.14 or later; see [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// The pod of an unprivileged user also shares its user namespace, because a process could not
    /// enter the other namespaces without it.
    ///
    /// `name` is the name of the pod's cgroup: at most 255 bytes without `/`.
    ///
    /// # Errors
    /// Nothing is left behind.
    /// - [`ErrorKind::InvalidSpec`]: a field is invalid ([`Error::field`]).
    /// - [`ErrorKind::AlreadyExists`] (`EEXIST`): a cgroup has this name.
    /// - [`ErrorKind::Unenforceable`]: this host cannot enforce a limit.
    /// - [`ErrorKind::PermissionDenied`] (`EPERM`, `EACCES`): the caller may not make a namespace or a
    ///   cgroup.
    /// - [`ErrorKind::LimitReached`] (`ENOSPC`, `EUSERS`, `EAGAIN`, `EMFILE`): a limit on namespaces,
    ///   cgroups, processes or descriptors is reached.
    pub fn create(name: &str, spec: &PodSpec) -> Result<Pod, Error> {
        Pod::create_noted(name, spec, |_| Ok(()))
    }

    /// Makes a pod like [`create`](Self::create), for a pod that outlives this program. Calls
    /// `note` with the pod's record before anything is made that would remain if this program were
    /// killed. `note` can be called several times, each time with everything that is known. The
    /// record may name objects that do not exist yet. An error of `note` ([`Error::caller`]) ends
    /// the creation.
    /// Linux 5.14 or later; see [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// The errors of [`create`](Self::create), and the error of `note`.
    pub fn create_noted(
        name: &str,
        spec: &PodSpec,
        note: impl Fn(&PodRecord) -> Result<(), Error> + Send + 'static,
    ) -> Result<Pod, Error> {
        let mut spec = spec.clone();
        let privileged = crate::Host::detect(&Spec::default())?.privileged();
        if !privileged {
            spec.share |= Kinds::from(Kind::User);
        }
        if spec.files.is_some() != spec.share.contains(Kinds::from(Kind::Mnt)) {
            return Err(Error::invalid("files", "must be set if and only if mnt is shared"));
        }
        if let Some(files) = &spec.files {
            let spec = Spec { root: files.root.clone(), mounts: files.mounts.clone(), ..Spec::default() };
            if spec.limits_directories() {
                return Err(Error::invalid("files", "the files of a pod cannot have limits of directories"));
            }
        }
        let shared_memory = spec.share.contains(Kinds::from(Kind::Ipc)) && spec.files.is_none();
        let shm = shared_memory.then(|| shm_path(name));
        let mut record = PodRecord { shm: shm.clone(), ..PodRecord::default() };
        let made = cgroups::make_pod(name, |path| {
            record.cgroup = Some(path.to_owned());
            note(&record)
        });
        let (cgroup, base) = match made {
            Ok((cgroup, base)) => (Some(cgroup), Some(base)),
            Err(e) if !privileged && spec.limits.is_empty() && parent::is_not_allowed(&e) => (None, None),
            Err(e) => return Err(e),
        };
        let mut pod = Pod {
            namespaces: Vec::new(),
            cgroup,
            base,
            holder: None,
            reaps: ReapList::default(),
            shm: None,
            single_id: false,
            pins: None,
            detached: false,
            watched: None,
            spec,
        };
        // From here on, an error drops the pod, which removes everything that was made.
        pod.limit()?;
        pod.make_namespaces(record, note)?;
        if let Some(path) = shm {
            pod.shm = Some(path.clone());
            make_shm(&path)?;
        }
        Ok(pod)
    }

    fn limit(&mut self) -> Result<(), Error> {
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        if !self.spec.limits.is_empty() {
            cgroups::limit(cgroup, &self.spec.limits)?;
        }
        cgroup.enable(cgroup.available()? & parent::WANTED)?;
        Ok(())
    }

    /// Makes the namespaces with a process that is set up like a container and then held. The
    /// process ends when the namespaces have been opened, or stays as their holder.
    fn make_namespaces(
        &mut self,
        mut record: PodRecord,
        note: impl Fn(&PodRecord) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (pid, share) = (Kinds::from(Kind::Pid), self.spec.share);
        let stays = share.contains(pid) || self.spec.hold_by == HoldBy::Process;
        let mut made = if stays { share | pid } else { share };
        if share.contains(Kinds::from(Kind::Mnt)) {
            // Without a new ipc namespace the shared files would show the host's /dev/shm.
            made |= Kinds::from(Kind::Ipc);
        }
        let mut spec = Spec {
            namespaces: Namespaces::new(made),
            hostname: self.spec.hostname.clone(),
            sysctls: self.spec.sysctls.clone(),
            time_offsets: self.spec.time_offsets,
            loopback: true,
            init: Some(stays),
            ..Spec::default()
        };
        if share.contains(Kinds::from(Kind::User)) {
            spec.id_maps = self.spec.id_maps.clone();
        } else if stays {
            // This id has no permissions, so that no container's root can signal or trace the
            // holder.
            spec.process.user = Some(User { uid: 65534, gid: 65534, groups: Vec::new() });
        }
        if let Some(files) = &self.spec.files {
            spec.root = files.root.clone();
            spec.mounts = files.mounts.clone();
        }
        if stays {
            if self.spec.files.is_none() {
                *spec.namespaces.get_mut(Kind::Mnt) = crate::spec::NamespaceMode::New;
                spec.root = Root::Empty;
                // Before Linux 6.17 the containers copy their procfs from this mount.
                spec.mounts.push(Mount::new("/proc", MountKind::Proc));
            }
            spec.process.capabilities = Some(Capabilities::NONE);
            spec.process.no_new_privs = true;
            spec.process.seccomp = Seccomp::Standard;
        } else {
            spec.process.args = vec!["true".into()];
        }
        let mut command = Command::from_spec(spec);
        command.stdin(crate::Stdio::Null).stdout(crate::Stdio::Null).stderr(crate::Stdio::Null);
        command.cgroup_use(cgroups::CgroupUse::None).die_with_parent(false);
        if !stays {
            command.hold();
        } else if let Some(cgroup) = &self.cgroup {
            command.cgroup_parent(cgroup.path()).name("init");
        } else {
            // No cgroup contains the holder, so nothing could find it. Until `note` has recorded it, it
            // ends together with this program.
            command.prepared(move |holder| {
                record.holder = Some(ProcessId::of(holder.pid)?);
                note(&record).map(|()| Vec::new())
            });
        }
        let mut process = command.spawn()?;
        if share.contains(Kinds::from(Kind::User)) {
            self.single_id = ns_core::Setgroups::of_pid(process.pid())? == ns_core::Setgroups::Deny;
        }
        for kind in share.kinds() {
            self.namespaces.push(match Namespace::of_pidfd(process.pidfd(), kind) {
                // The held process has ended. The error of its start has the cause.
                Err(e) if !stays && e.raw_os_error() == Some(libc::ESRCH) => {
                    return Err(process.start().err().unwrap_or(e.into()));
                }
                found => found?,
            });
        }
        if stays {
            // The process is this program's child, so its pid cannot be reused before it is reaped.
            let id = ProcessId::of(process.pid())?;
            self.holder = Some(Holder { process: ChildProcess::new(id.pid, Pidfd::open(id.pid)?), id });
            process.detach();
            return Ok(());
        }
        process.delete()
    }

    /// Pins the shared namespaces to files in a directory of the host (`net`, `ipc`, …), so that they outlive
    /// this process. The directory must be on a private mount. A pin is a bind mount of the
    /// namespace's file: [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// The pins made so far are removed.
    /// - `EPERM`: the caller lacks CAP_SYS_ADMIN in the user namespace of its mount namespace.
    /// - `EINVAL`: a shared mount namespace is not newer than the caller's own, or would receive the
    ///   pin by propagation.
    /// - `EEXIST`: a file exists.
    /// - `ENOENT`, `EACCES`, `EROFS`: the files cannot be created.
    pub fn pin(&mut self, dir: &Path) -> Result<(), Error> {
        for (at, namespace) in self.namespaces.iter().enumerate() {
            if let Err(e) = namespace.pin(dir.join(namespace.kind().name())) {
                for pinned in &self.namespaces[..at] {
                    let _ = Namespace::unpin(dir.join(pinned.kind().name()));
                }
                return Err(e.into());
            }
        }
        self.pins = Some(dir.to_owned());
        Ok(())
    }

    /// Opens a detached pod by its spec and its record.
    /// Since Linux 5.3; see [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// The holder is identified by pid, start time and boot ([`ProcessId`]), so that another process
    /// with its pid is not mistaken for it.
    ///
    /// ```no_run
    /// use nspod_sandbox::{Pod, PodSpec};
    ///
    /// // One process makes a pod and ends.
    /// let mut pod = Pod::create("web", &PodSpec::default())?;
    /// pod.pin("/run/pods/web".as_ref())?;
    /// let (spec, record) = (pod.spec().clone(), pod.record());
    /// pod.detach();
    ///
    /// // Another process opens it with the spec and the record.
    /// let pod = Pod::open(&spec, &record)?;
    /// pod.delete()?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::ProcessEnded`] (`ESRCH`): the process that held the namespaces has ended.
    /// - [`ErrorKind::State`]: the pod is neither pinned nor held.
    /// - [`ErrorKind::NotFound`] (`ENOENT`): a pin or the cgroup is gone.
    /// - `EACCES`: the caller may not inspect the holder.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn open(spec: &PodSpec, record: &PodRecord) -> Result<Pod, Error> {
        let mut namespaces = Vec::new();
        let holder = record.holder.as_ref().map(Holder::open).transpose()?;
        for kind in spec.share.kinds() {
            namespaces.push(match (&record.pins, &holder) {
                (Some(dir), _) => Namespace::open(dir.join(kind.name()))?,
                (None, Some(holder)) => Namespace::of_pidfd(&holder.process.pidfd, kind)?,
                (None, None) => {
                    let what = "the pod's namespaces are neither pinned nor held";
                    return Err(Error::new(ErrorKind::State, "pod", what));
                }
            });
        }
        Ok(Pod {
            spec: spec.clone(),
            namespaces,
            cgroup: record.cgroup.as_deref().map(Cgroup::open).transpose()?,
            base: record.base.clone(),
            holder,
            reaps: ReapList::default(),
            shm: record.shm.clone(),
            single_id: record.single_id,
            pins: record.pins.clone(),
            detached: true,
            watched: None,
        })
    }

    /// Returns the record with which [`Pod::open`] opens the pod.
    pub fn record(&self) -> PodRecord {
        PodRecord {
            cgroup: self.cgroup.as_ref().map(|c| c.path().to_owned()),
            base: self.base.clone(),
            holder: self.holder.as_ref().map(|holder| holder.id.clone()),
            shm: self.shm.clone(),
            single_id: self.single_id,
            pins: self.pins.clone(),
        }
    }

    /// Returns the pod's spec, with the kinds that the pod actually shares.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Returns the pod's cgroup, the parent of its containers' cgroups.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Returns the pid of the process that holds the pod's namespaces, if there is one.
    pub fn holder_pid(&self) -> Option<i32> {
        self.holder.as_ref().map(|holder| holder.id.pid)
    }

    /// Returns the shared namespace of a kind, or `None` if the kind is not shared.
    pub fn namespace(&self, kind: Kind) -> Option<&Namespace> {
        self.namespaces.iter().find(|n| n.kind() == kind)
    }

    /// Returns a command for a container of this pod: like [`Command::new`], in the shared
    /// namespaces. In a pod that shares its pid namespace, the pod's own init is pid 1.
    /// See [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, Error> {
        let mut command = Command::new(program);
        self.join(&mut command)?;
        Ok(command)
    }

    /// Configures a command to join this pod. Changes the command's spec: it joins the shared
    /// namespaces ([setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html)), and the settings of
    /// shared kinds, such as the host name, become those of the pod.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn join(&self, command: &mut Command) -> Result<(), Error> {
        command.reaped_by(&self.reaps);
        for namespace in &self.namespaces {
            match (namespace.kind(), self.holder_pid()) {
                // Joins by pid, because only /proc/PID/setgroups shows whether setgroups(2) is
                // allowed there.
                (Kind::User, Some(pid)) => command
                    .namespace(Kind::User, crate::spec::NamespaceMode::Join(crate::spec::Join::Pid(pid))),
                _ => command.join(namespace.try_clone()?),
            };
        }
        let spec = command.spec_mut();
        if self.spec.share.contains(Kinds::from(Kind::Uts)) {
            spec.hostname = None;
        }
        if self.spec.share.contains(Kinds::from(Kind::Pid)) {
            spec.init = Some(false);
        }
        if self.spec.share.contains(Kinds::from(Kind::User))
            && matches!(self.spec.id_maps, IdMaps::Own { .. })
        {
            spec.id_maps = self.spec.id_maps.clone();
        }
        if self.single_id && spec.process.user == Some(User::default()) {
            // No other id is mapped, and setgroups(2) is denied.
            spec.process.user = None;
        }
        if self.spec.share.contains(Kinds::from(Kind::Mnt)) {
            spec.keep_mounts();
        } else if let Some(shm) = &self.shm
            && spec.mounts.iter().any(|m| m.kind == MountKind::Dev)
        {
            let kind = MountKind::Bind { source: shm.clone(), recursive: false };
            let mount = Mount { nosuid: true, nodev: true, noexec: true, ..Mount::new("/dev/shm", kind) };
            spec.mounts.push(mount);
        }
        if let Some(cgroup) = &self.cgroup {
            command.in_pod(cgroup.path().to_owned());
        }
        Ok(())
    }

    /// Stops all containers of the pod. They cannot detect it. Returns when all processes have
    /// stopped. Since Linux 5.2; see `cgroup.freeze` of
    /// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// Do not freeze while a process starts in the pod: see
    /// [`Container::freeze`](crate::Container::freeze).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the pod has no cgroup.
    /// - [`ErrorKind::TimedOut`] after 10 s: a process is in an uninterruptible system call. It stops
    ///   when the call returns.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed.
    /// - `EACCES`: the caller may not write to the cgroup's file.
    pub fn freeze(&self) -> Result<(), Error> {
        Ok(self.need_cgroup()?.freeze()?)
    }

    /// Lets all containers of the pod continue. A container that is frozen itself stays frozen.
    /// Since Linux 5.2.
    /// Since Linux 5.2: `cgroup.freeze` of
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// # Errors
    /// The same as [`freeze`](Self::freeze). [`ErrorKind::TimedOut`] after 10 s: a cgroup above is
    /// frozen.
    pub fn thaw(&self) -> Result<(), Error> {
        Ok(self.need_cgroup()?.thaw()?)
    }

    /// Changes the limits for all containers together. Limits that are `None` stay unchanged. The
    /// fields of [`Limits`] have the units and the kernel versions.
    /// [`Limits`](cgroup_core::Limits) documents the first kernel version of each; see
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the pod has no cgroup.
    /// - [`ErrorKind::Unenforceable`]: this host cannot enforce a limit; [`Error::field`] names it.
    /// - [`ErrorKind::InvalidInput`], `EINVAL`, `ERANGE`: a value is out of range.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed, or a block device does not exist.
    /// - `EACCES`: the caller may not write to a file of the cgroup.
    pub fn update(&self, limits: &Limits) -> Result<(), Error> {
        cgroups::limit(self.need_cgroup()?, limits)
    }

    /// Returns the resource usage of all containers together. The fields of [`Usage`] have the units.
    /// [`Usage`](cgroup_core::Usage) documents units and the first kernel version of each value; see
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the pod has no cgroup.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed.
    pub fn usage(&self) -> Result<Usage, Error> {
        Ok(self.need_cgroup()?.usage()?)
    }

    /// Kills every process in the pod with SIGKILL, and does not wait for their end. Uses
    /// `cgroup.kill` (since Linux 5.14). A pod without a cgroup kills its holder; the processes in its
    /// pid namespace end with it.
    /// Since Linux 5.14: `cgroup.kill` of
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// # Errors
    /// - `EPERM`, `EACCES`: the caller may not kill the processes.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed.
    pub fn kill(&self) -> Result<(), Error> {
        match &self.cgroup {
            Some(cgroup) => Ok(cgroup.kill()?),
            None => self.kill_holder(),
        }
    }

    fn kill_holder(&self) -> Result<(), Error> {
        match self.holder.as_ref().map(|h| h.process.pidfd.send_signal(libc::SIGKILL)) {
            Some(Err(e)) if e.raw_os_error() != Some(libc::ESRCH) => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn need_cgroup(&self) -> Result<&Cgroup, Error> {
        self.cgroup.as_ref().ok_or_else(|| {
            let what = format!("the pod has no cgroup: {}", nspod_errno::how_to_get_a_cgroup());
            Error::new(ErrorKind::State, "cgroup", what)
        })
    }

    /// Sets whether the pod ends with this process, in any way that it ends: its cgroup is removed, and all
    /// processes in the pod are killed, also those of containers that were detached. Without a cgroup, the
    /// process that holds the namespaces is killed. The default is `false`, because the containers of the pod
    /// are tied to this process already: see [`Command::die_with_parent`]. Pins and the shared memory of the
    /// pod stay until [`delete`](Self::delete). Since Linux 5.14; see
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// # Errors
    /// - [`ErrorKind::LimitReached`]: this process has 16383 tied containers and pods, or fewer with a low
    ///   `RLIMIT_FSIZE`: see [`Command::die_with_parent`].
    /// - The errors of clone3(2) and memfd_create(2) for the watcher.
    pub fn die_with_parent(&mut self, dies: bool) -> Result<(), Error> {
        self.watched = match (&self.cgroup, &self.holder) {
            _ if !dies => None,
            (Some(cgroup), _) => watch_cgroup(cgroup, false)?,
            (None, Some(holder)) => watch_process(&holder.id)?,
            // The namespaces end with the descriptors of this process.
            (None, None) => None,
        };
        Ok(())
    }

    /// Drops the handle and keeps the pod, as long as its pins or its holder exist.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Kills every process in the pod, and removes its cgroup, pins and shared memory. An error does
    /// not prevent the removal of the others.
    /// See [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#organizing-processes-and-threads).
    ///
    /// # Errors
    /// - As [`kill`](Self::kill).
    /// - `EBUSY` ([`ErrorKind::Busy`]): a process did not end in 5 s, because
    ///   it is in an uninterruptible system call.
    /// - `EPERM`: the caller may not unmount a pin.
    pub fn delete(mut self) -> Result<(), Error> {
        self.detached = true;
        self.clear()
    }

    fn clear(&mut self) -> Result<(), Error> {
        // If the cgroup is gone already, remove the rest.
        let mut result = self.kill().or_else(|e| match &self.cgroup {
            Some(cgroup) if !cgroup.path().exists() => self.kill_holder(),
            _ => Err(e),
        });
        if let Some(holder) = self.holder.take() {
            reap::reap(holder.process, &self.reaps);
        }
        if let Some(dir) = self.pins.take() {
            for namespace in &self.namespaces {
                let unpinned = Namespace::unpin(dir.join(namespace.kind().name()));
                result = result.and(unpinned.map_err(Error::from));
            }
        }
        if let Some(shm) = self.shm.take() {
            match fs::remove_dir_all(shm.parent().unwrap_or(&shm)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    let failed = Error::path("pod", "remove", &shm, &e);
                    result = result.and(Err(failed));
                }
                _ => {}
            }
        }
        if let Some(cgroup) = self.cgroup.take() {
            let destroyed = cgroup.destroy().map_err(Error::from);
            if destroyed.is_err()
                && let Some(watched) = self.watched.take()
            {
                watched.keep();
            }
            result = result.and(destroyed);
        }
        if let Some(base) = self.base.take() {
            // This fails with EBUSY while the parent contains another container.
            let _ = fs::remove_dir(base);
        }
        result
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.detached {
            let _ = self.clear();
        }
    }
}

/// The process that holds a pod's namespaces.
#[derive(Debug)]
struct Holder {
    process: Arc<ChildProcess>,
    id: ProcessId,
}

impl Holder {
    /// Opens the process unless it has ended. Another process can have its pid now.
    fn open(id: &ProcessId) -> Result<Holder, Error> {
        let Some(pidfd) = id.open()? else {
            let what = "the process that held the namespaces has ended, and the namespaces with it";
            return Err(Error::new(ErrorKind::ProcessEnded, "pod", what).on(id.pid.to_string()));
        };
        Ok(Holder { process: ChildProcess::new(id.pid, pidfd), id: id.clone() })
    }
}

/// The record with which [`Pod::open`] opens a detached pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The pod's cgroup.
    pub cgroup: Option<PathBuf>,
    /// The library's parent of cgroups, which is removed with its last child.
    pub base: Option<PathBuf>,
    /// The process that holds the pod's namespaces.
    pub holder: Option<ProcessId>,
    /// The shared memory of the pod's containers.
    pub shm: Option<PathBuf>,
    /// Whether the pod's user namespace maps a single id.
    #[serde(default)]
    pub single_id: bool,
    /// The directory of the pod's pins.
    pub pins: Option<PathBuf>,
}

/// Returns the path of the shared memory of a pod's containers: a directory in the host's `/dev/shm`, so
/// that no mount is needed. Only the caller can enter the directory above it.
fn shm_path(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/nspod-{name}-{}/shm", random_name()))
}

fn make_shm(path: &Path) -> Result<(), Error> {
    let outer = path.parent().unwrap_or(path);
    let failed = |call| {
        move |e: std::io::Error| {
            Error::io("pod", "make the pod's /dev/shm", call, &e).on(path.display().to_string())
        }
    };
    fs::DirBuilder::new().mode(0o700).create(outer).map_err(failed("mkdir"))?;
    fs::create_dir(path).map_err(failed("mkdir"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).map_err(failed("chmod"))
}
