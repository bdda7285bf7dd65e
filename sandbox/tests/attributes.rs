//! Attributes of a process other than its credentials (scheduling, affinity, keyrings, labels), as the process
//! itself reads them. The tests run as root.
#![allow(unsafe_code)]

mod common;

use std::io::Read;
use std::os::fd::AsRawFd;

use nspod_sandbox::seccomp::{Action, Profile, Rule};
use nspod_sandbox::spec::{
    Capabilities, IoPriority, MemoryPolicy, Process, Root, Scheduler, Seccomp, Spec, StorageLimit, Writes,
};
use nspod_sandbox::{Command, Container, Error, ErrorKind, ExitStatus, Host, Plan, Stdio};

/// Returns a command for a container that runs this shell line with a modified process.
fn shell(line: &str, change: impl FnOnce(&mut Process)) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::Null).stdout(Stdio::Piped);
    command.spec_mut().masked_paths.clear();
    change(&mut command.spec_mut().process);
    command
}

fn finish(mut container: Container) -> (String, ExitStatus) {
    let mut text = String::new();
    container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = container.wait().unwrap().status;
    container.delete().unwrap();
    (text.trim_end().to_owned(), status)
}

fn output(command: &mut Command) -> String {
    let (text, status) = finish(command.spawn().unwrap());
    assert!(status.success(), "{status}: {text}");
    text
}

/// Returns the message of the error that planning returns.
fn refusal(change: impl FnOnce(&mut Process)) -> String {
    let mut spec = Spec::new("true");
    change(&mut spec.process);
    let error = Plan::on(&spec, &Host::default(), Default::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
    error.to_string()
}

fn scheduler(policy: u32) -> Scheduler {
    Scheduler { policy, ..Scheduler::default() }
}

#[test]
fn the_requested_scheduling_policy_is_set() {
    if !nspod_testkit::root() {
        return;
    }
    let fifo = Scheduler { priority: 7, ..scheduler(1) };
    let line = "chrt -p $$";
    let text = output(&mut shell(line, |p| p.scheduler = Some(fifo)));
    assert!(text.contains("SCHED_FIFO") && text.ends_with("priority: 7"), "{text}");
    // The container needs no capability for this. Its children have the default scheduling again.
    let reset = Scheduler { flags: 1, ..fifo };
    let text = output(&mut shell("chrt -p $$; sh -c 'chrt -p $$; true'", |p| {
        p.scheduler = Some(reset);
        p.capabilities = Some(Capabilities::NONE);
    }));
    assert!(text.contains("SCHED_FIFO|SCHED_RESET_ON_FORK"), "{text}");
    assert!(text.contains("SCHED_OTHER"), "{text}");
    let batch = Scheduler { nice: 5, ..scheduler(3) };
    let text = output(&mut shell("chrt -p $$; cut -d' ' -f19 /proc/$$/stat", |p| p.scheduler = Some(batch)));
    assert!(text.contains("SCHED_BATCH") && text.ends_with("\n5"), "{text}");
    // A process with SCHED_DEADLINE cannot fork, except with the flag that resets the scheduling of children.
    let deadline =
        Scheduler { flags: 1, runtime: 1_000_000, deadline: 50_000_000, period: 100_000_000, ..scheduler(6) };
    let text = output(&mut shell(line, |p| p.scheduler = Some(deadline)));
    assert!(text.contains("SCHED_DEADLINE") && text.contains("1000000/50000000/100000000"), "{text}");
}

#[test]
fn an_impossible_scheduler_is_refused_with_its_field() {
    let of = |scheduler: Scheduler| refusal(|p| p.scheduler = Some(scheduler));
    let cases = [
        (scheduler(4), "process.scheduler.policy: 4 is no"),
        (Scheduler { flags: 0x80, ..scheduler(0) }, "process.scheduler.flags: 0x80"),
        (Scheduler { nice: -21, ..scheduler(0) }, "process.scheduler.nice: -21 is not between -20 and 19"),
        (scheduler(1), "process.scheduler.priority: 0 is not between 1 and 99"),
        (Scheduler { priority: 1, ..scheduler(0) }, "process.scheduler.priority: only SCHED_FIFO"),
        (Scheduler { runtime: 1, ..scheduler(0) }, "process.scheduler.runtime: only SCHED_DEADLINE"),
        (scheduler(6), "process.scheduler.runtime: 0 ns"),
        (Scheduler { runtime: 2000, deadline: 1999, ..scheduler(6) }, "process.scheduler.deadline: 1999 ns"),
        (
            Scheduler { runtime: 2000, deadline: 2000, period: 1, ..scheduler(6) },
            "process.scheduler.period: 1 ns",
        ),
    ];
    for (scheduler, begins) in cases {
        let text = of(scheduler);
        assert!(text.starts_with(begins), "{text}");
    }
}

#[test]
fn the_requested_io_priority_is_set() {
    if !nspod_testkit::root() {
        return;
    }
    for (class, level, shown) in [(1, 3, "realtime: prio 3"), (2, 6, "best-effort: prio 6"), (3, 0, "idle")] {
        let priority = IoPriority { class, level };
        let text = output(&mut shell("ionice -p $$", |p| p.io_priority = Some(priority)));
        assert_eq!(text, shown);
    }
    let text = refusal(|p| p.io_priority = Some(IoPriority { class: 4, level: 0 }));
    assert!(text.starts_with("process.io_priority.class: 4 is not 1"), "{text}");
    let text = refusal(|p| p.io_priority = Some(IoPriority { class: 2, level: 8 }));
    assert!(text.starts_with("process.io_priority.level: 8 is not"), "{text}");
}

#[test]
fn a_container_runs_on_the_requested_processors() {
    if !nspod_testkit::root() {
        return;
    }
    let line = "while read key value; do [ $key = Cpus_allowed_list: ] && echo $value; done < /proc/self/status; true";
    let text = output(&mut shell(line, |p| p.affinity = Some("0".parse().unwrap())));
    assert_eq!(text, "0");
    // CPUs that do not exist are ignored if at least one CPU exists.
    let text = output(&mut shell(line, |p| p.affinity = Some("0,200-300".parse().unwrap())));
    assert_eq!(text, "0");
    let error = shell(line, |p| p.affinity = Some("9000".parse().unwrap())).spawn().unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("cannot run on the processors 9000: sched_setaffinity: ") && text.contains("cpuset"),
        "{text}"
    );
    let text = refusal(|p| p.affinity = Some("4000000000".parse().unwrap()));
    assert!(text.starts_with("process.affinity: 4000000000 is above"), "{text}");
    assert!(
        refusal(|p| p.affinity = Some("".parse().unwrap())).starts_with("process.affinity: at least one")
    );
}

