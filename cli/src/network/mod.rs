//! Networks that lead out of a container or pod: pasta, and the plugins of CNI.
//!
//! [`Network::new`] finds the programs before a process starts. [`Network::connect`] runs when the net namespace
//! exists and no program of the container runs. It writes [`STATE`] to the directory of the container or pod
//! before it starts a program, so that [`disconnect`] also undoes what a killed invocation left behind.

mod cni;
mod data;
mod files;
mod hosts;
mod pasta;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ns_core::{Kind, Namespace, ProcessId};
use nspod_sandbox::spec::{Mount, Root};
use nspod_sandbox::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use self::data::STEP;
pub(crate) use self::data::{Port, Target};
use crate::private_mount;

/// The file with the state of the network.
const STATE: &str = "network.json";
/// Directory in which the net namespace of a container is pinned.
const PINS: &str = "netns";

/// A kind of network that leads out of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    Pasta,
    /// The network of this name in the configuration of CNI.
    Cni(String),
}

/// A network as the flags describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) way: Way,
    pub(crate) ports: Vec<Port>,
}

/// A network whose programs and configuration were found.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    id: String,
    hostname: Option<String>,
    ports: Vec<Port>,
    means: Means,
}

#[derive(Debug, Clone)]
enum Means {
    /// The path of the program.
    Pasta(PathBuf),
    Cni(cni::List),
}

/// The saved state.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// Path of the net namespace.
    net: PathBuf,
    ports: Vec<Port>,
    #[serde(flatten)]
    means: SavedMeans,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedMeans {
    /// The process; `None` if it was not started.
    Pasta(Option<ProcessId>),
    Cni(cni::Attachment),
}

impl Network {
    /// Finds the programs and the configuration of a network. `id` is the name of the container or pod.
    ///
    /// # Errors
    /// The program, the network or one of its plugins does not exist. The sentence names what to install.
    pub(crate) fn new(wanted: &Wanted, id: &str, privileged: bool) -> Result<Network, Error> {
        let means = match &wanted.way {
            Way::Pasta => Means::Pasta(pasta::find()?),
            Way::Cni(name) if !privileged => {
                let problem = format!("the plugins of the CNI network {name} require CAP_SYS_ADMIN");
                let error = Error::new(ErrorKind::PermissionDenied, STEP, problem).on(name);
                return Err(error.and_hint("use `--network pasta`"));
            }
            Way::Cni(name) => {
                let list = cni::List::find(name)?;
                list.check_ports(&wanted.ports)?;
                Means::Cni(list)
            }
        };
        Ok(Network { id: id.into(), hostname: None, ports: wanted.ports.clone(), means })
    }

    /// Sets the host name that the hosts file contains.
    pub(crate) fn hostname(&mut self, name: Option<&str>) {
        self.hostname = name.map(Into::into);
    }

    /// Adds the kernel parameters that the network requires in its net namespace. A value of the caller stays.
    pub(crate) fn set_sysctls(&self, sysctls: &mut BTreeMap<String, String>) {
        if matches!(self.means, Means::Pasta(_)) {
            pasta::set_sysctls(sysctls);
        }
    }

    /// Makes the files for name lookup in the directory of a container or pod, unless they exist. They are empty
    /// until the network is connected.
    pub(crate) fn make_files(&self, dir: &Path) -> Result<(), Error> {
        files::make(dir)
    }

