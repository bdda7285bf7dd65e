//! `nspod pod`: containers that share namespaces and limits.

use clap::{Args, Subcommand};
use ns_core::{Kind, Kinds};
use nspod_sandbox::spec::{IdMaps, Spec};
use nspod_sandbox::{Files, PodSpec};
use serde::Serialize;

use super::run::{self, RunArgs};
use super::update;
use super::{each, print_pod};
use crate::error::{Error, Result};
use crate::flags::Facts;
use crate::flags::files::FileArgs;
use crate::flags::limits::LimitArgs;
use crate::flags::namespaces::{OwnIds, UserChoice, user_choice};
use crate::flags::network;
use crate::network::{Network, Port, Way};
use crate::output;
use crate::state::pods::Pods;
use crate::state::{self, Locked, Store, ids};
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct PodArgs {
    #[command(subcommand)]
    pub(crate) command: PodCommand,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum PodCommand {
    /// Create a pod
    ///
    /// Its namespaces are pinned to files, so that no process has to hold them. Two kinds of pods have a
    /// process that holds their namespaces: a pod that shares pid, and a pod of an ordinary user, who cannot
    /// pin namespaces.
    ///
    /// If the pod shares net, its containers reach each other at localhost and by their names: /etc/hosts of each
    /// container names those that run.
    Create(Box<CreateArgs>),
    /// Run a command in a container of a pod, like `nspod run --pod`
    Run(Box<PodRunArgs>),
    /// List pods
    #[command(visible_alias = "ps")]
    Ls,
    /// Print the state and configuration of pods as JSON
    Inspect(NamesArgs),
    /// Kill all processes in the containers of pods; the pods stay
    Kill(NamesArgs),
    /// Change the limits of pods
    Update(Box<PodUpdateArgs>),
    /// Remove pods and their state
    Rm(PodRmArgs),
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateArgs {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Kinds of namespaces that the containers share: mnt, net, pid, user, uts, ipc, cgroup, time
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_parser = kind, default_value = "net,ipc,uts")]
    share: Vec<Kind>,
    /// Host name of the shared uts namespace [default: the pod's name]
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Set a kernel parameter of the shared net, ipc, uts or user namespace
    #[arg(long, value_name = "NAME=VALUE", value_parser = value::pair)]
    sysctl: Vec<(String, String)>,
    /// Share a new user namespace too: auto[:size=N] (ids that no other container or pod has), new
    /// (ids that others share) or single (only the caller's ids)
    #[arg(long, value_name = "WHICH", value_parser = new_user)]
    userns: Option<UserChoice>,
    /// Network of the shared net namespace: none (only the loopback interface), pasta (a way out through the
    /// program pasta) or cni:NAME (this network of CNI)
    #[arg(long, visible_alias = "net", value_name = "WHICH", value_parser = which_network, default_value = "none")]
    network: Which,
    /// With --network pasta or cni:NAME, publish a port of the pod on the host, or a range of ports
    #[arg(short = 'p', long, value_name = "[ADDRESS:]HOST:CONTAINER[/udp]", value_parser = network::ports)]
    publish: Vec<Vec<Port>>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Files of the shared mnt namespace
    #[command(flatten)]
    files: FileArgs,
    /// Name of the pod
    #[arg(value_name = "NAME", value_parser = value::name)]
    name: String,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct PodRunArgs {
    /// Name of the pod
    #[arg(value_name = "POD", value_parser = value::name)]
    joined: String,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Names of the pods
    #[arg(value_name = "POD", required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PodUpdateArgs {
    #[command(flatten)]
    limits: LimitArgs,
    /// Names of the pods
    #[arg(value_name = "POD", required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PodRmArgs {
    /// Kill and remove the containers of the pods first. A pod that does not exist is not an error
    #[arg(short, long)]
    force: bool,
    /// Names of the pods
    #[arg(value_name = "POD", required = true)]
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    share: Vec<Kind>,
    containers: Vec<String>,
    holder_pid: Option<i32>,
    created: Option<u64>,
}

fn kind(text: &str) -> std::result::Result<Kind, String> {
    text.parse().map_err(|e: ns_core::Error| e.to_string())
}

fn new_user(text: &str) -> std::result::Result<UserChoice, String> {
    match text == "single" || text == "new" || text.starts_with("auto") {
        true => user_choice(text),
        false => Err(format!("{text:?} must be auto, auto:size=N, new or single")),
    }
}

pub(crate) fn pod(command: PodCommand, json: bool) -> Result<i32> {
    let done = |()| 0;
    match command {
        PodCommand::Create(args) => create(&args, json).map(done),
        PodCommand::Run(args) => run_in(*args, json),
        PodCommand::Ls => ls(json).map(done),
        PodCommand::Inspect(args) => inspect(&args).map(done),
        PodCommand::Kill(args) => kill(&args, json).map(done),
        PodCommand::Update(args) => update_limits(&args, json).map(done),
        PodCommand::Rm(args) => rm(&args, json).map(done),
    }
}

fn create(args: &CreateArgs, json: bool) -> Result<()> {
    let facts = Facts::detect()?;
    let spec = args.resolve(&facts)?;
    let own = args.userns.as_ref().and_then(UserChoice::own_ids);
    if own.is_some() && !facts.privileged {
        return Err(Error::usage(
            "--userns",
            "`pod create --userns auto` requires root, because the shared memory of an ordinary user's pod \
             belongs to that user: omit it",
        ));
    }
    let network = args.network(&spec, &facts)?;
    Pods::open()?.create(&args.name, &spec, network.as_ref(), facts.privileged, |dir, spec| {
        if let Some(own) = own {
            let range = ids::reserve(dir, own.size)?;
            OwnIds::apply(range, &facts, &mut spec.id_maps, &mut spec.sysctls);
        }
        Ok(())
    })?;
    print_pod(&args.name, json)
}

/// The network of `--network`; `None` means only the loopback interface.
#[derive(Debug, Clone, Default)]
struct Which(Option<Way>);

fn which_network(text: &str) -> std::result::Result<Which, String> {
    match text {
        "none" => Ok(Which(None)),
        _ => match network::way(text) {
            Some(way) => way.map(|way| Which(Some(way))),
            None => Err(format!("{text:?} must be none, pasta or cni:NAME")),
        },
    }
}

impl CreateArgs {
    /// Finds the network of the pod with this spec; `None` without one.
    fn network(&self, spec: &PodSpec, facts: &Facts) -> Result<Option<Network>> {
        let Some(wanted) = network::wanted(self.network.0.as_ref(), &self.publish)? else { return Ok(None) };
        if !self.share.contains(&Kind::Net) {
            return Err(Error::usage("--network", "--network requires net in --share"));
        }
        let mut network = Network::new(&wanted, &self.name, facts.privileged)?;
        network.hostname(spec.hostname.as_deref());
        Ok(Some(network))
    }

    fn resolve(&self, facts: &Facts) -> Result<PodSpec> {
        let mut share: Kinds = self.share.iter().copied().collect();
        if self.userns.is_some() {
            share |= Kinds::USER;
        }
        let mut spec = PodSpec { share, limits: self.limits.resolve()?, ..PodSpec::default() };
        spec.sysctls = self.sysctl.iter().cloned().collect();
        if self.userns.as_ref().is_some_and(UserChoice::is_single) {
            spec.id_maps = IdMaps::Single;
        }
        match (share.contains(Kinds::UTS), &self.hostname) {
            (true, name) => spec.hostname = Some(name.as_ref().unwrap_or(&self.name).clone()),
            (false, Some(_)) => {
                return Err(Error::usage("--hostname", "--hostname requires uts in --share"));
            }
            (false, None) => {}
        }
        if share.contains(Kinds::MNT) {
            let mut container = Spec::new("");
            self.files.apply(&mut container, facts)?;
            if container.limits_directories() {
                return Err(Error::usage(
                    "--storage-opt",
                    "a pod cannot limit directories: limit an overlay in memory, or the volumes of its containers",
                ));
            }
            if !container.links.is_empty() {
                let problem = "a pod has only a root and mounts: use --symlink for its containers";
                return Err(Error::usage("--symlink", problem));
            }
            FileArgs::make_directories(&container)?;
            spec.files = Some(Files { root: container.root, mounts: container.mounts });
        } else if !self.files.is_empty() {
            return Err(Error::usage("--share", "a root and mounts of the pod require mnt in --share"));
        }
        Ok(spec)
    }
}

fn run_in(args: PodRunArgs, json: bool) -> Result<i32> {
    let mut run = args.run;
    if run.pod.replace(args.joined).is_some() {
        return Err(Error::usage("--pod", "`nspod pod run POD` does not accept --pod"));
    }
    run::run(&run, json)
}

fn ls(json: bool) -> Result<()> {
    let store = Store::open()?;
    let mut rows = Vec::new();
    for pod in Pods::open()?.all()? {
        let open = pod.open().ok();
        rows.push(Row {
            containers: pod.containers(&store)?,
            share: pod.spec().map_or(Vec::new(), |spec| spec.share.kinds().collect()),
            holder_pid: open.and_then(|pod| pod.holder_pid()),
            created: pod.created(),
            name: pod.name().to_owned(),
        });
    }
    if json {
        return output::json(&rows);
    }
    let cells = |row: &Row| {
        let share: Vec<_> = row.share.iter().map(|kind| kind.name()).collect();
        vec![
            row.name.clone(),
            share.join(","),
            row.holder_pid.map_or(String::new(), |pid| pid.to_string()),
            row.created.map_or("never finished".into(), |at| output::ago(state::age(at))),
            row.containers.join(" "),
        ]
    };
    output::print(output::table(
        &["NAME", "SHARES", "HOLDER", "CREATED", "CONTAINERS"],
        &rows.iter().map(cells).collect::<Vec<_>>(),
    ))
}

fn inspect(args: &NamesArgs) -> Result<()> {
    let (pods, store) = (Pods::open()?, Store::open()?);
    let describe = |name: &String| -> Result<serde_json::Value> {
        let found = pods.find(name)?;
        let pod = found.open();
        let namespaces = pod.as_ref().ok().map(|pod| {
            let ids = pod.spec().share.kinds().filter_map(|kind| Some((kind, pod.namespace(kind)?.id())));
            ids.map(|(kind, id)| (kind.to_string(), id.display(kind).to_string().into())).collect()
        });
        Ok(serde_json::json!({
            "name": found.name(),
            "created": found.created(),
            "spec": found.spec(),
            "network": found.network().and_then(|dir| crate::network::describe(dir, pod.is_ok())),
            "namespaces": namespaces.map(serde_json::Value::Object),
            "holder_pid": pod.as_ref().ok().and_then(|pod| pod.holder_pid()),
            "cgroup": pod.as_ref().ok().and_then(|pod| Some(pod.cgroup()?.path().to_owned())),
            "usage": pod.as_ref().ok().and_then(|pod| pod.usage().ok()),
            "broken": pod.as_ref().err().map(ToString::to_string),
            "containers": found.containers(&store)?,
        }))
    };
    output::json(&args.names.iter().map(describe).collect::<Result<Vec<_>>>()?)
}

/// Kills the containers of pods. The process that holds a pod's namespaces stays.
fn kill(args: &NamesArgs, json: bool) -> Result<()> {
    let (pods, store) = (Pods::open()?, Store::open()?);
    each(&args.names, |name| {
        each(&pods.find(name)?.containers(&store)?, |id| store.kill(&store.find(id)?))?;
        if json { print_pod(name, json) } else { Ok(()) }
    })
}

fn update_limits(args: &PodUpdateArgs, json: bool) -> Result<()> {
    let limits = update::changes(&args.limits)?;
    let pods = Pods::open()?;
    each(&args.names, |name| {
        pods.update(name, |cgroup, saved| update::apply(cgroup, &args.limits, limits.clone(), saved))?;
        if json { print_pod(name, json) } else { Ok(()) }
    })
}

fn rm(args: &PodRmArgs, json: bool) -> Result<()> {
    let (pods, store) = (Pods::open()?, Store::open()?);
    each(&args.names, |name| {
        let found = if args.force { pods.get(name)? } else { Some(pods.find(name)?) };
        let Some(pod) = found else { return Ok(()) };
        let containers = pod.containers(&store)?;
        if !containers.is_empty() && !args.force {
            let problem = format!("the pod {} has containers: {}", pod.name(), containers.join(", "));
            return Err(Error::state("rm", pod.name(), problem)
                .hint(format!("`nspod pod rm -f {}` ends and removes them", pod.name())));
        }
        for id in &containers {
            if let Locked::Ours(entry, lock) = store.lock(id, true)? {
                entry.end()?;
                store.remove(&entry, &lock)?;
            }
        }
        pods.remove(pod.name())?;
        print_pod(pod.name(), json)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;

    fn spec(line: &str) -> Result<PodSpec> {
        parse::<CreateArgs>(line.split(' '))?.resolve(&Facts::root())
    }

    #[test]
    fn a_pod_shares_net_ipc_and_uts_unless_told() {
        let usual = spec("web").unwrap();
        assert_eq!(usual.share, Kinds::NET | Kinds::IPC | Kinds::UTS);
        assert_eq!(usual.hostname.as_deref(), Some("web"));
        let pid = spec("--share pid,net web").unwrap();
        assert_eq!((pid.share, pid.hostname), (Kinds::PID | Kinds::NET, None));
        nspod_testkit::assert_refused(spec("--share wings web"), "wings");
        let single = spec("--userns single web").unwrap();
        assert_eq!((single.share, single.id_maps), (usual.share | Kinds::USER, IdMaps::Single));
        nspod_testkit::assert_refused(spec("--userns host web"), "must be auto, auto:size=N, new or single");
    }

    #[test]
    fn sharing_mnt_shares_the_files() {
        assert!(spec("--share mnt,net web").unwrap().files.is_some());
        nspod_testkit::assert_refused(spec("--rootfs /img web"), "--share");
        nspod_testkit::assert_refused(spec("--share net -h box web"), "host");
    }
}