#[test]
fn the_requested_personality_and_memory_policy_are_set() {
    if !nspod_testkit::root() {
        return;
    }
    let linux32 = output(&mut shell("cat /proc/self/personality; uname -m", |p| p.personality = Some(8)));
    assert_eq!(linux32, if cfg!(target_arch = "x86_64") { "00000008\ni686" } else { "00000008\narmv8l" });
    assert!(refusal(|p| p.personality = Some(u32::MAX)).starts_with("process.personality: "));

    let policy = |mode, flags, nodes: &str| MemoryPolicy { mode, flags, nodes: nodes.parse().unwrap() };
    let line = "read first < /proc/self/numa_maps; set -- $first; echo $2";
    for (mode, flags, nodes, shown) in
        [(2, 0, "0", "bind:0"), (3, 1 << 15, "0", "interleave=static:0"), (4, 0, "", "local")]
    {
        let text = output(&mut shell(line, |p| p.memory_policy = Some(policy(mode, flags, nodes))));
        assert_eq!(text, shown);
    }
    let error = shell(line, |p| p.memory_policy = Some(policy(2, 0, "63"))).spawn().unwrap_err();
    assert_eq!((error.failed_call(), error.raw_os_error()), (Some("set_mempolicy"), Some(libc::EINVAL)));
    for (mode, flags, nodes, problem) in [
        (7, 0, "0", "mode: 7 is not a memory policy"),
        (0, 0, "0", "nodes: this policy has no nodes"),
        (2, 0, "", "nodes: this policy requires nodes"),
        (2, 0, "1024", "nodes: 1024 is above"),
        (2, 1 << 12, "0", "flags: 0x1000 contains a flag"),
        (0, 1 << 15, "", "flags: this policy has no flags"),
        (2, 3 << 14, "0", "flags: the nodes are either"),
        (1, 1 << 14, "", "flags: static or relative nodes require nodes"),
        (3, 1 << 13, "0", "flags: MPOL_F_NUMA_BALANCING requires"),
    ] {
        let text = refusal(|p| p.memory_policy = Some(policy(mode, flags, nodes)));
        assert!(text.starts_with(&format!("process.memory_policy.{problem}")), "{text}");
    }
}

