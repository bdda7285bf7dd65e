//! [pasta](https://passt.top/): a process that translates between the interface in a net namespace and ordinary
//! sockets of the host. It requires no privilege.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ns_core::ProcessId;
use nspod_sandbox::{Command, Error, ErrorKind, Stdio};

use super::data::{INTERFACE, Port, STEP, Target, find_program};

/// The container's addresses. They differ from the host's, so that the container can reach the host by the host's
/// own addresses.
pub(super) const ADDRESSES: [IpAddr; 2] = [v4(100), v6(0x100)];
const GATEWAYS: [IpAddr; 2] = [v4(2), v6(2)];
/// Addresses at which pasta answers DNS queries with the host's first nameserver.
pub(super) const NAMESERVERS: [IpAddr; 2] = [v4(3), v6(3)];
/// The file in which pasta writes its pid.
const PID: &str = "pasta.pid";
/// Kernel parameter: whether new interfaces probe for other hosts with the same IPv6 address.
///
/// pasta treats the source of each packet as the container's address. The source of a probe is the unspecified address,
/// so pasta of 2023 would send to the unspecified address, and later to the link-local one. No other host is behind the
/// interface, so no probe is necessary.
const PROBES: &str = "net.ipv6.conf.default.accept_dad";
/// Time limit for the end of the killed process.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

const fn v4(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, host))
}

const fn v6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x6e73, 0x706f, 0x64, 0, 0, 0, host))
}

pub(super) fn find() -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_program("pasta", std::env::split_paths(&path).chain(["/usr/bin".into()])).ok_or_else(|| {
        let problem = "the program pasta is not installed: install Debian's package passt";
        Error::new(ErrorKind::Unsupported, STEP, problem).on("pasta")
    })
}

/// Adds the kernel parameters of the net namespace, for the interface that pasta makes.
pub(super) fn set_sysctls(sysctls: &mut BTreeMap<String, String>) {
    // A kernel without IPv6 does not have the file.
    if Path::new("/proc/sys").join(PROBES.replace('.', "/")).exists() {
        sysctls.entry(PROBES.into()).or_insert_with(|| "0".into());
    }
}

/// Starts pasta in the cgroup of the container or in a cgroup of its own in the pod's. Its environment is empty and
/// it has no descriptor of the caller. Returns when the network works and the published ports are bound.
pub(super) fn start(program: &Path, ports: &[Port], target: &Target<'_>) -> Result<ProcessId, Error> {
    let mut command = Command::bare(program);
    command.env_clear().current_dir("/").args(arguments(ports, target));
    command.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Piped).kill_on_drop(false);
    match &target.cgroup {
        Some(cgroup) if target.pod => command.cgroup_parent(cgroup).name("network:pasta"),
        Some(cgroup) => command.cgroup_inside(cgroup),
        None => &mut command,
    };
    let mut process = command.spawn().map_err(|e| e.with_context("pasta"))?;
    let mut said = Vec::new();
    // pasta closes its standard error when it continues in the background.
    if let Some(stderr) = &mut process.stderr {
        stderr
            .read_to_end(&mut said)
            .map_err(|e| Error::io(STEP, "read the messages of pasta", "read", &e))?;
    }
    let status = process.wait()?.status;
    if !status.success() {
        return Err(refused(&String::from_utf8_lossy(&said), &status));
    }
    process.detach();
    noted(target.dir)?.ok_or_else(|| {
        let problem = "pasta ended immediately after its start";
        Error::new(ErrorKind::HelperFailed, STEP, problem).on("pasta")
    })
}

fn refused(said: &str, status: &nspod_sandbox::ExitStatus) -> Error {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| {
            !line.is_empty() && !line.contains("to syslog") && !line.starts_with("Don't run as root")
        })
        .collect();
    let mut problem = format!("pasta failed ({status})");
    if !lines.is_empty() {
        problem = format!("{problem}: {}", lines.join(", "));
    }
    let error = Error::new(ErrorKind::HelperFailed, STEP, problem).on("pasta");
    match said {
        _ if said.contains("xternal interface") => error.and_hint("the host itself has no default route"),
        _ if said.contains("tun socket") => {
            error.and_hint("the caller must be able to open /dev/net/tun for writing")
        }
        _ if said.contains("bind") => {
            error.and_hint("another program uses a published port, or it is below 1024")
        }
        _ => error,
    }
}

