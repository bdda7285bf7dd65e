//! Process flags: environment, user, capabilities and limits.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use nspod_sandbox::passwd;
use nspod_sandbox::seccomp::Profile;
use nspod_sandbox::spec::{Capabilities, Process, Rlimit, Seccomp, Spec, User};
use nspod_sandbox::store::{random_name, read_bounded};

use super::Facts;
use crate::error::{Error, Result};
use crate::value;

// Flags of both `run` and `exec`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Process")]
pub(crate) struct CommonArgs {
    /// Connect standard input; without this flag the process reads from /dev/null
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Set an environment variable; without a value, copy it from the caller
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Pass all environment variables of the caller. --env-file, --env and the HOME of --user replace them
    #[arg(long, visible_alias = "env-host")]
    keep_env: bool,
    /// Read environment variables from a file with one NAME[=VALUE] per line, without quotes and `export`.
    /// Lines that begin with # are comments
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User to run as: a number, or a name in the container's /etc/passwd
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Additional group: a number, or a name in the container's /etc/group
    #[arg(long, value_name = "GID")]
    group_add: Vec<String>,
    /// Grant all capabilities, without a seccomp filter and without masked paths
    #[arg(long)]
    pub(crate) privileged: bool,
}

impl CommonArgs {
    /// Applies the flags to a spec. `roots` are the directories that contain the container's files.
    pub(crate) fn apply(&self, spec: &mut Spec, facts: &Facts, roots: &[PathBuf]) -> Result<()> {
        let process = &mut spec.process;
        if self.keep_env {
            std::env::vars_os().for_each(|(name, value)| set(&mut process.env, name, value));
        }
        if self.tty {
            set(&mut process.env, "TERM".into(), facts.term.clone().unwrap_or_else(|| "xterm".into()));
        }
        match &self.user {
            Some(text) => {
                let found = passwd::find(text, roots)?;
                process.user = Some(found.user);
                set(&mut process.env, "HOME".into(), found.home.unwrap_or_else(|| "/".into()).into());
            }
            None if process.user.as_ref().is_some_and(|user| user.uid == 0) && !self.keeps_home() => {
                set(&mut process.env, "HOME".into(), "/root".into());
            }
            None => {}
        }
        for group in &self.group_add {
            let gid = passwd::gid(group, roots)?;
            process.user.get_or_insert_with(User::default).groups.push(gid);
        }
        for file in &self.env_file {
            variables(file, &mut process.env)?;
        }
        for text in &self.env {
            variable(&mut process.env, text).map_err(|why| Error::usage("--env", why).on(text.display()))?;
        }
        if process.env.iter().any(|(name, home)| name == "HOME" && home.is_empty()) {
            passwd::set_home(process, roots)?;
        }
        if let Some(dir) = &self.workdir {
            process.cwd = Some(dir.clone());
        }
        if self.privileged {
            process.capabilities = None;
            process.no_new_privs = false;
            process.seccomp = Seccomp::Unconfined;
        }
        Ok(())
    }

    /// Returns whether the process has the caller's `HOME`.
    fn keeps_home(&self) -> bool {
        self.keep_env && std::env::var_os("HOME").is_some()
    }
}

/// Reads a text file. It may also be a pipe, for example of `<(COMMAND)`.
fn read(file: &Path) -> Result<String> {
    let text = File::open(file).and_then(read_bounded).and_then(|text| {
        String::from_utf8(text).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
    });
    text.map_err(|e| Error::io("read", "read", file, &e))
}

/// Sets the variables of an environment file.
fn variables(file: &Path, env: &mut Vec<(OsString, OsString)>) -> Result<()> {
    let text = read(file)?;
    for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
        let set =
            value::env_line(line).and_then(|line| line.map_or(Ok(()), |line| variable(env, line.as_ref())));
        set.map_err(|why| {
            Error::usage("--env-file", format!("{}:{number}: {why}", file.display())).on(line)
        })?;
    }
    Ok(())
}

