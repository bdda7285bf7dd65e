//! The networks of [CNI 1.0](https://github.com/containernetworking/cni/blob/spec-v1.0.0/SPEC.md): a list of plugins
//! is executed in order for ADD and CHECK, and in reverse order for DEL. Each plugin reads its configuration as JSON
//! and prints a result or an error as JSON.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nspod_sandbox::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::data::{INTERFACE, Port, STEP, find_program};
use super::files;

/// Directory of the configuration lists, unless the variable `NETCONFPATH` names another, as for CNI's `cnitool`.
const LISTS: &str = "/etc/cni/net.d";
/// Directories of the plugins, unless the variable `CNI_PATH` names others.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A configuration list, with the directories of its plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    cni_version: String,
    name: String,
    #[serde(default)]
    disable_check: bool,
    plugins: Vec<Map<String, Value>>,
    #[serde(default)]
    path: Vec<PathBuf>,
}

/// A container or pod in a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Attachment {
    list: List,
    id: String,
    ports: Vec<Port>,
    /// Result of the last plugin that succeeded with ADD.
    result: Option<Value>,
}

/// The error of a plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PluginError {
    code: u32,
    msg: String,
    details: String,
}

fn failed(kind: ErrorKind, problem: String, object: impl Into<String>) -> Error {
    Error::new(kind, STEP, problem).on(object)
}

impl List {
    /// Returns the names of all networks. A file that cannot be read has none.
    pub(super) fn names() -> Vec<String> {
        let name = |file: &PathBuf| {
            let value: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
            Some(value["name"].as_str()?.to_owned())
        };
        lists(&configuration()).unwrap_or_default().iter().filter_map(name).collect()
    }

    /// Finds a network and its plugins.
    pub(super) fn find(name: &str) -> Result<List, Error> {
        let dir = configuration();
        let path = match std::env::var_os("CNI_PATH") {
            Some(path) => std::env::split_paths(&path).collect(),
            None => PLUGINS.map(PathBuf::from).into(),
        };
        List::find_in(&dir, name, path)
    }

    fn find_in(dir: &Path, name: &str, path: Vec<PathBuf>) -> Result<List, Error> {
        let mut others = Vec::new();
        for file in lists(dir)? {
            let text = std::fs::read(&file).map_err(|e| Error::path(STEP, "read", &file, &e))?;
            // A broken list of another name does no harm.
            let parsed: Result<Value, _> = serde_json::from_slice(&text);
            let named = parsed.as_ref().ok().and_then(|value| value["name"].as_str());
            if named != Some(name) {
                others.extend(named.map(ToOwned::to_owned));
                continue;
            }
            let mut list: List = serde_json::from_slice(&text).map_err(|e| {
                let problem = format!("the CNI configuration {} is invalid: {e}", file.display());
                failed(ErrorKind::InvalidInput, problem, file.display().to_string())
            })?;
            list.path = path;
            list.plugins.iter().try_for_each(|plugin| list.program(plugin).map(drop))?;
            return Ok(list);
        }
        let problem = format!("there is no CNI network {name} in {}", dir.display());
        let error = failed(ErrorKind::NotFound, problem, name);
        Err(match others.is_empty() {
            true => error.and_hint("write a file NAME.conflist with its plugins"),
            false => error.and_hint(format_args!("its networks are {}", others.join(", "))),
        })
    }

