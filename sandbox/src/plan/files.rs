//! The file system of a container, in the order of its steps: root, mounts, devices, kernel parameters,
//! masks, terminal, and the change of `/`.

use std::path::Path;

use ns_core::Kind;

use crate::error::Error;
use crate::host::Host;
use crate::plan::builder::FileSteps;
use crate::plan::data::Plan;
use crate::plan::file_systems::{mount_step, new_fs};
use crate::plan::id_maps::Ids;
use crate::plan::text::c_string;
use crate::spec::{Root, Spec, Terminal};
use crate::step::{Create, Dest, MountStep, Place, Slot, Step};

/// Adds the steps.
pub(super) fn add(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let spec = plan.spec.clone();
    let new = spec.namespaces.is_new(Kind::Mnt);
    let mounts = new || spec.mounts_stay;
    let mut files = FileSteps::new(plan, &spec, host, ids);
    if new {
        files.plan.push(Step::Propagation(files.propagation));
    }
    if mounts {
        files.root(&spec, host)?;
        files.entries(&spec)?;
    }
    files.sysctls(&spec)?;
    for dest in files.each_once("readonly_paths", &spec.readonly_paths)? {
        files.plan.push(Step::ReadOnly(dest));
    }
    for dest in files.each_once("masked_paths", &spec.masked_paths)? {
        files.plan.push(Step::Mask(dest));
    }
    files.terminal(&spec, mounts)?;
    files.plan.push_ready()?;
    files.push_read_only_mounts();
    if mounts && spec.root != Root::Host {
        files.enter_root(&spec, host)?;
    }
    Ok(())
}

impl FileSteps<'_> {
    /// Adds the entries of the root: mounts, nodes, links and the working directory.
    fn entries(&mut self, spec: &Spec) -> Result<(), Error> {
        for (index, mount) in spec.mounts.iter().enumerate() {
            self.mount(&format!("mounts[{index}]"), mount)?;
        }
        for (index, node) in spec.nodes.iter().enumerate() {
            self.node(&format!("nodes[{index}]"), node)?;
        }
        for (index, link) in spec.links.iter().enumerate() {
            self.link(&format!("links[{index}]"), link)?;
        }
        // A working directory with `..` in its path is not made.
        if spec.process.create_cwd
            && let Some(cwd) = &spec.process.cwd
            && let Ok(dest) = self.held("process.cwd", cwd, Create::Dir)
        {
            self.plan.push(Step::Directory(dest));
        }
        Ok(())
    }

    /// Adds the kernel parameters. If the container has no procfs, a detached one sets them.
    fn sysctls(&mut self, spec: &Spec) -> Result<(), Error> {
        if spec.sysctls.is_empty() {
            return Ok(());
        }
        if self.proc.is_none() {
            let keep = Some(Slot::Proc);
            let proc = MountStep { keep, ..mount_step(new_fs(c"proc", Vec::new()), Place::Detached) };
            self.plan.push(Step::Mount(proc));
        }
        for (name, value) in &spec.sysctls {
            let field = format!("sysctls.{name}");
            let path = c_string(&field, format!("sys/{}", name.replace('.', "/")))?;
            self.plan.push(Step::Sysctl { path, value: c_string(&field, value)? });
        }
        Ok(())
    }

    /// Adds the terminal, and its mount on the container's `/dev/console`.
    fn terminal(&mut self, spec: &Spec, mounts: bool) -> Result<(), Error> {
        let Some(Terminal { rows, columns }) = spec.process.terminal else { return Ok(()) };
        // The program's user must be able to open the terminal by its name, as after a login.
        let owner = spec.process.user.as_ref().map_or(u32::MAX, |user| user.uid);
        self.plan.push(Step::Terminal { rows, columns, owner });
        if mounts && (self.creates || self.dev.is_some()) {
            let console = self.held("process.terminal", Path::new("/dev/console"), Create::File)?;
            self.plan.push(Step::Console(Dest { no_links: true, ..console }));
        }
        Ok(())
    }
}
