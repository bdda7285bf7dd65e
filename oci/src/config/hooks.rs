//! Conversion of `hooks`.

use nspod_sandbox::spec::{self, Hook};
use oci_spec::runtime;

use super::process;
use super::types::Hooks;
use crate::Error;

/// Returns the hooks that run in the runtime's namespaces. No plan contains them, so this function checks
/// them.
#[allow(deprecated)] // Engines still use prestart.
pub(super) fn of_runtime(spec: &runtime::Spec) -> Result<Hooks, Error> {
    let Some(given) = spec.hooks() else { return Ok(Hooks::default()) };
    let checked = |name: &str, given| -> Result<Vec<Hook>, Error> {
        let hooks = hooks(name, given)?;
        for (index, hook) in hooks.iter().enumerate() {
            hook.validate(&format!("hooks.{name}[{index}]"))?;
        }
        Ok(hooks)
    };
    Ok(Hooks {
        prestart: checked("prestart", given.prestart())?,
        create_runtime: checked("createRuntime", given.create_runtime())?,
        poststart: checked("poststart", given.poststart())?,
        poststop: checked("poststop", given.poststop())?,
    })
}

/// Returns the hooks that run in the container.
pub(super) fn of_container(spec: &runtime::Spec) -> Result<spec::Hooks, Error> {
    let Some(given) = spec.hooks() else { return Ok(spec::Hooks::default()) };
    Ok(spec::Hooks {
        create_container: hooks("createContainer", given.create_container())?,
        start_container: hooks("startContainer", given.start_container())?,
    })
}

fn hooks(name: &str, given: &Option<Vec<runtime::Hook>>) -> Result<Vec<Hook>, Error> {
    let given = given.iter().flatten().enumerate();
    given.map(|(index, given)| hook(&format!("hooks.{name}[{index}]"), given)).collect()
}

fn hook(path: &str, given: &runtime::Hook) -> Result<Hook, Error> {
    let args = given.args().clone().filter(|args| !args.is_empty());
    let args = match args {
        Some(args) => args.into_iter().map(Into::into).collect(),
        None => vec![given.path().clone().into()],
    };
    let timeout = given.timeout().map(u32::try_from).transpose();
    let timeout = timeout
        .map_err(|_| Error::invalid(&format!("{path}.timeout"), "must be a number of seconds above 0"))?;
    Ok(Hook {
        path: given.path().clone(),
        args,
        env: match given.env() {
            Some(_) => Some(process::env(&format!("{path}.env"), given.env())?),
            None => None,
        },
        timeout,
    })
}
