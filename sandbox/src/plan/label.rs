//! The program's label of a security module (AppArmor or SELinux).

use crate::error::Error;
use crate::host::Host;
use crate::plan::text::c_string;
use crate::spec::Process;
use crate::step::{Lsm, Step};

/// Returns the step that sets the label, if the spec has one.
pub(super) fn label(host: &Host, process: &Process) -> Result<Option<Step>, Error> {
    let asked = [
        (Lsm::AppArmor, "AppArmor", "process.apparmor_profile", &process.apparmor_profile, host.apparmor),
        (Lsm::Selinux, "SELinux", "process.selinux_label", &process.selinux_label, host.selinux),
    ];
    let mut step = None;
    for (lsm, name, field, label, in_force) in asked {
        let Some(label) = label.as_ref().filter(|label| !label.is_empty()) else { continue };
        if !in_force {
            // Without AppArmor every process is unconfined.
            if lsm == Lsm::AppArmor && label == "unconfined" {
                continue;
            }
            let problem = format!(
                "{label:?} cannot be set because {name} is not enabled in this kernel (see /sys/kernel/security/lsm): \
                 leave it out"
            );
            return Err(Error::invalid(field, problem));
        }
        let text = match lsm {
            Lsm::AppArmor => format!("exec {label}"),
            Lsm::Selinux => label.clone(),
        };
        if step.is_some() {
            return Err(Error::invalid(field, "a process has only one label, of one security module"));
        }
        step = Some(Step::Label { lsm, text: c_string(field, text)? });
    }
    Ok(step)
}
