//! Parses and checks a configuration.

use nspod_sandbox::seccomp::{Action, Profile};
use oci_spec::runtime;
use serde_json::Value;

use super::types::Config;
use super::{hooks, json, linux, mounts, resources};
use crate::Error;

/// Parses and checks a configuration, the text of `config.json`.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md).
///
/// ```
/// use nspod_oci_runtime::config;
/// let config = config::parse(br#"{ "ociVersion": "1.2.0", "hostname": "web" }"#)?;
/// assert_eq!(config.spec().hostname().as_deref(), Some("web"));
/// # Ok::<(), nspod_oci_runtime::Error>(())
/// ```
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), with the JSON path of the field: the text is not
/// a JSON object, a required field is missing, or a field has an invalid value.
pub fn parse(json: &[u8]) -> Result<Config, Error> {
    let mut document = json::document(json)?;
    if let Some(rules) = document.pointer_mut("/linux/seccomp/syscalls") {
        json::fit_seccomp(rules);
    }
    json::check_required(&document, "")?;
    let mut warnings = Vec::new();
    if let Some(process) = document.get_mut("process") {
        json::fit_process(process, &mut warnings)?;
    }
    if let Some(resources) = document.pointer_mut("/linux/resources") {
        json::fit_resources(resources);
    }
    for platform in ["solaris", "windows", "vm", "zos", "freebsd"] {
        let asks = |section: &Value| section.as_object().is_none_or(|fields| !fields.is_empty());
        if document.get(platform).is_some_and(asks) {
            return Err(Error::invalid(platform, "this runtime runs only Linux containers"));
        }
    }
    let seccomp = document.pointer("/linux/seccomp").cloned();
    let seccomp: Option<Profile> =
        seccomp.map(|profile| json::typed(profile, "linux.seccomp")).transpose()?;
    if let Some(profile) = &seccomp {
        check_errno("defaultErrnoRet", profile.default_errno_ret, profile.default_action)?;
        for (index, rule) in profile.syscalls.iter().enumerate() {
            check_errno(&format!("syscalls[{index}].errnoRet"), rule.errno_ret, rule.action)?;
        }
    }
    let spec: runtime::Spec = json::typed(document, "")?;
    check(&spec)?;
    Ok(Config { spec, seccomp, warnings })
}

/// Checks that an errno is set only for an action that has one.
fn check_errno(field: &str, errno: Option<u16>, action: Action) -> Result<(), Error> {
    if errno.is_some_and(|errno| errno != 0) && !matches!(action, Action::Errno | Action::Trace) {
        let problem = "only SCMP_ACT_ERRNO and SCMP_ACT_TRACE have an errno";
        return Err(Error::invalid(&format!("linux.seccomp.{field}"), problem));
    }
    Ok(())
}

/// Checks the rules of the schema that the types do not express.
fn check(spec: &runtime::Spec) -> Result<(), Error> {
    hooks::of_runtime(spec)?;
    hooks::of_container(spec)?;
    let priority = spec.process().as_ref().and_then(|process| process.io_priority().as_ref());
    if priority.is_some_and(|given| i32::try_from(given.priority()).is_err()) {
        return Err(Error::invalid("process.ioPriority.priority", "must fit in 32 bits"));
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    linux::nodes(linux)?;
    linux::intel_rdt(linux)?;
    mounts::root_propagation(linux)?;
    let rules = linux.seccomp().iter().flat_map(|seccomp| seccomp.syscalls()).flatten();
    if let Some(index) = rules.into_iter().position(|rule| rule.names().is_empty()) {
        return Err(Error::invalid(
            &format!("linux.seccomp.syscalls[{index}].names"),
            "must name a system call",
        ));
    }
    if let Some(seccomp) = linux.seccomp() {
        let has = |text: &str| !text.is_empty();
        let path = seccomp.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        if !path && seccomp.listener_metadata().as_deref().is_some_and(has) {
            let problem = "requires listenerPath";
            return Err(Error::invalid("linux.seccomp.listenerMetadata", problem));
        }
    }
    linux.resources().as_ref().map_or(Ok(()), resources::check)
}

/// Parses the process of an `exec`, in the form of `process`. Returns it and a warning for each setting
/// that was ignored.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#process).
///
/// ```
/// use nspod_oci_runtime::config;
/// let json = br#"{ "cwd": "/", "args": ["id"], "user": { "uid": 0, "gid": 0 } }"#;
/// let (process, warnings) = config::parse_process(json)?;
/// assert_eq!((process.args().as_ref().unwrap().len(), warnings.len()), (1, 0));
/// # Ok::<(), nspod_oci_runtime::Error>(())
/// ```
///
/// # Errors
/// As [`parse`].
pub fn parse_process(json: &[u8]) -> Result<(runtime::Process, Vec<String>), Error> {
    let mut warnings = Vec::new();
    let mut document = serde_json::json!({ "process": json::document(json)? });
    json::check_required(&document, "process")?;
    json::fit_process(&mut document["process"], &mut warnings)?;
    Ok((json::typed(document["process"].take(), "process")?, warnings))
}

/// Parses the resources of an `update`, in the form of `linux.resources`.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups).
///
/// ```
/// use nspod_oci_runtime::config;
/// let resources = config::parse_resources(br#"{ "memory": { "limit": 1048576 } }"#)?;
/// let (limits, devices) = config::resources(&resources)?;
/// assert_eq!(limits.writes(), [("memory.max".to_owned(), "1048576".to_owned())]);
/// assert_eq!(devices, None);
/// # Ok::<(), nspod_oci_runtime::Error>(())
/// ```
///
/// # Errors
/// As [`parse`].
pub fn parse_resources(json: &[u8]) -> Result<runtime::LinuxResources, Error> {
    let mut document = serde_json::json!({ "linux": { "resources": json::document(json)? } });
    json::check_required(&document, "linux.resources")?;
    let resources = &mut document["linux"]["resources"];
    json::fit_resources(resources);
    let resources = json::typed(resources.take(), "linux.resources")?;
    resources::check(&resources)?;
    Ok(resources)
}
