//! `checkpoint` and `restore`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nspod_cli::error::Result;
use nspod_cli::foreground::{self, Signals};
use nspod_cli::terminal::Relay;
use nspod_oci_runtime::{CheckpointOptions, Container, ImageOptions, ManageCgroups, RestoreOptions};

use crate::bundle::BundleArgs;
use crate::global::{Global, MaybePath};

// A doc comment would become the help of the command.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Directory of the images
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: MaybePath,
    /// Working directory of criu, which also contains its log
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    work_path: MaybePath,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets that are connected to a process outside the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session or terminal that a process outside the container started
    #[arg(long)]
    shell_job: bool,
    /// Save and restore file locks
    #[arg(long)]
    file_locks: bool,
    /// Remove memory pages from the images after they are restored
    #[arg(long)]
    auto_dedup: bool,
    /// Handling of the container's cgroup, the cgroups below it, and their limits
    #[arg(long, value_name = "MODE", value_enum, default_value = "soft")]
    manage_cgroups_mode: Cgroups,
    /// Restore an empty namespace of this kind
    #[arg(long, value_name = "KIND", value_enum)]
    empty_ns: Vec<EmptyNs>,
    /// Transfer memory on demand
    #[arg(long)]
    lazy_pages: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cgroups {
    Ignore,
    Soft,
    Full,
    Strict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EmptyNs {
    Network,
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// Directory of an earlier --pre-dump, relative to --image-path
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    parent_path: MaybePath,
    /// Omit TCP connections that are not established yet
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Link open files that were removed to a temporary name until the restore
    #[arg(long)]
    link_remap: bool,
    /// Do not stop the container
    #[arg(long)]
    leave_running: bool,
    /// Write only the memory, and do not stop the container
    #[arg(long)]
    pre_dump: bool,
    /// Send memory to this server
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = server)]
    page_server: Option<(String, u16)>,
    /// Descriptor on which criu reports that it is ready for --lazy-pages
    #[arg(long, value_name = "FD")]
    status_fd: Option<u32>,
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// Do not wait for the container
    #[arg(short, long)]
    detach: bool,
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// AppArmor or SELinux profile
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// SELinux context of the mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    #[command(flatten)]
    bundle: BundleArgs,
}

pub(crate) fn checkpoint(global: &Global, args: CheckpointArgs) -> Result<()> {
    let container = global.container(&args.id);
    Ok(container.checkpoint(&CheckpointOptions {
        images: args.images.options(),
        parent: args.parent_path.owned(),
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        page_server: args.page_server,
        status_fd: args.status_fd,
    })?)
}

pub(crate) fn restore(global: &Global, args: RestoreArgs) -> Result<i32> {
    let bundle = args.bundle.open()?;
    let options = RestoreOptions {
        images: args.images.options(),
        create: args.bundle.options(args.bundle.inherited()?),
        detach: args.detach,
        lsm_profile: args.lsm_profile,
        lsm_mount_context: args.lsm_mount_context,
    };
    // Keep the signals unblocked until criu has ended, so that they end criu too.
    let mut signals = None;
    let hold = || signals = (!args.detach).then(Signals::hold);
    let mut restored = Container::restore(&global.runtime(), &args.bundle.id, &bundle, options, hold)?;
    let Some(signals) = signals.transpose()? else { return Ok(0) };
    let mut relay = restored.terminal.take().map(|master| Relay::new(master, true)).transpose()?;
    let kill = || Ok(restored.pidfd.send_signal(nix::libc::SIGKILL)?);
    let fatal =
        foreground::until_end(restored.pid, &restored.pidfd, &signals, &mut relay, kill, || Ok(None))?;
    let code = restored.wait()?;
    if let Some(relay) = relay {
        relay.finish()?;
    }
    restored.delete(|| signals.release())?;
    Ok(fatal.map_or(code, |signal| 128 + signal))
}

impl ImageArgs {
    fn options(&self) -> ImageOptions {
        ImageOptions {
            images: self.image_path.owned().unwrap_or_else(|| PathBuf::from("checkpoint")),
            work: self.work_path.owned(),
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            manage_cgroups: match self.manage_cgroups_mode {
                Cgroups::Ignore => ManageCgroups::Ignore,
                Cgroups::Soft => ManageCgroups::Soft,
                Cgroups::Full => ManageCgroups::Full,
                Cgroups::Strict => ManageCgroups::Strict,
            },
            empty_net: self.empty_ns.contains(&EmptyNs::Network),
            lazy_pages: self.lazy_pages,
        }
    }
}

fn server(text: &str) -> std::result::Result<(String, u16), String> {
    let parts = text.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse().ok()?)));
    let (address, port) = parts.ok_or_else(|| format!("{text:?} is not of the form ADDRESS:PORT"))?;
    Ok((address.to_owned(), port))
}