    /// Connects the net namespace of a container that waits for its start. If the caller has the privilege,
    /// pins the namespace: CNI's plugins need it when the container has ended, and pasta as root cannot open
    /// the namespace of a process that has more capabilities.
    pub(crate) fn connect_process(
        &self,
        dir: &Path,
        process: &nspod_sandbox::Prepared<'_>,
        privileged: bool,
    ) -> Result<(), Error> {
        let hierarchy = cgroup_core::Hierarchy::detect().ok();
        let cgroup_of = |pid| Some(hierarchy.as_ref()?.of(pid).ok()?.path().to_owned());
        // Without a cgroup of its own, the container is in the caller's.
        let own = cgroup_of(std::process::id() as i32);
        let cgroup = cgroup_of(process.pid).filter(|path| Some(path) != own.as_ref());
        let of = |kind: Kind| PathBuf::from(format!("/proc/{}/ns/{kind}", process.pid));
        let (net, user) = match privileged {
            true => (pin(dir, &Namespace::of_pidfd(process.pidfd, Kind::Net)?)?, None),
            false => (of(Kind::Net), Some(of(Kind::User))),
        };
        self.connect(&Target { dir, net, user, cgroup, pod: false })
    }

    /// Connects a net namespace, and writes the files for name lookup. After an error nothing is connected.
    ///
    /// # Errors
    /// A program failed; the error has its message.
    pub(crate) fn connect(&self, target: &Target<'_>) -> Result<(), Error> {
        let connected = self.try_connect(target);
        if connected.is_err() {
            // If that fails too, the state stays for `prune`.
            let _ = disconnect(target.dir);
        }
        connected
    }

    fn try_connect(&self, target: &Target<'_>) -> Result<(), Error> {
        let save = |means| {
            let saved = Saved { net: target.net.clone(), ports: self.ports.clone(), means };
            saved.write(target.dir)
        };
        let (addresses, dns) = match &self.means {
            Means::Pasta(program) => {
                save(SavedMeans::Pasta(None))?;
                save(SavedMeans::Pasta(Some(pasta::start(program, &self.ports, target)?)))?;
                (pasta::ADDRESSES.to_vec(), files::Resolver::of_host(files::Loopback::Forwarded))
            }
            Means::Cni(list) => {
                let mut attachment = cni::Attachment::new(list, &self.id, &self.ports);
                save(SavedMeans::Cni(attachment.clone()))?;
                attachment.add(&target.net)?;
                save(SavedMeans::Cni(attachment.clone()))?;
                let host = || files::Resolver::of_host(files::Loopback::Unreachable);
                (attachment.addresses(), attachment.resolver().unwrap_or_else(host))
            }
        };
        files::write(target.dir, self.hostname.as_deref(), &addresses, &dns)
    }
}

impl Saved {
    fn read(dir: &Path) -> Result<Option<Saved>, Error> {
        let path = dir.join(STATE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
                let problem = format!("cannot read {}: {e}", path.display());
                Error::new(ErrorKind::InvalidInput, STEP, problem).on(path.display().to_string())
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::path(STEP, "read", &path, &e)),
        }
    }

    fn write(&self, dir: &Path) -> Result<(), Error> {
        let (path, fresh) = (dir.join(STATE), dir.join(".network"));
        let text = serde_json::to_vec(self).unwrap_or_default();
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|e| Error::path(STEP, "write", &path, &e))
    }
}

/// Makes `/etc/hosts` of a pod that shares its net namespace, in the directory of the pod.
pub(crate) fn make_hosts(dir: &Path, hostname: Option<&str>) -> Result<(), Error> {
    files::make_hosts(dir, hostname)
}

/// Makes `/etc/hostname` in the directory of a container or pod, unless the name is not one word.
pub(crate) fn make_hostname(dir: &Path, name: &str) -> Result<(), Error> {
    files::make_hostname(dir, name)
}

/// Updates the names of the containers in `/etc/hosts` of the pod with this directory: adds one, and removes those
/// for which `stays` returns false. Does nothing if the pod has no such file, or was removed.
pub(crate) fn update_names(
    dir: &Path,
    added: Option<&str>,
    stays: impl FnMut(&str) -> bool,
) -> Result<(), Error> {
    hosts::update(dir, added, stays)
}

