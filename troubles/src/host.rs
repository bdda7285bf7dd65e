//! Changes of the host for a measurement, which are undone at the end.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cgroup_core::{Cgroup, Controller, Controllers, Hierarchy, Limits, net};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use tempfile::TempDir;

use crate::hog::clock_offset;
use crate::rows::{Row, Setup};

/// The cgroup above those of all containers and pods of root.
const BASE: &str = "nspod";

/// What one row needs. Dropping it undoes the changes.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    data: Option<TempDir>,
    swap: Option<PathBuf>,
    small_disk: bool,
    /// Parameters of the kernel with their usual values.
    parameters: Vec<(PathBuf, String)>,
}

impl Prepared {
    pub(crate) fn new(setup: Setup) -> Result<Prepared> {
        let mut this = Prepared::default();
        match setup {
            Setup::Nothing => {}
            Setup::Data => this.data = Some(directory()?),
            Setup::Swap(mib) => {
                let data = this.data.insert(directory()?);
                let file = data.path().join("swap");
                // Swap has no holes.
                fs::write(&file, vec![0; (mib << 20) as usize])?;
                run(Command::new("chmod").arg("600").arg(&file))?;
                run(Command::new("mkswap").arg("-q").arg(&file))?;
                run(Command::new("swapon").arg(&file))?;
                this.swap = Some(file);
            }
            Setup::SmallDisk => this.mount_small_disk()?,
            Setup::Parameter(name, value) => this.set(name, value)?,
            Setup::OpenFiles(more) => {
                let open = fs::read_to_string("/proc/sys/fs/file-nr")?;
                let open: u64 = open.split_whitespace().next().context("file-nr is empty")?.parse()?;
                this.set("fs/file-max", &(open + more).to_string())?;
            }
        }
        Ok(this)
    }

    /// Sets a parameter of the kernel.
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        let usual = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))?;
        self.parameters.push((path, usual));
        Ok(())
    }

    fn mount_small_disk(&mut self) -> Result<()> {
        let data = self.data.insert(directory()?).path();
        let (image, disk) = (data.join("image"), data.join("disk"));
        File::create(&image)?.set_len(24 << 20)?;
        let options = ["-q", "-m", "0", "-N", "256", "-O", "quota,project", "-E", "quotatype=prjquota"];
        run(Command::new("mkfs.ext4").args(options).arg(&image))?;
        fs::create_dir(&disk)?;
        run(Command::new("mount").args(["-o", "loop,prjquota"]).args([&image, &disk]))?;
        self.small_disk = true;
        for name in ["victim", "hog"] {
            fs::create_dir(disk.join(name))?;
        }
        Ok(())
    }

    /// Returns the flags of the victim or the hog, with an option of its directory.
    pub(crate) fn flags(&self, name: &str, option: &str) -> Vec<String> {
        match &self.data {
            Some(data) if self.small_disk => {
                let directory = data.path().join("disk").join(name);
                vec!["-v".to_owned(), format!("{}:{}{option}", directory.display(), crate::hog::DATA)]
            }
            Some(data) if self.swap.is_none() => {
                vec!["-v".to_owned(), format!("{}:{}", data.path().display(), crate::hog::DATA)]
            }
            _ => Vec::new(),
        }
    }

    /// Returns the hog's directory on the small disk.
    pub(crate) fn logs(&self) -> String {
        let directory =
            self.data.as_ref().filter(|_| self.small_disk).map(|data| data.path().join("disk/hog"));
        directory.map_or(String::new(), |directory| directory.display().to_string())
    }

    /// Returns the number of the disk, as `MAJOR:MINOR`.
    pub(crate) fn disk(&self) -> Result<String> {
        let Some(data) = &self.data else { return Ok(String::new()) };
        let dev = data.path().metadata()?.dev();
        Ok(format!("{}:{}", nix::sys::stat::major(dev), nix::sys::stat::minor(dev)))
    }
}