fn arguments(ports: &[Port], target: &Target<'_>) -> Vec<String> {
    let mut all: Vec<String> =
        ["--quiet", "--config-net", "--no-map-gw", "--ns-ifname", INTERFACE].map(Into::into).into();
    let mut add = |name: &str, value: String| all.extend([name.to_owned(), value]);
    for at in 0..2 {
        add("--address", ADDRESSES[at].to_string());
        add("--gateway", GATEWAYS[at].to_string());
        add("--dns-forward", NAMESERVERS[at].to_string());
    }
    add("--netmask", "24".into());
    for (flag, udp) in [("--tcp-ports", false), ("--udp-ports", true)] {
        let mut published = ports.iter().filter(|port| port.udp == udp).peekable();
        if published.peek().is_none() {
            add(flag, "none".into());
        }
        for port in published {
            let address = port.address.map_or(String::new(), |address| format!("{address}/"));
            add(flag, format!("{address}{}:{}", port.host, port.container));
        }
    }
    // By default pasta forwards ports of the container's loopback address to the host's.
    add("--tcp-ns", "none".into());
    add("--udp-ns", "none".into());
    add("--pid", target.dir.join(PID).display().to_string());
    add("--netns", target.net.display().to_string());
    match &target.user {
        Some(user) => add("--userns", user.display().to_string()),
        // Otherwise pasta becomes the user nobody, who may not enter the namespace.
        None => add("--runas", "0".into()),
    }
    all
}

/// Returns the process whose pid pasta wrote; `None` if it has ended.
fn noted(dir: &Path) -> Result<Option<ProcessId>, Error> {
    let path = dir.join(PID);
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| Error::path(STEP, "read", &path, &e))?,
    };
    let Ok(pid) = text.trim().parse() else { return Ok(None) };
    Ok(ProcessId::of(pid).ok())
}

/// Ends pasta, and waits for its end.
pub(super) fn end(process: &ProcessId) -> Result<(), Error> {
    let Some(pidfd) = process.open()? else { return Ok(()) };
    match pidfd.send_signal(nix::libc::SIGKILL) {
        Err(e) if e.raw_os_error() != Some(nix::libc::ESRCH) => return Err(e.into()),
        _ => {}
    }
    match pidfd.poll(Some(KILLED_WITHIN))? {
        true => Ok(()),
        false => {
            let problem = format!("pasta (process {}) was killed and has not ended", process.pid);
            Err(Error::new(ErrorKind::TimedOut, STEP, problem).on("pasta"))
        }
    }
}

/// Ends the pasta whose pid is in the directory, if the invocation that started it was killed before it saved the
/// process. Another process may have that pid now.
pub(super) fn end_noted(dir: &Path) -> Result<(), Error> {
    let Some(process) = noted(dir)? else { return Ok(()) };
    let command = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    let file = dir.join(PID);
    let is_ours = command.split(|byte| *byte == 0).any(|arg| arg == file.as_os_str().as_encoded_bytes());
    if is_ours { end(&process) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_published_ports_are_forwarded() {
        let target = Target {
            dir: Path::new("/run/x"),
            net: "/run/x/net".into(),
            user: None,
            cgroup: None,
            pod: false,
        };
        let port = |address: Option<&str>, udp| Port {
            address: address.map(|a| a.parse().unwrap()),
            host: 8080,
            container: 80,
            udp,
        };
        let line = |ports: &[Port]| arguments(ports, &target).join(" ");
        let none = line(&[]);
        for expected in
            ["--tcp-ports none", "--udp-ports none", "--tcp-ns none", "--udp-ns none", "--no-map-gw"]
        {
            assert!(none.contains(expected), "{none}");
        }
        let some = line(&[port(None, false), port(Some("::1"), false), port(Some("127.0.0.1"), true)]);
        let expected =
            "--tcp-ports 8080:80 --tcp-ports ::1/8080:80 --udp-ports 127.0.0.1/8080:80 --tcp-ns none";
        assert!(some.contains(expected), "{some}");
    }

    #[test]
    fn an_error_has_pastas_words_without_its_troubles_with_syslog() {
        let said = "Failed to send 46 bytes to syslog\nNo external routable interface for IPv4\nExternal interface not usable\n";
        let error = refused(said, &nspod_sandbox::ExitStatus::Exited(1)).to_string();
        assert!(error.contains("for IPv4, External") && !error.contains("syslog"), "{error}");
        assert!(error.ends_with("; the host itself has no default route"), "{error}");
    }
}
