//! The program's user and permissions: the last steps before the program.

use std::ffi::CString;

use crate::error::Error;
use crate::host::Host;
use crate::plan::data::Plan;
use crate::plan::handles::Hold;
use crate::plan::id_maps::Ids;
use crate::plan::text::{absolute, c_string};
use crate::plan::{attributes, filter, label, numbers, program, stage};
use crate::quota;
use crate::seccomp;
use crate::spec::{Capabilities, Process, StreamOwner, User};
use crate::step::Step;

const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_SETPCAP: u64 = 1 << 8;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Adds the steps.
///
/// The filter can reject every call after it, so it is loaded last. Only the startContainer hooks
/// come later: their programs belong to the container.
pub(super) fn add(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let process = plan.spec.process.clone();
    let staged = plan.stage.is_some();
    let terminal = process.terminal.is_some();
    // The step uses a descriptor that the next step closes.
    plan.await_limits();
    plan.push(Step::Descriptors);
    if terminal && !plan.enters() {
        plan.push(Step::ControllingTerminal);
    }
    streams(plan, &process);
    attributes::add(plan, &process)?;
    let mut label = label::label(host, &process)?;
    if let (Some(_), true) = (&label, staged) {
        plan.push(Step::Proc { to: plan.highest_fd() + numbers::PROC, enters: plan.enters() });
    }
    if !staged {
        plan.steps.extend(label.take());
    }
    let cwd = cwd(&process)?;
    let changes_user = process.user.is_some();
    // The caller can enter directories that the user may not enter, so the first attempt is made as
    // the caller.
    plan.steps.extend(cwd.clone().map(|path| Step::Chdir { path, again: changes_user }));
    check_projects(plan, &process, ids)?;
    let mut filter = filter::filter(plan, &process, host)?;
    // Without no_new_privs seccomp(2) requires CAP_SYS_ADMIN, so the process keeps it until then.
    let able = host.privileged() || ids.foreign;
    let keeps = filter.is_some() && !process.no_new_privs && process.capabilities.is_some() && able;
    // Only the stage can pass a listener to the parent.
    let early =
        filter.is_some() && !process.no_new_privs && !keeps && !filter.as_ref().is_some_and(filter::asks);
    // If the filter rejects exit_group(2), a failed child ends with a trap. Before Linux 5.17 the
    // trap ended every process that shares the memory.
    if let Some(Step::Seccomp { filter, .. }) = &filter
        && (early || !staged)
        && !seccomp::allows(filter, libc::SYS_exit_group, [0; 3])
    {
        plan.shared_memory = false;
    }
    if early {
        plan.steps.extend(filter.take());
    }
    credentials(plan, host, ids, keeps)?;
    if let Some(path) = cwd.filter(|_| changes_user) {
        plan.push(Step::ChdirAsUser(path));
    }
    if process.no_new_privs {
        plan.push(Step::NoNewPrivs);
    }
    if staged {
        stage::add(plan, host, label, &mut filter, keeps);
    }
    plan.push(Step::Signals);
    if matches!(plan.held, Some(Hold::At(_))) {
        plan.push(Step::Started);
    }
    plan.steps.extend(filter);
    plan.push_hooks("startContainer", &plan.spec.hooks.start_container.clone())?;
    let exec = program::program(plan)?;
    plan.push(exec);
    Ok(())
}

/// Checks that the program cannot exceed or remove the limits of directories.
fn check_projects(plan: &Plan, process: &Process, ids: &Ids) -> Result<(), Error> {
    let field = match quota::limited(&plan.spec).into_iter().next() {
        Some(limited) => limited.field,
        // The limits are those of a container that the process joins.
        None if process.keep_projects => "process.capabilities".into(),
        None => return Ok(()),
    };
    // A user namespace has no capability that counts for quotas.
    let all = |c: Capabilities| c.bounding | c.permitted | c.effective | c.inheritable | c.ambient;
    if ids.foreign || process.capabilities.is_some_and(|c| all(c) & (CAP_SYS_ADMIN | CAP_SYS_RESOURCE) == 0) {
        return Ok(());
    }
    let problem = "with CAP_SYS_RESOURCE or CAP_SYS_ADMIN in the host's user namespace, the program could exceed \
                   or remove the limit of a directory: drop them, or make a new user namespace";
    Err(Error::invalid(field, problem))
}

