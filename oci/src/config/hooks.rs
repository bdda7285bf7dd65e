//! Conversion of `hooks`.

use nspod_sandbox::spec::{self, Hook};
use oci_spec::runtime;

use super::process;
use super::types::Hooks;
use crate::Error;

/// Returns the hooks that run in the runtime's namespaces.
#[allow(deprecated)] // Engines still use prestart.
pub(super) fn of_runtime(spec: &runtime::Spec) -> Result<Hooks, Error> {
    let Some(given) = spec.hooks() else { return Ok(Hooks::default()) };
    Ok(Hooks {
        prestart: hooks("prestart", given.prestart())?,
        create_runtime: hooks("createRuntime", given.create_runtime())?,
        poststart: hooks("poststart", given.poststart())?,
        poststop: hooks("poststop", given.poststop())?,
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
    if !given.path().is_absolute() {
        return Err(Error::invalid(&format!("{path}.path"), "must be an absolute path"));
    }
    let args = given.args().clone().filter(|args| !args.is_empty());
    let args = match args {
        Some(args) => args.into_iter().map(Into::into).collect(),
        None => vec![given.path().clone().into()],
    };
    let timeout = match given.timeout().map(u32::try_from) {
        None => None,
        Some(Ok(seconds)) if seconds > 0 => Some(seconds),
        _ => {
            return Err(Error::invalid(&format!("{path}.timeout"), "must be a number of seconds above 0"));
        }
    };
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
