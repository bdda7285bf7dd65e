//! `nspod inspect`: prints the state and configuration of containers as JSON.

use clap::Args;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::network;
use crate::output;
use crate::state::{Entry, Store, logs};
use crate::template::Template;

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Print a line for each container from a template, such as `{{.State}} {{.Spec.Hostname}}`. A field is a key
    /// of the JSON; case and underscores do not matter
    #[arg(short, long, value_name = "TEMPLATE", value_parser = Template::parse)]
    format: Option<Template>,
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

pub(crate) fn inspect(args: &InspectArgs) -> Result<()> {
    let store = Store::open()?;
    let all = args.ids.iter().map(|id| describe(&store.find(id)?)).collect::<Result<Vec<_>>>()?;
    let Some(template) = &args.format else { return output::json(&all) };
    for container in &all {
        output::line(template.fill(container).map_err(|problem| Error::usage("--format", problem))?)?;
    }
    Ok(())
}

fn describe(entry: &Entry) -> Result<Value> {
    let status = entry.status()?;
    let namespaces = entry.open().ok().and_then(|container| container.namespaces().ok());
    let namespaces = namespaces.map(|set| {
        set.iter().map(|(kind, id)| (kind.to_string(), Value::from(id.display(kind).to_string()))).collect()
    });
    let record = entry.saved();
    let log = match record {
        Some(saved) => saved.log.clone().or(logs::dir(entry.dir())?),
        None => None,
    };
    let reader = logs::open(entry).ok().flatten();
    let log = log.map(|path| {
        json!({
            "path": path,
            "size": reader.as_ref().and_then(|log| log.size().ok()),
            "lost": reader.as_ref().and_then(|log| log.lost().ok()),
        })
    });
    let network = record
        .filter(|r| r.network)
        .and_then(|_| network::describe(entry.dir().path(), entry.lives().unwrap_or(false)));
    Ok(json!({
        "id": entry.id(),
        "state": entry.state()?,
        "exit_code": status.map(|s| s.shell_code()),
        "status": status,
        "outcome": entry.outcome()?,
        "pid": record.map(|r| r.container.process.pid),
        "created": record.map(|r| r.created),
        "cgroup": record.map(|r| &r.container.cgroup),
        "pod": record.map(|r| &r.pod),
        "log": log,
        "namespaces": namespaces.map(Value::Object),
        "network": network,
        "usage": entry.cgroup().and_then(|c| c.usage().ok()),
        "storage": entry.storage(),
        "spec": record.map(|r| &r.container.spec),
    }))
}