/// Adds the step that makes the user own the standard streams.
fn streams(plan: &mut Plan, process: &Process) {
    let Some(User { uid, .. }) = process.user else { return };
    let opens_all = uid == 0 && process.capabilities.is_none_or(|c| c.effective & CAP_DAC_OVERRIDE != 0);
    let all = match process.streams {
        StreamOwner::Caller => return,
        StreamOwner::Needed if opens_all => return,
        StreamOwner::Needed => false,
        StreamOwner::User => true,
    };
    plan.push(Step::GiveStreams { uid, all });
}

/// Returns the working directory.
fn cwd(process: &Process) -> Result<Option<CString>, Error> {
    let Some(cwd) = &process.cwd else { return Ok(None) };
    c_string("process.cwd", absolute("process.cwd", cwd)?).map(Some)
}

/// Adds the steps that set ids and capabilities. With `keeps`, the process keeps CAP_SYS_ADMIN for
/// the filter, and loses it when it executes the program.
fn credentials(plan: &mut Plan, host: &Host, ids: &Ids, keeps: bool) -> Result<(), Error> {
    let capabilities = plan.spec.process.capabilities;
    let staged = plan.stage.is_some();
    if let Some(sets) = capabilities {
        // This process still has the caller's memory. When it has only the capabilities of a
        // container, a process of another container that sees it could trace it. In a user namespace
        // that an unprivileged caller made, the caller itself could not inspect an undumpable process.
        let seen = (!ids.new || host.privileged()) && !plan.enters();
        if seen && !plan.steps.iter().any(|s| matches!(s, Step::Undumpable)) {
            plan.push(Step::Undumpable);
        }
        if sets.effective & !sets.permitted != 0 {
            return Err(Error::invalid(
                "process.capabilities.effective",
                "a capability is not in the permitted set",
            ));
        }
        if sets.ambient & !(sets.permitted & sets.inheritable) != 0 {
            return Err(Error::invalid(
                "process.capabilities.ambient",
                "a capability is not in the permitted and the inheritable set",
            ));
        }
        if !(keeps && staged) {
            plan.push(Step::DropBounding(!sets.bounding));
        }
    }
    user(plan, ids)?;
    if let Some(sets) = capabilities {
        // Only ambient capabilities survive the execve(2) of the stage. An ambient capability must
        // be inheritable, and a capability can become inheritable only while it is in the bounding
        // set.
        let across = if keeps && staged { CAP_SYS_ADMIN } else { 0 };
        let kept = if keeps { CAP_SYS_ADMIN } else { 0 } | if across == 0 { 0 } else { CAP_SETPCAP };
        plan.push(Step::Capabilities {
            effective: sets.effective | kept,
            permitted: sets.permitted | kept,
            inheritable: sets.inheritable | across,
        });
        if sets.ambient | across != 0 {
            plan.push(Step::Ambient(sets.ambient | across));
        }
        if across != 0 {
            plan.push(Step::DropBounding(!sets.bounding));
        }
    }
    Ok(())
}

/// Adds the steps that set user and groups.
fn user(plan: &mut Plan, ids: &Ids) -> Result<(), Error> {
    let Some(user) = plan.spec.process.user.clone() else { return Ok(()) };
    let invalid = |field: &str| Err(Error::invalid(field, "4294967295 is not a valid id"));
    for (field, id) in [("process.user.uid", user.uid), ("process.user.gid", user.gid)] {
        if id == u32::MAX {
            return invalid(field);
        }
    }
    if let Some(index) = user.groups.iter().position(|id| *id == u32::MAX) {
        return invalid(&format!("process.user.groups[{index}]"));
    }
    if !ids.setgroups && !user.groups.is_empty() {
        return Err(Error::invalid(
            "process.user.groups",
            "setgroups(2) is denied with a single gid: leave the groups out, or map a range",
        ));
    }
    if plan.spec.process.capabilities.is_some() && user.uid != 0 {
        plan.push(Step::KeepCapabilities);
    }
    // A process that became root of its user namespace has already left the caller's groups, unless
    // setgroups(2) is denied.
    let left = plan.steps.iter().any(|step| matches!(step, Step::Become { leave_groups: true, .. }));
    let groups = (ids.setgroups && !(left && user.groups.is_empty())).then_some(user.groups);
    plan.push(Step::Credentials { uid: user.uid, gid: user.gid, groups });
    Ok(())
}
