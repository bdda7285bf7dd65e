//! Checks the cgroup hierarchy, its controllers, and a container's cgroup.

use std::path::Path;

use cgroup_core::delegate::{self, Move};
use cgroup_core::{Cgroup, Controller, Hierarchy, Layout, parse};
use nspod_sandbox::spec::Spec;
use nspod_sandbox::{Command, Container, ErrorKind, Stdio};

use super::report::{Group, Mark};
use super::trial;
use crate::error::{Error, Result};

pub(super) fn check() -> Group {
    let mut group = Group::new("cgroups");
    let host = match Hierarchy::detect() {
        Ok(host) => host,
        Err(e) => {
            group.add("layout", Mark::Missing, e.to_string());
            return group;
        }
    };
    layout(&mut group, &host);
    for controller in Controller::ALL {
        match host.why_missing(controller) {
            None => group.ok(controller.name(), ""),
            Some(why) => group.add(controller.name(), Mark::Missing, why.to_string()),
        }
    }
    options(&mut group, &host);
    pressure(&mut group);
    match held() {
        Ok(container) => within(&mut group, &host, &container),
        Err(why) => group.add("delegation", Mark::Limited, why.to_string()),
    }
    group
}

fn layout(group: &mut Group, host: &Hierarchy) {
    let at = host.mount_point().map_or(String::new(), |point| format!(", cgroup2 at {}", point.display()));
    let text = format!("{}{at}", host.layout());
    match host.layout() {
        Layout::Unified => group.ok("layout", text),
        Layout::Hybrid => group.add(
            "layout",
            Mark::Limited,
            format!(
                "{text}: controllers of v1 hierarchies are unavailable; start the kernel with cgroup_no_v1=all \
                 or systemd.unified_cgroup_hierarchy=1"
            ),
        ),
        Layout::Legacy => group.add(
            "layout",
            Mark::Missing,
            format!("{text}: there are only v1 hierarchies; start the kernel with systemd.unified_cgroup_hierarchy=1"),
        ),
        Layout::None => group.add(
            "layout",
            Mark::Missing,
            format!("{text}: no cgroup file system is mounted; mount -t cgroup2 none /sys/fs/cgroup"),
        ),
    }
}

fn options(group: &mut Group, host: &Hierarchy) {
    let Some(point) = host.mount_point() else { return };
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = parse::mountinfo(&String::from_utf8_lossy(&text));
    let Some(mount) = mounts.iter().rfind(|mount| mount.v2 && mount.point == point) else { return };
    for (option, loss) in [
        (
            "nsdelegate",
            "a container with a cgroup namespace can change its own limits if it can write the files",
        ),
        ("memory_recursiveprot", "a pod's memory.min and memory.low do not reach its containers"),
    ] {
        match mount.options.iter().any(|have| have == option) {
            true => group.ok(option, ""),
            false => group.add(
                option,
                Mark::Limited,
                format!(
                    "the hierarchy is mounted without it: {loss}; as root: mount -o remount,{option} {}",
                    point.display()
                ),
            ),
        }
    }
}

fn pressure(group: &mut Group) {
    let path = Path::new("/proc/pressure/cpu");
    let why = match std::fs::read(path) {
        Ok(_) => return group.ok("pressure (PSI)", ""),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => "use a kernel built with CONFIG_PSI",
        Err(_) => "start the kernel with psi=1",
    };
    group.add("pressure (PSI)", Mark::Limited, format!("stalls are not measured; {why}"));
}

/// Creates a held container with its own cgroup.
fn held() -> Result<Container> {
    let mut spec = Spec::bare("/proc/self/exe");
    spec.process.args = trial::nothing();
    let mut command = Command::from_spec(spec);
    command.die_with_parent(false);
    let container = command.hold().stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null).spawn()?;
    if container.cgroup().is_some() {
        return Ok(container);
    }
    container.delete()?;
    match delegate::find("nspod", Move::Nothing) {
        Err(e) => Err(e.into()),
        Ok(found) => {
            let path = found.base.path().display().to_string();
            let _ = found.base.remove();
            let why = format!("cannot create a cgroup in {path}");
            Err(Error::new(ErrorKind::PermissionDenied, "cgroup", why).on(path))
        }
    }
}

/// Checks what works with a container's cgroup.
fn within(group: &mut Group, host: &Hierarchy, container: &Container) {
    let Some(cgroup) = container.cgroup() else { return };
    let parent = cgroup.path().parent().unwrap_or(Path::new("/"));
    group.ok("delegation", format!("containers get their cgroups in {}", parent.display()));
    let inside = cgroup.procs().is_ok_and(|procs| procs.contains(&container.pid()));
    match inside {
        true => group.ok("clone into cgroup", ""),
        false => group.add("clone into cgroup", Mark::Missing, "a container was not started in its cgroup"),
    }
    for controller in host.controllers().members() {
        let reaches = cgroup.available().is_ok_and(|there| there.contains(controller.into()));
        if !reaches && matches!(controller, Controller::Cpu | Controller::Memory | Controller::Pids) {
            let at = parent.display();
            let why = format!(
                "the host has it, but it is not enabled for {at}; move the processes out of the cgroups above, and \
                 write +{controller} to their cgroup.subtree_control"
            );
            group.add(format!("{controller} in containers"), Mark::Limited, why);
        }
    }
    group.tried("cgroup.freeze", Mark::Missing, cgroup.freeze().and_then(|()| cgroup.thaw()));
    group.tried("device filter", Mark::Limited, cgroup.attach_devices(&[]));
    if cgroup.available().is_ok_and(|there| there.contains(Controller::Memory.into())) {
        file(group, cgroup, "memory.peak", "use Linux 5.19 or later; peak memory is not known");
        file(
            group,
            cgroup,
            "memory.swap.max",
            "swap is not limited; use a kernel with CONFIG_SWAP, without swapaccount=0",
        );
    }
    // The last check, because it ends the container.
    match cgroup.path().join("cgroup.kill").exists() {
        true => group.tried("cgroup.kill", Mark::Limited, cgroup.kill()),
        false => group.add(
            "cgroup.kill",
            Mark::Limited,
            "the processes of a container are killed one by one; use Linux 5.14 or later",
        ),
    }
}

fn file(group: &mut Group, cgroup: &Cgroup, name: &str, cure: &str) {
    match cgroup.read_if_there(name) {
        Ok(Some(_)) => group.ok(name, ""),
        Ok(None) => group.add(name, Mark::Limited, format!("there is no such file; {cure}")),
        Err(e) => group.add(name, Mark::Limited, e.to_string()),
    }
}