    /// Checks that a plugin publishes ports, if there are any.
    pub(super) fn check_ports(&self, ports: &[Port]) -> Result<(), Error> {
        if ports.is_empty() || self.plugins.iter().any(publishes) {
            return Ok(());
        }
        let problem = format!(
            "-p requires a plugin with the capability portMappings, and the CNI network {} has none",
            self.name
        );
        let error = failed(ErrorKind::InvalidInput, problem, &self.name);
        Err(error
            .and_hint(r#"add {"type": "portmap", "capabilities": {"portMappings": true}} to its plugins"#))
    }

    fn program(&self, plugin: &Map<String, Value>) -> Result<PathBuf, Error> {
        let kind = plugin_type(plugin);
        if kind.is_empty() || kind.contains('/') {
            let problem = format!("a plugin of the CNI network {} has the invalid type {kind:?}", self.name);
            return Err(failed(ErrorKind::InvalidInput, problem, &self.name));
        }
        find_program(kind, self.path.iter().cloned()).ok_or_else(|| {
            let dirs: Vec<_> = self.path.iter().map(|dir| dir.display().to_string()).collect();
            let problem = format!("the CNI plugin {kind} is not installed in {}", dirs.join(" or "));
            let error = failed(ErrorKind::Unsupported, problem, kind);
            error.and_hint("install Debian's package containernetworking-plugins, or set CNI_PATH")
        })
    }
}

/// Returns the directory of the configuration.
fn configuration() -> PathBuf {
    std::env::var_os("NETCONFPATH").map_or_else(|| LISTS.into(), PathBuf::from)
}

/// Returns the files of the directory that are configuration lists, sorted.
fn lists(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut all = Vec::new();
    match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::path(STEP, "list", dir, &e)),
        Ok(entries) => {
            for entry in entries {
                all.push(entry.map_err(|e| Error::path(STEP, "list", dir, &e))?.path());
            }
        }
    }
    all.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
    all.sort();
    Ok(all)
}