#[test]
fn further_processes_join_the_session_keyring_of_the_container() {
    if !nspod_testkit::root() {
        return;
    }
    let name = format!("_ses.attributes-{}", std::process::id());
    let own = |p: &mut Process| {
        p.keyring = Some(name.clone());
        p.seccomp = Seccomp::Unconfined;
    };
    let line = "while read id rest; do case $rest in *_ses.attributes*) echo $id ${rest##*keyring};; esac; done < /proc/keys";
    let first = output(&mut shell(line, own));
    assert!(first.contains(&name), "{first}");
    // A process without its own keyring does not possess the keyring of another process.
    let mut held = shell("read line", own).stdin(Stdio::Piped).spawn().unwrap();
    let mut command = held.exec("sh").unwrap();
    command.args(["-c", line]).stdin(Stdio::Null).stdout(Stdio::Piped);
    command.spec_mut().process.user =
        Some(nspod_sandbox::spec::User { uid: 1000, gid: 1000, groups: vec![] });
    let text = output(&mut command);
    assert_eq!(text.lines().count(), 1, "unexpected keyrings: {text}");
    drop(held.stdin.take());
    held.wait().unwrap();
}

#[test]
fn a_label_of_an_inactive_security_module_is_refused_with_its_field() {
    let text = refusal(|p| p.apparmor_profile = Some("docker-default".into()));
    assert!(
        text.starts_with(
            "process.apparmor_profile: \"docker-default\" cannot be set because AppArmor is not"
        ),
        "{text}"
    );
    let text = refusal(|p| p.selinux_label = Some("a:b:c:s0".into()));
    assert!(
        text.starts_with("process.selinux_label: \"a:b:c:s0\" cannot be set because SELinux is not"),
        "{text}"
    );
    // The label that the process already has, and an empty label.
    let mut spec = Spec::new("true");
    spec.process.apparmor_profile = Some("unconfined".into());
    spec.process.selinux_label = Some(String::new());
    Plan::on(&spec, &Host { capabilities: u64::MAX, ..Host::default() }, Default::default()).unwrap();
}

/// The error for a profile that is not loaded proves that the label is written. Without AppArmor the start fails.
#[test]
fn a_label_is_written_for_the_program_or_the_start_fails() {
    if !nspod_testkit::root() {
        return;
    }
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let in_force = enabled.is_ok_and(|text| text.starts_with('Y'));
    // The label is written by the program's process, by the init, and from a file that is opened before the program
    // runs.
    for (init, own_root) in [(false, false), (true, false), (false, true)] {
        let mut spec = Spec::new("cat");
        spec.process.args.push("/proc/self/attr/current".into());
        spec.init = Some(init);
        if own_root {
            let limit = StorageLimit::of_size(1 << 20);
            spec.root = Root::Overlay { lower: vec!["/".into()], writes: Writes::Tmpfs, limit };
        }
        let start = |label: &str| {
            let mut spec = spec.clone();
            spec.process.apparmor_profile = Some(label.into());
            let mut command = Command::from_spec(spec);
            command.stdin(Stdio::Null).stdout(Stdio::Piped);
            command
        };
        let mut command = start("no-such-profile");
        match in_force {
            true => {
                let error = command.spawn().unwrap_err();
                let text = error.to_string();
                assert!(
                    text.starts_with("cannot set the AppArmor profile no-such-profile: write: "),
                    "{text}"
                );
                assert!(text.contains("no such profile is loaded"), "{text}");
                let text = output(&mut start("unconfined"));
                assert_eq!(text, "unconfined");
            }
            false => {
                let error = command.spawn().unwrap_err();
                assert!(error.to_string().contains("AppArmor is not enabled"), "{error}");
            }
        }
    }
}

#[test]
fn a_capability_that_the_caller_lacks_is_named() {
    if !nspod_testkit::root() {
        return;
    }
    // Start from a thread that has dropped the capability.
    let sentence = std::thread::spawn(|| {
        for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
            caps::drop(None, set, caps::Capability::CAP_SYS_TIME).unwrap();
        }
        let wanted = Capabilities::of(1 << 0 | 1 << 25);
        shell("true", |p| p.capabilities = Some(wanted)).spawn().unwrap_err().to_string()
    });
    let sentence = sentence.join().unwrap();
    assert!(
        sentence.contains("capset: ") && sentence.contains("the caller lacks CAP_SYS_TIME:"),
        "{sentence}"
    );
}