/// Sets a variable, or copies it from the caller.
fn variable(env: &mut Vec<(OsString, OsString)>, text: &OsStr) -> std::result::Result<(), String> {
    if let Some((name, value)) = value::variable(text, |name| std::env::var_os(name))? {
        set(env, name, value);
    }
    Ok(())
}

fn set(env: &mut Vec<(OsString, OsString)>, name: OsString, value: OsString) {
    match env.iter_mut().find(|(n, _)| *n == name) {
        Some(pair) => pair.1 = value,
        None => env.push((name, value)),
    }
}

// Flags of a container's first process.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Rights")]
pub(crate) struct RightsArgs {
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP", value_parser = capability)]
    cap_add: Vec<u64>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP", value_parser = capability)]
    cap_drop: Vec<u64>,
    /// Security option: no-new-privileges[=false], seccomp=unconfined or seccomp=FILE
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Deny new user namespaces to all processes of the container, also to root with all capabilities
    #[arg(long)]
    disable_userns: bool,
    /// Resource limit of setrlimit(2): nofile=1024:4096, core=unlimited
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<Rlimit>,
    /// OOM killer preference: -1000 (never killed) to 1000 (killed first)
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// File mode creation mask
    #[arg(long, value_name = "MODE", value_parser = value::mode)]
    umask: Option<u32>,
}

const ALL: u64 = u64::MAX;

impl RightsArgs {
    pub(crate) fn apply(&self, spec: &mut Spec, privileged: bool) -> Result<()> {
        if privileged {
            spec.masked_paths.clear();
            spec.readonly_paths.clear();
            spec.devices = None;
            for mount in &mut spec.mounts {
                let own = [nspod_sandbox::spec::MountKind::Sysfs, nspod_sandbox::spec::MountKind::Cgroup];
                mount.readonly &= !own.contains(&mount.kind);
            }
            if !self.cap_add.is_empty() || !self.cap_drop.is_empty() {
                return Err(Error::usage(
                    "--privileged",
                    "--privileged grants every capability and conflicts with --cap-add and --cap-drop",
                ));
            }
        }
        let process = &mut spec.process;
        if let Some(customary) = process.capabilities {
            let set = self.capabilities(customary.bounding);
            process.capabilities = Some(Capabilities::of(set));
        }
        for option in &self.security_opt {
            match option.split_once(['=', ':']).unwrap_or((option, "true")) {
                ("no-new-privileges", text @ ("true" | "false")) => process.no_new_privs = text == "true",
                ("seccomp", "unconfined") => process.seccomp = Seccomp::Unconfined,
                ("seccomp", file) => process.seccomp = Seccomp::Profile(Box::new(profile(file.as_ref())?)),
                _ => {
                    return Err(Error::usage(
                        "--security-opt",
                        format!(
                            "--security-opt {option:?} must be no-new-privileges[=false], seccomp=unconfined or seccomp=FILE"
                        ),
                    ));
                }
            }
        }
        process.no_user_namespaces |= self.disable_userns;
        process.rlimits.extend(self.ulimit.iter().cloned());
        process.oom_score_adj = self.oom_score_adj.or(process.oom_score_adj);
        process.umask = self.umask.or(process.umask);
        Ok(())
    }

    /// Returns whether the flags add a capability, by its name or by ALL.
    pub(crate) fn adds(&self, bit: u64) -> bool {
        self.cap_add.iter().any(|added| added & bit != 0)
    }

    /// Drops capabilities before it adds others, as docker does: `--cap-drop ALL --cap-add X` leaves X.
    fn capabilities(&self, customary: u64) -> u64 {
        let mut set = customary;
        let (add_all, drop_all) = (self.cap_add.contains(&ALL), self.cap_drop.contains(&ALL));
        match (add_all, drop_all) {
            (true, _) => set = every_capability(),
            (false, true) => set = 0,
            (false, false) => {}
        }
        let ones = |list: &[u64]| list.iter().filter(|bit| **bit != ALL).fold(0, |all, bit| all | bit);
        if drop_all && add_all {
            return ones(&self.cap_add);
        }
        set &= !ones(&self.cap_drop);
        set | ones(&self.cap_add)
    }
}