fn plugin_type(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn publishes(plugin: &Map<String, Value>) -> bool {
    plugin.get("capabilities").is_some_and(|all| all["portMappings"] == true)
}

impl Attachment {
    pub(super) fn new(list: &List, id: &str, ports: &[Port]) -> Attachment {
        Attachment { list: list.clone(), id: id.into(), ports: ports.to_vec(), result: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.list.name
    }

    /// Returns the result of ADD.
    pub(super) fn result(&self) -> Option<&Value> {
        self.result.as_ref()
    }

    /// Adds the net namespace to the network.
    pub(super) fn add(&mut self, net: &Path) -> Result<(), Error> {
        for plugin in self.list.plugins.clone() {
            let output = self.execute("ADD", &plugin, net)?;
            let result = serde_json::from_slice(&output).map_err(|e| {
                let kind = plugin_type(&plugin);
                let problem = format!("the CNI plugin {kind} printed an invalid result: {e}");
                failed(ErrorKind::HelperFailed, problem, kind)
            })?;
            self.result = Some(result);
        }
        Ok(())
    }

    /// Checks that the network is as ADD left it. Does nothing if the list disables it.
    pub(super) fn check(&self, net: &Path) -> Result<(), Error> {
        if self.list.disable_check {
            return Ok(());
        }
        self.list.plugins.iter().try_for_each(|plugin| self.execute("CHECK", plugin, net).map(drop))
    }

    /// Removes the container or pod from the network. Calls each plugin, and returns the first error.
    pub(super) fn delete(&self, net: &Path) -> Result<(), Error> {
        let mut deleted = Ok(());
        for plugin in self.list.plugins.iter().rev() {
            deleted = deleted.and(self.execute("DEL", plugin, net).map(drop));
        }
        deleted
    }

    /// Returns the addresses of the container.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result.as_ref().and_then(|result| result["ips"].as_array());
        let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
        ips.into_iter().flatten().filter_map(address).collect()
    }

    /// Returns the nameservers of the result; `None` if it has none.
    pub(super) fn resolver(&self) -> Option<files::Resolver> {
        let dns = &self.result.as_ref()?["dns"];
        let words = |name: &str| -> Vec<String> {
            let list = dns[name].as_array().into_iter().flatten();
            list.filter_map(|word| Some(word.as_str()?.to_owned())).collect()
        };
        let nameservers = words("nameservers");
        let line = |name: &str, words: Vec<String>| {
            (!words.is_empty()).then(|| format!("{name} {}", words.join(" ")))
        };
        let others = [line("search", words("search")), line("options", words("options"))];
        (!nameservers.is_empty())
            .then(|| files::Resolver { nameservers, others: others.into_iter().flatten().collect() })
    }

    /// Returns the configuration that a plugin reads.
    fn configuration(&self, plugin: &Map<String, Value>) -> Value {
        let mut conf = plugin.clone();
        conf.insert("cniVersion".into(), self.list.cni_version.clone().into());
        conf.insert("name".into(), self.list.name.clone().into());
        if let Some(result) = &self.result {
            conf.insert("prevResult".into(), result.clone());
        }
        // The capabilities say what a plugin wants to know. It gets the values instead.
        conf.remove("capabilities");
        if publishes(plugin) && !self.ports.is_empty() {
            conf.insert("runtimeConfig".into(), json!({ "portMappings": self.mappings() }));
        }
        conf.into()
    }

    fn mappings(&self) -> Vec<Value> {
        let mapping = |port: &Port| {
            let protocol = if port.udp { "udp" } else { "tcp" };
            let mut mapping =
                json!({ "hostPort": port.host, "containerPort": port.container, "protocol": protocol });
            if let Some(address) = port.address {
                mapping["hostIP"] = address.to_string().into();
            }
            mapping
        };
        self.ports.iter().map(mapping).collect()
    }

    /// Executes a plugin, and returns what it printed.
    fn execute(&self, command: &str, plugin: &Map<String, Value>, net: &Path) -> Result<Vec<u8>, Error> {
        let kind = plugin_type(plugin);
        let program = self.list.program(plugin)?;
        let could_not = |what: &str, call, e: &std::io::Error| {
            Error::io(STEP, format!("{what} the CNI plugin {kind}"), call, e)
                .on(program.display().to_string())
        };
        let path = std::env::join_paths(&self.list.path).unwrap_or_default();
        let mut child = Command::new(&program)
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", net)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", path)
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| SEARCH.into()))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| could_not("execute", "execve", &e))?;
        let text = self.configuration(plugin).to_string();
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(text.as_bytes()) {
                // The plugin has failed, and its output says why.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
                written => written.map_err(|e| could_not("write to", "write", &e))?,
            }
        }
        let output = child.wait_with_output().map_err(|e| could_not("wait for", "wait4", &e))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(self.refused(command, kind, &output)),
        }
    }

    fn refused(&self, command: &str, kind: &str, output: &std::process::Output) -> Error {
        let said: PluginError = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let why = match (&*said.msg, &*said.details) {
            ("", _) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let line = stderr.lines().rev().find(|line| !line.trim().is_empty());
                format!("{} ({})", line.unwrap_or("it printed no error"), output.status)
            }
            (msg, "") => format!("{msg} (code {})", said.code),
            (msg, details) => format!("{msg}: {details} (code {})", said.code),
        };
        let problem =
            format!("the CNI plugin {kind} failed with {command} in the network {}: {why}", self.list.name);
        failed(ErrorKind::HelperFailed, problem, kind)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Makes a network with plugins that are scripts.
    fn network(plugins: &[(&str, &str)]) -> (tempfile::TempDir, Result<List, Error>) {
        let dir = tempfile::tempdir().unwrap();
        let list: Vec<Value> = plugins.iter().map(|(kind, _)| json!({ "type": kind, "own": 1 })).collect();
        let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": list });
        std::fs::write(dir.path().join("10-net.conflist"), list.to_string()).unwrap();
        std::fs::write(dir.path().join("00-broken.conflist"), "{").unwrap();
        std::fs::write(dir.path().join("05-other.conflist"), r#"{"name": "other"}"#).unwrap();
        for (kind, script) in plugins.iter().filter(|(_, script)| !script.is_empty()) {
            let path = dir.path().join(kind);
            let log = dir.path().join("log");
            let script = format!(
                "#!/bin/sh\nread conf\necho $CNI_COMMAND {kind} $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME \"$conf\" >> {}\n{script}\n",
                log.display()
            );
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let found = List::find_in(dir.path(), "net", vec![dir.path().into()]);
        (dir, found)
    }

    #[test]
    fn plugins_run_in_order_and_each_gets_the_result_of_the_one_before() {
        let first = r#"[ $CNI_COMMAND = ADD ] && echo '{"ips": [{"address": "10.1.2.3/24"}], "dns": {"nameservers": ["10.1.2.1"]}}'"#;
        let second = r#"[ $CNI_COMMAND = ADD ] && echo '{"ips": [{"address": "10.1.2.3/24"}, {"address": "fd00::3/64"}]}' || true"#;
        let (dir, list) = network(&[("first", &format!("{first} || true")), ("second", second)]);
        let mut attachment = Attachment::new(&list.unwrap(), "web", &[]);
        attachment.add(Path::new("/ns")).unwrap();
        assert_eq!(
            attachment.addresses(),
            ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]
        );
        attachment.check(Path::new("/ns")).unwrap();
        attachment.delete(Path::new("/ns")).unwrap();
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let calls: Vec<String> =
            log.lines().map(|line| line.split(' ').take(5).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            calls,
            [
                "ADD first web /ns eth0",
                "ADD second web /ns eth0",
                "CHECK first web /ns eth0",
                "CHECK second web /ns eth0",
                "DEL second web /ns eth0",
                "DEL first web /ns eth0",
            ]
        );
        let has_previous: Vec<bool> = log.lines().map(|line| line.contains("prevResult")).collect();
        assert_eq!(has_previous, [false, true, true, true, true, true]);
        assert!(log.lines().all(|line| line.contains(r#""own":1"#) && line.contains(r#""name":"net""#)));
    }

    #[test]
    fn an_error_names_the_plugin_its_code_and_its_words() {
        let script = r#"echo '{"code": 11, "msg": "no address", "details": "the range is full"}'; exit 1"#;
        let (_dir, list) = network(&[("first", script)]);
        let error = Attachment::new(&list.unwrap(), "web", &[]).add(Path::new("/ns")).unwrap_err();
        let expected = "the CNI plugin first failed with ADD in the network net: no address: the range is full (code 11)";
        assert_eq!(error.to_string(), expected);
        let (_dir, list) = network(&[("first", "echo out of luck >&2; exit 3")]);
        let error = Attachment::new(&list.unwrap(), "web", &[]).add(Path::new("/ns")).unwrap_err();
        assert!(error.to_string().ends_with("in the network net: out of luck (exit status: 3)"), "{error}");
    }

    #[test]
    fn a_failed_del_does_not_prevent_the_others() {
        let (dir, list) = network(&[("first", "true"), ("second", "exit 1")]);
        Attachment::new(&list.unwrap(), "web", &[]).delete(Path::new("/ns")).unwrap_err();
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(log.contains("DEL second") && log.contains("DEL first"), "{log}");
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let (dir, list) = network(&[("first", "")]);
        let error = list.unwrap_err().to_string();
        let expected = format!(
            "the CNI plugin first is not installed in {}; install Debian's package containernetworking-plugins, or set CNI_PATH",
            dir.path().display()
        );
        assert_eq!(error, expected);
        let error = List::find_in(dir.path(), "nowhere", Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("there is no CNI network nowhere in "), "{error}");
        assert!(error.ends_with("; its networks are other, net"), "{error}");
    }

    #[test]
    fn ports_go_to_the_plugin_that_publishes_them() {
        let (_dir, list) = network(&[("first", "true")]);
        let mut list = list.unwrap();
        let port = Port { address: Some("::1".parse().unwrap()), host: 8080, container: 80, udp: true };
        nspod_testkit::assert_refused(list.check_ports(&[port]), "portMappings");
        list.check_ports(&[]).unwrap();
        list.plugins[0].insert("capabilities".into(), json!({ "portMappings": true }));
        list.check_ports(&[port]).unwrap();
        let conf = Attachment::new(&list, "web", &[port]).configuration(&list.plugins[0]);
        let expected = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "::1" }]);
        assert_eq!(conf["runtimeConfig"]["portMappings"], expected);
        assert_eq!(conf["capabilities"], Value::Null);
    }
}