/// Returns an empty directory on a disk that containers see.
fn directory() -> Result<TempDir> {
    let places = std::env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_dir());
    Ok(tempfile::Builder::new()
        .prefix("nspod-troubles-")
        .tempdir_in(places.unwrap_or_else(|| "/var/tmp".into()))?)
}

/// Runs a command to its end, without standard input. Its standard error is in the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for (path, value) in &self.parameters {
            let _ = fs::write(path, value);
        }
        if let Some(data) = self.data.as_ref().filter(|_| self.small_disk) {
            let _ = run(Command::new("umount").arg(data.path().join("disk")));
        }
        if let Some(file) = &self.swap {
            let _ = run(Command::new("swapoff").arg(file));
        }
    }
}

/// Limits of the cgroup above all containers. Dropping it removes them.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    base: Option<Cgroup>,
    /// The files that were written, with the values that limit nothing.
    files: Vec<(&'static str, String)>,
}

impl Machine {
    /// Sets the limits of the row.
    pub(crate) fn of(row: &Row, disk: &str) -> Result<Machine> {
        let mut this = Machine::default();
        if row.machine.is_empty() {
            return Ok(this);
        }
        let base = this.base.insert(Hierarchy::detect()?.root()?.child(BASE)?);
        let controllers =
            row.machine.iter().filter_map(|(file, _)| file.split('.').next()?.parse::<Controller>().ok());
        base.enable_path(controllers.collect::<Controllers>())?;
        for (file, value) in row.machine {
            if let Some(net) = network(file, value)? {
                base.apply(&Limits { net: Some(net), ..Limits::default() })?;
                continue;
            }
            let value = value.replace("{disk}", disk);
            base.write(file, &value)?;
            let free = match value.split_once(' ') {
                Some((disk, _)) => format!("{disk} rbps=max wbps=max riops=max wiops=max"),
                None => "max".to_owned(),
            };
            this.files.push((file, free));
        }
        Ok(this)
    }
}

/// Returns the network limit with this name.
fn network(name: &str, value: &str) -> Result<Option<net::Limits>> {
    let rate = || Ok::<_, anyhow::Error>(Some(value.parse()?));
    Ok(match name {
        "net.egress.max" => Some(net::Limits { egress_max: rate()?, ..net::Limits::default() }),
        "net.ingress.max" => Some(net::Limits { ingress_max: rate()?, ..net::Limits::default() }),
        _ => None,
    })
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(base) = &self.base else { return };
        // The cgroup is removed with its last container.
        let _ = base.apply(&Limits { net: Some(net::Limits::default()), ..Limits::default() });
        for (file, value) in &self.files {
            let _ = base.write(file, value);
        }
    }
}

/// The clock of the machine. Dropping it puts a clock right that was set meanwhile.
#[derive(Debug)]
pub(crate) struct Clock(i64);

impl Clock {
    pub(crate) fn now() -> Result<Clock> {
        Ok(Clock(clock_offset()?))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let Ok(now) = clock_offset() else { return };
        if (now - self.0).abs() > 100
            && let Ok(time) = clock_gettime(ClockId::CLOCK_REALTIME)
        {
            let _ = clock_settime(ClockId::CLOCK_REALTIME, time + TimeSpec::new(self.0 - now, 0));
        }
    }
}

/// Returns why this host cannot run the row, if so.
pub fn why_not(row: &Row) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root is needed".to_owned());
    }
    if row.host {
        return None;
    }
    // The cgroups and parameters of other machines are left alone.
    if std::env::var_os("NSPOD_LANE").is_none_or(|lane| lane != "guest") {
        return Some("it changes limits of the machine, so it runs only in the guest".to_owned());
    }
    let wanted =
        Controllers::MEMORY | Controllers::PIDS | Controllers::CPU | Controllers::CPUSET | Controllers::IO;
    let host = match Hierarchy::detect() {
        Ok(host) => host,
        Err(error) => return Some(error.to_string()),
    };
    let missing = (wanted - host.controllers()).members().next()?;
    Some(
        host.why_missing(missing)
            .map_or_else(|| format!("no {missing} controller"), |reason| reason.to_string()),
    )
}
