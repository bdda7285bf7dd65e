//! `checkpoint` and `restore`, by the program criu.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_cli::process::Process;

use super::delete::finish;
use crate::args::Global;
use crate::driver;
use crate::launch::{self, BundleArgs};
use crate::state::Status;

/// What both take.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Where the images are
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: PathBuf,
    /// Where criu works and logs
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets to the outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a terminal of the caller's
    #[arg(long)]
    shell_job: bool,
    /// Handle file locks
    #[arg(long)]
    file_locks: bool,
    /// Leave no copies of memory in the images that are restored
    #[arg(long)]
    auto_dedup: bool,
    /// What becomes of cgroups: soft, full, strict, ignore
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<String>,
    /// Make a namespace and restore nothing in it
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<String>,
    /// Transfer memory as it is needed
    #[arg(long)]
    lazy_pages: bool,
}

/// Write a running container to images, and end it
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// The images of a --pre-dump before, relative to --image-path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let it run on
    #[arg(long)]
    leave_running: bool,
    /// Write its memory alone, and let it run on
    #[arg(long)]
    pre_dump: bool,
    /// Send memory to this server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Where criu tells that it is ready for --lazy-pages
    #[arg(long, value_name = "FD")]
    status_fd: Option<i32>,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

/// Make a container from images
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// AppArmor's or SELinux's profile for it
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// SELinux's context for its mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    #[command(flatten)]
    bundle: BundleArgs,
}

pub(crate) fn checkpoint(global: &Global, args: &CheckpointArgs) -> Result<()> {
    let store = global.store()?;
    let (entry, lock) = store.lock(&args.id)?;
    let status = entry.status()?;
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(Error::new(format!("container cannot be checkpointed in {status} state")));
    }
    let record = entry.record()?;
    let images = &args.images;
    std::fs::create_dir_all(&images.image_path).map_err(|e| Error::io("make", &images.image_path, &e))?;
    let mut command = images.command(if args.pre_dump { "pre-dump" } else { "dump" })?;
    command.arg("--tree").arg(record.init_process_pid.to_string()).arg("--root").arg(&record.rootfs);
    for mount in entry.config()?.container(&entry.context(global)?)?.spec.mounts {
        if matches!(mount.kind, nspod_sandbox::spec::MountKind::Bind { .. }) {
            let place = mount.destination.display();
            command.arg("--external").arg(format!("mnt[{place}]:{place}"));
        }
    }
    if let Some(path) = &args.parent_path {
        command.arg("--prev-images-dir").arg(path).arg("--track-mem");
    }
    if let Some((address, port)) = args.page_server.as_deref().and_then(|server| server.rsplit_once(':')) {
        command.args(["--page-server", "--address", address, "--port", port]);
    }
    if let Some(fd) = args.status_fd {
        command.arg("--status-fd").arg(fd.to_string());
    }
    if args.leave_running {
        command.arg("--leave-running");
    }
    if args.pre_dump {
        command.arg("--track-mem");
    }
    done(&mut command, images)?;
    if args.leave_running || args.pre_dump {
        return Ok(());
    }
    driver::remove(record)?;
    finish(&store, &entry, record, &lock)
}

pub(crate) fn restore(global: &Global, args: &RestoreArgs) -> Result<i32> {
    let images = &args.images;
    let mut command = images.command("restore")?;
    let mut restored = launch::prepare(global, &args.bundle)?;
    let result =
        restore_into(args, &mut command, &mut restored).and_then(|pid| restored.settled().map(|()| pid));
    match result {
        Ok(pid) if args.detach => {
            args.bundle.write_pid(pid)?;
            Ok(0)
        }
        Ok(pid) => {
            args.bundle.write_pid(pid)?;
            ns_core::Pidfd::open(pid)?.poll(None)?;
            driver::remove(&restored.record)?;
            finish(&restored.store, &restored.entry, &restored.record, &restored.lock)?;
            Ok(0)
        }
        Err(e) => {
            driver::remove(&restored.record)?;
            finish(&restored.store, &restored.entry, &restored.record, &restored.lock)?;
            Err(e)
        }
    }
}

fn restore_into(args: &RestoreArgs, command: &mut Command, restored: &mut launch::Claimed) -> Result<i32> {
    let (entry, record) = (&restored.entry, &mut restored.record);
    // criu takes a root that is a mount point.
    let root = entry.dir.make_sub("criu-root")?;
    let flags = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(Some(&record.rootfs), root.path(), None::<&str>, flags, None::<&str>)
        .map_err(|e| Error::path("mount the root at", root.path(), e))?;
    let pid_file = entry.dir.at("criu.pid");
    command.arg("--restore-detached").arg("--pidfile").arg(&pid_file).arg("--root").arg(root.path());
    for mount in &restored.wanted.spec.mounts {
        if let nspod_sandbox::spec::MountKind::Bind { source, .. } = &mount.kind {
            let place = mount.destination.display();
            command.arg("--external").arg(format!("mnt[{place}]:{}", source.display()));
        }
    }
    if let Some(path) = record.cgroup_path() {
        command.arg("--cgroup-root").arg(path);
    }
    if let Some(profile) = &args.lsm_profile {
        command.arg("--lsm-profile").arg(profile);
    }
    if let Some(context) = &args.lsm_mount_context {
        command.arg("--lsm-mount-context").arg(context);
    }
    let restored_by_criu = done(command, &args.images);
    let _ = nix::mount::umount2(root.path(), nix::mount::MntFlags::MNT_DETACH);
    restored_by_criu?;
    let text = std::fs::read_to_string(&pid_file).map_err(|e| Error::io("read", &pid_file, &e))?;
    let pid = text
        .trim()
        .parse()
        .map_err(|_| Error::new(format!("criu noted no pid in {}", pid_file.display())))?;
    let process = Process::of(pid)
        .ok_or_else(|| Error::new(format!("process {pid}, that criu restored, has ended")))?;
    record.set_process(process);
    record.creating = false;
    entry.write(record)?;
    Ok(pid)
}

impl ImageArgs {
    fn command(&self, action: &str) -> Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let criu = std::env::split_paths(&path).map(|dir| dir.join("criu")).find(|file| file.is_file());
        let criu = criu.ok_or_else(|| {
            Error::new("criu is not installed, and checkpoint and restore are its work: install it, or put it in PATH")
        })?;
        let mut command = Command::new(criu);
        command.arg(action).arg("--images-dir").arg(&self.image_path);
        command.arg("--work-dir").arg(self.work()).args(["--log-file", &format!("{action}.log")]);
        for (wanted, flag) in [
            (self.tcp_established, "--tcp-established"),
            (self.ext_unix_sk, "--ext-unix-sk"),
            (self.shell_job, "--shell-job"),
            (self.file_locks, "--file-locks"),
            (self.auto_dedup, "--auto-dedup"),
            (self.lazy_pages, "--lazy-pages"),
        ] {
            if wanted {
                command.arg(flag);
            }
        }
        for kind in &self.empty_ns {
            command.arg("--empty-ns").arg(kind);
        }
        command.arg(format!("--manage-cgroups={}", self.manage_cgroups_mode.as_deref().unwrap_or("soft")));
        Ok(command)
    }

    fn work(&self) -> &Path {
        self.work_path.as_deref().unwrap_or(&self.image_path)
    }
}

fn done(command: &mut Command, images: &ImageArgs) -> Result<()> {
    let status = command.status().map_err(|e| Error::new(format!("cannot run criu: {e}")))?;
    match status.success() {
        true => Ok(()),
        false => {
            Err(Error::new(format!("criu failed: {status}: see its log in {}", images.work().display())))
        }
    }
}