/// Returns the caller's bounding set: a container cannot have more.
fn every_capability() -> u64 {
    let status = std::fs::read("/proc/self/status").unwrap_or_default();
    ns_core::proc::hex(&status, "CapBnd").unwrap_or(0)
}

fn capability(text: &str) -> std::result::Result<u64, String> {
    match text.eq_ignore_ascii_case("all") {
        true => Ok(ALL),
        false => {
            Capabilities::bit(text).ok_or_else(|| format!("{text:?} is not a capability such as NET_ADMIN"))
        }
    }
}

fn profile(path: &std::path::Path) -> Result<Profile> {
    let text = read(path)?;
    let profile: Profile = serde_json::from_str(&text)
        .map_err(|e| invalid_profile(path, format!("is not a seccomp profile: {e}")))?;
    match profile.notifies() {
        false => Ok(profile),
        true => Err(invalid_profile(
            path,
            "uses SCMP_ACT_NOTIFY, which requires a supervisor: remove those rules, or run the container with \
             nspod-oci and linux.seccomp.listenerPath",
        )),
    }
}

fn invalid_profile(path: &std::path::Path, problem: impl std::fmt::Display) -> Error {
    Error::usage("--security-opt", format!("{} {problem}", path.display())).on(path.display())
}

fn ulimit(text: &str) -> std::result::Result<Rlimit, String> {
    let (name, values) = value::pair(text)?;
    let one = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse::<u64>().map_err(|_| format!("{text:?} is neither a number nor unlimited")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((&values, &values));
    let limit = Rlimit { name, soft: one(soft)?, hard: one(hard)? };
    match limit.resource() {
        Some(_) if limit.soft <= limit.hard => Ok(limit),
        Some(_) => Err(format!("{text:?} has a soft limit above the hard limit")),
        None => Err(format!("{:?} is not a resource of setrlimit(2) such as nofile", limit.name)),
    }
}

/// Gives a process a session keyring of its container, unless the library's filter denies the calls for keys. The
/// process would otherwise possess the keys in the caller's session keyring. `of_container` is the keyring of a
/// container that runs. Another container must not find the name: any process of the user can join a keyring by name.
pub(crate) fn separate_keys(process: &mut Process, id: &str, of_container: Option<&str>) {
    if process.seccomp != Seccomp::Standard && process.keyring.is_none() {
        let new = || format!("_ses.{id}.{}", random_name());
        process.keyring = Some(of_container.map_or_else(new, str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;

    #[derive(Args)]
    struct Both {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        rights: RightsArgs,
    }

    fn spec(flags: &[&str]) -> Result<Spec> {
        let args: Both = parse(flags)?;
        let mut spec = Spec::new("true");
        args.common.apply(&mut spec, &Facts::root(), &["/".into()])?;
        args.rights.apply(&mut spec, args.common.privileged)?;
        Ok(spec)
    }

    fn capabilities(flags: &[&str]) -> u64 {
        spec(flags).unwrap().process.capabilities.unwrap().bounding
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let (base, admin, kill) = (Capabilities::CONTAINER.bounding, 1 << 12, 1 << 5);
        assert_eq!(capabilities(&[]), base);
        assert_eq!(capabilities(&["--cap-add", "net_admin"]), base | admin);
        assert_eq!(capabilities(&["--cap-drop", "CAP_KILL"]), base & !kill);
        assert_eq!(capabilities(&["--cap-drop", "ALL"]), 0);
        assert_eq!(capabilities(&["--cap-drop", "ALL", "--cap-add", "KILL"]), kill);
        assert_eq!(capabilities(&["--cap-add", "all", "--cap-drop", "KILL"]), every_capability() & !kill);
        nspod_testkit::assert_refused(spec(&["--cap-add", "FLY"]), "FLY");
        nspod_testkit::assert_refused(spec(&["--cap-add", "KILL", "--privileged"]), "--privileged");
    }

    #[test]
    fn privileged_removes_every_guard() {
        let spec = spec(&["--privileged"]).unwrap();
        assert_eq!((spec.process.capabilities, spec.process.seccomp), (None, Seccomp::Unconfined));
        assert!(!spec.process.no_new_privs && spec.masked_paths.is_empty() && spec.readonly_paths.is_empty());
        assert!(spec.mounts.iter().all(|m| !m.readonly));
    }

    #[test]
    fn security_options_are_recognised() {
        assert!(!spec(&["--security-opt", "no-new-privileges=false"]).unwrap().process.no_new_privs);
        assert!(spec(&["--security-opt", "no-new-privileges"]).unwrap().process.no_new_privs);
        nspod_testkit::assert_refused(spec(&["--security-opt", "label=disable"]), "label");
        let error = spec(&["--security-opt", "seccomp=/nowhere"]).unwrap_err().to_string();
        assert_eq!(error, "cannot read /nowhere: No such file or directory (ENOENT)");
    }

    #[test]
    fn a_ulimit_is_one_number_or_two() {
        let one = |text: &str| ulimit(text).map(|l| (l.soft, l.hard));
        assert_eq!(one("nofile=10"), Ok((10, 10)));
        assert_eq!(one("nofile=10:20"), Ok((10, 20)));
        assert_eq!(one("core=unlimited"), Ok((u64::MAX, u64::MAX)));
        for (bad, why) in [
            ("nofile", "must have the form NAME=VALUE"),
            ("nofile=", "\"\" is neither a number nor unlimited"),
            ("nofile=20:10", "has a soft limit above the hard limit"),
            ("wings=2", "\"wings\" is not a resource of setrlimit(2)"),
            ("nofile=1:2:3", "\"2:3\" is neither a number nor unlimited"),
        ] {
            nspod_testkit::assert_refused(ulimit(bad), why);
        }
    }

    #[test]
    fn variables_override_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# comment\nA=file\nB=file\n\n").unwrap();
        let path = file.path().to_str().unwrap();
        let env = spec(&["--env-file", path, "-e", "A=flag", "-t"]).unwrap().process.env;
        let get = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_str().unwrap());
        assert_eq!((get("A"), get("B"), get("TERM")), (Some("flag"), Some("file"), Some("xterm")));
        assert_eq!(get("HOME"), Some("/root"));
    }

    #[test]
    fn an_environment_file_is_read_as_docker_reads_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let read = |text: &str| {
            std::fs::write(path, text).unwrap();
            spec(&["--env-file", path]).map(|spec| spec.process.env)
        };
        let env = read("\u{feff}  # comment\n\t A='a b' #c \r\n \nPATH\nNO_SUCH_VARIABLE\nB=\n").unwrap();
        let get = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        assert_eq!((get("A"), get("B")), (Some("'a b' #c ".into()), Some("".into())));
        assert_eq!((get("PATH"), get("NO_SUCH_VARIABLE")), (std::env::var_os("PATH"), None));
        for (text, line, why) in [
            ("A=1\nexport B=1\n", 2, "\"export B\" is not the name of a variable: write it without `export`"),
            ("A B=1", 1, "\"A B\" is not the name of a variable: it contains a blank"),
            ("A = 1", 1, "\"A \" is not the name of a variable: it contains a blank"),
            ("\n=1", 2, "\"=1\" must begin with the name of a variable"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), format!("{path}:{line}: {why}"));
        }
    }

    #[test]
    fn a_user_is_looked_up_and_has_a_home() {
        let spec = spec(&["-u", "nobody", "--group-add", "7"]).unwrap();
        let user = spec.process.user.unwrap();
        assert_eq!((user.uid, user.groups.last()), (65_534, Some(&7)));
        assert!(spec.process.env.iter().any(|(n, v)| n == "HOME" && v == "/nonexistent"));
    }

    #[test]
    fn an_empty_home_becomes_the_users() {
        let process = spec(&["-u", "nobody", "-e", "HOME="]).unwrap().process;
        let home = process.env.iter().rfind(|(name, _)| name == "HOME");
        assert_eq!(home.unwrap().1, "/nonexistent");
    }
}