fn asking(names: &[&str]) -> Seccomp {
    let rule = Rule {
        names: names.iter().map(|n| n.to_string()).collect(),
        action: Action::Notify,
        ..Rule::default()
    };
    Seccomp::Profile(Box::new(Profile {
        default_action: Action::Allow,
        syscalls: vec![rule],
        ..Profile::default()
    }))
}

#[test]
fn a_filter_asks_the_holder_of_its_listener() {
    if !nspod_testkit::root() {
        return;
    }
    let few = Some(Capabilities::CONTAINER);
    for (no_new_privs, capabilities) in [(true, few), (false, few), (false, None)] {
        let mut command = shell("mkdir /tmp/never; echo $?", |p| {
            p.no_new_privs = no_new_privs;
            p.capabilities = capabilities;
            p.seccomp = asking(&["mkdir", "mkdirat", "execve", "read"]);
        });
        // aarch64 has no mkdir, only mkdirat.
        let others = [libc::SYS_execve, libc::SYS_read];
        command.spec_mut().time_offsets = None;
        let stderr = command.stderr(Stdio::Null).hold();
        let mut container = stderr.spawn().unwrap();
        let listener = container.seccomp_listener.take().expect("a listener");
        let agent = std::thread::spawn(move || {
            loop {
                const CONTINUE: u32 = 1;
                const RECEIVE: libc::Ioctl = 0xc050_2100;
                const SEND: libc::Ioctl = 0xc018_2101;
                // SAFETY: as in `answer`.
                let number = unsafe {
                    let mut question: libc::seccomp_notif = std::mem::zeroed();
                    if libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut question) != 0 {
                        return 0;
                    }
                    let mut reply: libc::seccomp_notif_resp = std::mem::zeroed();
                    reply.id = question.id;
                    let made = libc::c_long::from(question.data.nr);
                    match others.contains(&made) {
                        true => reply.flags = CONTINUE,
                        false => reply.error = -libc::EXDEV,
                    }
                    libc::ioctl(listener.as_raw_fd(), SEND, &raw mut reply);
                    made
                };
                if !others.contains(&number) {
                    // No process answers from here on: every further request gets ENOSYS.
                    return number;
                }
            }
        });
        container.start().unwrap();
        let (text, _) = finish(container);
        assert_eq!(text, "1");
        assert_ne!(agent.join().unwrap(), 0);
    }
}

#[test]
fn a_start_whose_filter_refuses_exit_has_its_own_memory() {
    let plan = |call: &str, capabilities| {
        let mut spec = Spec::bare("/bin/true");
        let rule = Rule { names: vec![call.into()], action: Action::Errno, ..Rule::default() };
        let profile = Profile { default_action: Action::Allow, syscalls: vec![rule], ..Profile::default() };
        spec.process.seccomp = Seccomp::Profile(Box::new(profile));
        spec.process.capabilities = capabilities;
        let host = Host { capabilities: u64::MAX, ..Host::default() };
        Plan::on(&spec, &host, Default::default()).unwrap().to_string()
    };
    for capabilities in [None, Some(Capabilities::CONTAINER)] {
        assert!(plan("mkdir", capabilities).contains("memory shared until exec"));
        assert!(plan("exit_group", capabilities).contains("memory copied"), "{capabilities:?}");
    }
}

#[test]
fn a_notification_that_cannot_be_answered_is_refused() {
    let on = |command: &mut Command, names: &[&str]| -> Result<(), Error> {
        command.spec_mut().process.seccomp = asking(names);
        command.plan().map(drop)
    };
    let mut command = Command::new("true");
    let text = on(&mut command, &["mkdir"]).unwrap_err().to_string();
    assert!(text.starts_with("process.seccomp: SCMP_ACT_NOTIFY requires a container that is held"), "{text}");
    command.hold();
    on(&mut command, &["mkdir", "read"]).unwrap();
    let text = on(&mut command, &["mkdir", "write"]).unwrap_err().to_string();
    assert!(text.starts_with("process.seccomp: SCMP_ACT_NOTIFY of write would never be answered"), "{text}");
    // The filter is loaded when ids and capabilities are set, with and without no_new_privs.
    on(&mut command, &["capset"]).unwrap();
    command.spec_mut().process.no_new_privs = false;
    on(&mut command, &["capset"]).unwrap();
}
