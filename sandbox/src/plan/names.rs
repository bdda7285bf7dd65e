//! Host names and kernel parameters, and the namespaces that they belong to.

use ns_core::Kind;

use crate::error::Error;
use crate::plan::data::Plan;
use crate::plan::namespaces::joined;
use crate::plan::text::c_string;
use crate::spec::{NamespaceMode, Spec};
use crate::step::Step;

/// Adds the steps that set the host name and the domain name, and that bring up `lo`.
pub(super) fn add(plan: &mut Plan, spec: &Spec) -> Result<(), Error> {
    check_not_callers(plan, spec)?;
    if let Some(name) = &spec.hostname {
        plan.push(Step::Hostname(c_string("hostname", name)?));
    }
    if let Some(name) = &spec.domainname {
        plan.push(Step::Domainname(c_string("domainname", name)?));
    }
    if spec.loopback && spec.namespaces.is_new(Kind::Net) {
        plan.push(Step::Loopback);
    }
    Ok(())
}

/// Checks that no name or parameter is set in the caller's own namespace. A joined namespace can be
/// the caller's.
fn check_not_callers(plan: &Plan, spec: &Spec) -> Result<(), Error> {
    let names = [("hostname", &spec.hostname), ("domainname", &spec.domainname)];
    let names = names.into_iter().filter(|(_, name)| name.is_some());
    let mut set: Vec<_> = names.map(|(field, _)| (field.to_owned(), Kind::Uts)).collect();
    for (name, value) in &spec.sysctls {
        set.push((format!("sysctls.{name}"), check_sysctl(name, value, spec)?));
    }
    for (field, kind) in set {
        let Some(namespace) = joined(plan, kind)? else { continue };
        let own = ns_core::Namespace::current(kind)?.id();
        if ns_core::Namespace::from_owned_fd(namespace)?.id() == own {
            let problem =
                format!("the joined {kind} namespace is the caller's own: the host would be changed");
            return Err(Error::invalid(&field, problem));
        }
    }
    Ok(())
}

/// Checks a kernel parameter, and returns the kind of namespace that it belongs to (namespaces(7),
/// user_namespaces(7)).
///
/// # Errors
/// - The parameter belongs to no kind of namespace.
/// - The namespace is the caller's, so the host would change.
/// - The parameter is a name that has its own field. runc and crun require the field too.
pub(super) fn check_sysctl(name: &str, value: &str, spec: &Spec) -> Result<Kind, Error> {
    let path = name.replace('.', "/");
    let invalid = |problem: String| Error::invalid(format!("sysctls.{name}"), problem);
    let kind = match path.split('/').collect::<Vec<_>>().as_slice() {
        parts if parts.iter().any(|part| part.is_empty() || *part == "..") => {
            return Err(invalid("this is not the name of a kernel parameter".into()));
        }
        ["net", ..] => Kind::Net,
        ["fs", "mqueue", ..] => Kind::Ipc,
        ["kernel", part] if part.starts_with("msg") || part.starts_with("shm") => Kind::Ipc,
        ["kernel", "sem" | "sem_next_id" | "auto_msgmni"] => Kind::Ipc,
        ["kernel", "hostname" | "domainname"] => Kind::Uts,
        ["user", _] => Kind::User,
        _ => return Err(invalid("it belongs to no namespace, and setting it would change the host".into())),
    };
    if *spec.namespaces.get(kind) == NamespaceMode::Host {
        let kind = kind.name();
        let problem = format!("this requires a new or joined {kind} namespace, or the host would be changed");
        return Err(invalid(problem));
    }
    let conflict = match path.as_str() {
        "kernel/hostname" => "hostname",
        // Engines set the parameter because the field is newer; equal values do not conflict.
        "kernel/domainname" if spec.domainname.as_deref().is_some_and(|name| name != value) => "domainname",
        _ => return Ok(kind),
    };
    Err(invalid(format!("set the {conflict} instead of this parameter")))
}