/// Checks that the container with this directory can get another name: the plugins of CNI know it by its name.
pub(crate) fn check_rename(dir: &Path) -> Result<(), Error> {
    match Saved::read(dir)? {
        Some(Saved { means: SavedMeans::Cni(attachment), .. }) => {
            let problem = format!(
                "a container in the CNI network {} cannot be renamed: the plugins know it by its name",
                attachment.name()
            );
            Err(Error::new(ErrorKind::State, STEP, problem).and_hint("stop it first"))
        }
        _ => Ok(()),
    }
}

/// Changes the state of a network after its directory got another name.
pub(crate) fn renamed(old: &Path, new: &Path) -> Result<(), Error> {
    let Some(mut saved) = Saved::read(new)? else { return Ok(()) };
    if let Ok(rest) = saved.net.strip_prefix(old) {
        saved.net = new.join(rest);
    }
    saved.write(new)
}

/// Returns the names of the networks in the configuration of CNI.
pub(crate) fn cni_networks() -> Vec<String> {
    cni::List::names()
}

/// Adds the mounts of the files for name lookup in the directory of a container or pod. A mount of the caller at
/// the same place stays.
pub(crate) fn mount_files(dir: &Path, root: &Root, mounts: &mut Vec<Mount>) {
    files::mount(dir, root, mounts);
}

/// Disconnects the container or pod with this directory: ends pasta, or calls the plugins of CNI in reverse order
/// with DEL. Does nothing if it is not connected.
///
/// # Errors
/// A plugin failed, or does not exist any more. The state stays, so that another call can continue.
pub(crate) fn disconnect(dir: &Path) -> Result<(), Error> {
    match Saved::read(dir)? {
        Some(Saved { means: SavedMeans::Pasta(Some(process)), .. }) => pasta::end(&process)?,
        // Killed after pasta's start and before its process was saved.
        Some(Saved { means: SavedMeans::Pasta(None), .. }) => pasta::end_noted(dir)?,
        Some(Saved { means: SavedMeans::Cni(attachment), net, .. }) => attachment.delete(&net)?,
        None => {}
    }
    unpin(dir)?;
    match fs::remove_file(dir.join(STATE)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::path(STEP, "remove", &dir.join(STATE), &e))
        }
        _ => Ok(()),
    }
}

/// Returns the state of the network for `inspect`; `None` without a network. Calls the plugins of CNI with CHECK
/// if the container or pod is running.
pub(crate) fn describe(dir: &Path, running: bool) -> Option<serde_json::Value> {
    let saved = Saved::read(dir).ok()??;
    let ports: Vec<String> = saved.ports.iter().map(ToString::to_string).collect();
    Some(match saved.means {
        SavedMeans::Pasta(process) => serde_json::json!({
            "mode": "pasta", "ports": ports, "addresses": pasta::ADDRESSES, "pid": process.map(|p| p.pid),
        }),
        SavedMeans::Cni(attachment) => serde_json::json!({
            "mode": format!("cni:{}", attachment.name()), "ports": ports, "addresses": attachment.addresses(),
            "result": attachment.result(),
            "problem": running.then(|| attachment.check(&saved.net).err().map(|e| e.to_string())).flatten(),
        }),
    })
}

/// Pins a net namespace in a directory with a private mount, so that no other mount namespace gets a copy.
fn pin(dir: &Path, namespace: &Namespace) -> Result<PathBuf, Error> {
    let pins = dir.join(PINS);
    let failed = |what| move |e: std::io::Error| Error::path(STEP, what, &dir.join(PINS), &e);
    fs::create_dir(&pins).map_err(failed("make"))?;
    private_mount::mount(&pins).map_err(|e| failed("mount")(e.into()))?;
    let path = pins.join("net");
    namespace.pin(&path)?;
    Ok(path)
}

fn unpin(dir: &Path) -> Result<(), Error> {
    let pins = dir.join(PINS);
    private_mount::unmount(&pins).map_err(|e| Error::path(STEP, "unmount", &pins, &e.into()))
}
