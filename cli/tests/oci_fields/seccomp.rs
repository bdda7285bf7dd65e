//! The field `linux.seccomp`.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Bundle, ours, runtime_lacks};
use crate::common::{Guard, Output};

fn filter(syscalls: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": syscalls })
}

#[track_caller]
fn run(script: &str, syscalls: Value) -> Output {
    Bundle::sh(script).set("/linux/seccomp", filter(syscalls)).run()
}

const MKDIR: [&str; 2] = ["mkdir", "mkdirat"];

#[test]
fn every_action() {
    for (action, code, why) in [
        ("SCMP_ACT_ALLOW", 0, ""),
        ("SCMP_ACT_LOG", 0, ""),
        ("SCMP_ACT_ERRNO", 1, "Operation not permitted"),
        // The call fails because no tracer is attached.
        ("SCMP_ACT_TRACE", 1, "Function not implemented"),
        ("SCMP_ACT_TRAP", 159, "Bad system call"),
        ("SCMP_ACT_KILL", 159, "Bad system call"),
        ("SCMP_ACT_KILL_THREAD", 159, "Bad system call"),
        ("SCMP_ACT_KILL_PROCESS", 159, "Bad system call"),
    ] {
        let output = run("mkdir /made; echo $?", json!([{ "names": MKDIR, "action": action }]));
        assert_eq!(output.out, format!("{code}\n"), "{action}: {}", output.err);
        assert!(
            output.err.contains(why) && output.err.is_empty() == why.is_empty(),
            "{action}: {}",
            output.err
        );
    }
}

#[test]
fn an_errno_action_returns_its_number() {
    let output = run("mkdir /made", json!([{ "names": MKDIR, "action": "SCMP_ACT_ERRNO", "errnoRet": 18 }]));
    assert!(output.err.contains("Invalid cross-device link"), "{}", output.err);
    let trace = json!([{ "names": MKDIR, "action": "SCMP_ACT_TRACE", "errnoRet": 7 }]);
    assert!(run("mkdir /made", trace).err.contains("Function not implemented"));
}

#[test]
fn a_filtered_process_is_in_filter_mode() {
    let mode = "awk '/^Seccomp:/ { print $2 }' /proc/self/status";
    assert_eq!(run(mode, json!([])).ok(), "2\n");
    let own = std::fs::read_to_string("/proc/self/status").unwrap().contains("\nSeccomp:\t0\n");
    if own {
        assert_eq!(Bundle::sh(mode).run().ok(), "0\n");
    }
}

/// Calls that a shell and the runtime that starts it may need, except `mkdir`.
const ALLOWED: &str = "access arch_prctl brk capget capset chdir chmod chown clone clone3 close close_range connect dup \
    dup2 dup3 epoll_create1 epoll_ctl epoll_pwait eventfd2 execve execveat exit exit_group fchdir fchmod fchown fcntl \
    fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getgroups getpgrp getpid getppid getrandom getrlimit \
    gettid getuid ioctl kill lseek lstat madvise mkdirat mmap mprotect mremap munmap nanosleep newfstatat open openat \
    openat2 pipe pipe2 poll ppoll prctl pread64 prlimit64 read readlink readlinkat recvmsg rseq rt_sigaction \
    rt_sigprocmask rt_sigreturn rt_sigtimedwait sched_getaffinity sched_yield seccomp sendmsg sendto set_robust_list \
    set_tid_address setgid setgroups setresgid setresuid setuid sigaltstack socket stat statfs statx tgkill uname \
    unlink unlinkat vfork wait4 waitid write writev";

#[test]
fn the_default_action_applies_to_calls_without_a_rule() {
    let allowed =
        json!([{ "names": ALLOWED.split_whitespace().collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW" }]);
    for (ret, why) in [(json!(95), "not supported"), (Value::Null, "Operation not permitted")] {
        let mut filter = filter(allowed.clone());
        filter["defaultAction"] = "SCMP_ACT_ERRNO".into();
        if !ret.is_null() {
            filter["defaultErrnoRet"] = ret;
        }
        let output = Bundle::sh("mkdir /made; echo $?").set("/linux/seccomp", filter).run();
        assert_eq!(output.out, "1\n", "{}", output.err);
        assert!(output.err.contains(why), "{}", output.err);
    }
}

/// A script that sends itself signals without effect on a shell, and prints those that are allowed.
const SIGNALS: &str = "for s in 0 17 18 23 28; do kill -$s $$ 2> /dev/null && echo $s; done; true";

#[test]
fn every_comparison_of_an_argument() {
    for (op, value, second, allowed) in [
        ("SCMP_CMP_NE", 18, None, "18"),
        ("SCMP_CMP_LT", 18, None, "18 23 28"),
        ("SCMP_CMP_LE", 18, None, "23 28"),
        ("SCMP_CMP_EQ", 18, None, "0 17 23 28"),
        ("SCMP_CMP_GE", 18, None, "0 17"),
        ("SCMP_CMP_GT", 18, None, "0 17 18"),
        ("SCMP_CMP_MASKED_EQ", 1, Some(1), "0 18 28"),
        ("SCMP_CMP_MASKED_EQ", 3, Some(2), "0 17 23 28"),
    ] {
        let mut arg = json!({ "index": 1, "value": value, "op": op });
        if let Some(second) = second {
            arg["valueTwo"] = second.into();
        }
        let output = run(SIGNALS, json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [arg] }]));
        assert_eq!(output.ok().split_whitespace().collect::<Vec<_>>().join(" "), allowed, "{op} {value}");
    }
}

#[test]
fn all_64_bits_of_an_argument_are_compared() {
    let rule = |op, value: u64| {
        json!([{
            "names": ["ftruncate"], "action": "SCMP_ACT_ERRNO",
            "args": [{ "index": 1, "value": value, "op": op }],
        }])
    };
    let script = "for n in 1 4294967296 4294967297 8589934592; do truncate -s $n /file 2> /dev/null && echo $n; done; true";
    assert_eq!(run(script, rule("SCMP_CMP_GT", 1 << 32)).ok(), "1\n4294967296\n");
    assert_eq!(run(script, rule("SCMP_CMP_EQ", (1 << 32) + 1)).ok(), "1\n4294967296\n8589934592\n");
}

#[test]
fn all_arguments_of_a_rule_must_match_and_any_rule_of_a_call() {
    let arg = |index, value| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    let rule = |args: Value| json!({ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args });
    let script = "sleep 1000 & for p in 1 $!; do for s in 17 23; do kill -$s $p 2> /dev/null && echo $((p == 1)) $s; done; done; true";
    assert_eq!(run(script, json!([rule(json!([arg(0, 1), arg(1, 17)]))])).ok(), "1 23\n0 17\n0 23\n");
    let rules = json!([rule(json!([arg(0, 1)])), rule(json!([arg(1, 17)]))]);
    assert_eq!(run(script, rules).ok(), "0 23\n");
}

#[test]
fn any_one_of_several_comparisons_of_an_argument_is_enough() {
    let arg = |value| json!({ "index": 1, "value": value, "op": "SCMP_CMP_EQ" });
    let rule = json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [arg(18), arg(23)] }]);
    assert_eq!(run(SIGNALS, rule).ok(), "0\n17\n28\n");
}

#[test]
fn an_unknown_call_is_ignored() {
    let rule = json!([{ "names": ["call_of_tomorrow", "mkdir"], "action": "SCMP_ACT_ERRNO" }]);
    assert!(run("mkdir /made", rule).err.contains("Operation not permitted"));
}

#[test]
fn a_rule_in_the_old_form_has_one_name() {
    if runtime_lacks(&["crun", "runc"], "Docker's old form of profiles is not supported") {
        return;
    }
    let rule = json!([{ "name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 18, "args": [] }]);
    assert!(run("mkdir /made", rule).err.contains("Invalid cross-device link"));
    let both = json!([{ "name": "mkdir", "names": ["mkdirat"], "action": "SCMP_ACT_ERRNO" }]);
    Bundle::sh("true").set("/linux/seccomp", filter(both)).refused("linux.seccomp.syscalls[0]");
}

#[test]
fn the_first_rule_of_a_call_decides() {
    let rules = json!([
        { "names": MKDIR, "action": "SCMP_ACT_ERRNO", "errnoRet": 18 },
        { "names": ["mkdir"], "action": "SCMP_ACT_KILL" },
    ]);
    assert!(run("mkdir /made", rules).err.contains("Invalid cross-device link"));
}

#[test]
fn every_flag() {
    if runtime_lacks(&["runc"], "flags") {
        return;
    }
    let run = |flags: &[&str]| {
        let bundle = Bundle::sh("echo started")
            .set("/linux/seccomp", filter(json!([])))
            .set("/linux/seccomp/flags", flags);
        assert_eq!(bundle.run().ok(), "started\n", "{flags:?}");
    };
    run(&["SECCOMP_FILTER_FLAG_LOG"]);
    run(&["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
    run(&["SECCOMP_FILTER_FLAG_TSYNC"]);
    if !runtime_lacks(&["crun", "runc"], "WAIT_KILLABLE_RECV requires version 1.1") {
        run(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    }
    let none = Bundle::sh("true").set("/linux/seccomp", filter(json!([])));
    none.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_NONE"])).refused("linux.seccomp.flags[0]");
}

#[test]
fn an_invalid_filter_is_refused() {
    let with = |filter| Bundle::sh("true").set("/linux/seccomp", filter);
    let one = |rule: Value| with(filter(json!([rule])));
    one(json!({ "names": MKDIR, "action": "SCMP_ACT_NONE" })).refused("linux.seccomp.syscalls[0].action");
    let rule = |arg| json!({ "names": MKDIR, "action": "SCMP_ACT_ERRNO", "args": [arg] });
    one(rule(json!({ "index": 0, "value": 1, "op": "SCMP_CMP_NONE" })))
        .refused("linux.seccomp.syscalls[0].args");
    one(rule(json!({ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" })))
        .refused("linux.seccomp.syscalls[0].args");
    with(json!({ "defaultAction": "SCMP_ACT_NONE" })).refused("linux.seccomp.defaultAction");
    with(json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONE"] }))
        .refused("linux.seccomp.architectures[0]");
    if !runtime_lacks(&["crun", "runc"], "an errno is accepted for an action without one") {
        one(json!({ "names": MKDIR, "action": "SCMP_ACT_KILL", "errnoRet": 1 }))
            .refused("linux.seccomp.syscalls[0].errnoRet");
    }
}

#[test]
fn a_rule_applies_to_the_named_architectures_and_calls_of_others_are_refused() {
    let bundle = || {
        let bundle = Bundle::sh("/prog; echo $?");
        std::fs::write(bundle.path("rootfs/prog"), crate::common::mkdir_of_i386()).unwrap();
        std::fs::set_permissions(bundle.path("rootfs/prog"), std::fs::Permissions::from_mode(0o755)).unwrap();
        bundle
    };
    let output = bundle().run();
    if output.out != "0\n" {
        crate::common::skip("this kernel runs no programs for i386");
        return;
    }
    let rule = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33 }]);
    let with = |architectures: &[&str]| {
        let mut filter = filter(rule.clone());
        filter["architectures"] = architectures.into();
        bundle().set("/linux/seccomp", filter).run().out
    };
    assert_eq!(with(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]), "33\n");
    assert_eq!(with(&["SCMP_ARCH_X86_64"]), "159\n");
}

/// An agent that receives the listeners of filters, prints the message of each, and answers every call with
/// EXDEV.
const AGENT: &str = r#"
import fcntl, json, socket, struct, sys, threading
def answer(listener):
    while True:
        call = bytearray(80)
        try:
            fcntl.ioctl(listener, 0xC0502100, call)
            fcntl.ioctl(listener, 0xC0182101, struct.pack("QqiI", struct.unpack_from("Q", call)[0], 0, -18, 0))
        except FileNotFoundError:
            return
agent = socket.socket(socket.AF_UNIX)
agent.bind(sys.argv[1])
agent.listen()
print("ready", flush=True)
while True:
    connection, _ = agent.accept()
    message, fds, _, _ = socket.recv_fds(connection, 1 << 16, 8)
    print(json.dumps({"fds": len(fds), "message": json.loads(message)}), flush=True)
    threading.Thread(target=answer, args=(fds[0],), daemon=True).start()
"#;

/// Starts an agent on this socket. Returns the agent and its output.
fn agent(socket: &Path) -> (Guard, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new("python3");
    command.args(["-c", AGENT]).arg(socket).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut agent = Guard(command.spawn().unwrap());
    let mut lines = BufReader::new(agent.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    (agent, lines)
}

#[test]
fn the_listener_receives_the_calls_and_the_state() {
    let bundle =
        Bundle::sh("mkdir /made; echo $?").set("/annotations", json!({ "org.example.key": "value" }));
    let socket = bundle.path("listener").to_str().unwrap().to_owned();
    let (_agent, mut lines) = agent(Path::new(&socket));
    let mut filter = filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_NOTIFY" }]));
    filter["listenerPath"] = socket.into();
    filter["listenerMetadata"] = "about this".into();
    let bundle = bundle.set("/linux/seccomp", filter);
    let output = bundle.run();
    assert_eq!(output.out, "1\n", "{}", output.err);
    assert!(output.err.contains("Invalid cross-device link"), "{}", output.err);
    let said: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(said["fds"], 1);
    let message = &said["message"];
    assert_eq!(message["fds"], json!(["seccompFd"]));
    assert_eq!(message["metadata"], "about this");
    assert!(message["ociVersion"].is_string() && message["pid"].as_u64() > Some(0), "{message}");
    let state = &message["state"];
    assert_eq!(state["id"], bundle.id());
    assert_eq!(state["status"], "creating");
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert!(state["pid"].as_u64() > Some(0), "{state}");
    assert_eq!(state["bundle"], bundle.path("").to_str().unwrap().trim_end_matches('/'));
}

#[test]
fn the_listener_also_receives_the_calls_of_an_exec() {
    let bundle = Bundle::sh("sleep 1000");
    let socket = bundle.path("listener");
    let (agent, mut lines) = agent(&socket);
    let mut filter = filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_NOTIFY" }]));
    filter["listenerPath"] = socket.to_str().unwrap().into();
    let bundle = bundle.set("/linux/seccomp", filter).up();
    lines.next();
    let made = bundle.exec(&["mkdir", "/made"]);
    assert!(made.err.contains("Invalid cross-device link"), "{}", made.err);
    let said: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let message = &said["message"];
    assert_eq!((&said["fds"], &message["fds"]), (&1.into(), &json!(["seccompFd"])));
    assert_eq!(message["state"]["id"], bundle.id());
    if !runtime_lacks(&["crun"], "the state is not that of the container") {
        assert_eq!(message["state"]["status"], "running");
        assert_eq!(message["state"]["pid"], bundle.pid());
        let pid = message["pid"].as_u64().unwrap();
        assert!(pid > 0 && pid != bundle.pid(), "{message}");
    }
    assert_eq!(bundle.exec(&["sh", "-c", "exit 7"]).code(), 7);
    bundle.verb(&["exec", "--detach", bundle.id(), "sleep", "1000"]).ok();
    // Without an agent, a process is not started.
    drop((agent, lines));
    let before = bundle.processes().len();
    let refused = bundle.exec(&["mkdir", "/made"]);
    assert_ne!(refused.code(), 0);
    assert!(!ours() || refused.err.contains("linux.seccomp.listenerPath"), "{}", refused.err);
    assert_eq!(bundle.processes().len(), before);
    assert!(!bundle.path("rootfs/made").exists());
}

#[test]
fn a_notify_without_a_listener_is_refused() {
    let filter = filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_NOTIFY" }]));
    if !runtime_lacks(&["crun"], "SCMP_ACT_NOTIFY without a listener is ignored") {
        Bundle::sh("true").set("/linux/seccomp", filter.clone()).refused("linux.seccomp.listenerPath");
    }
    let nobody = Bundle::sh("true").set("/linux/seccomp", filter);
    nobody.set("/linux/seccomp/listenerPath", "/not/there").refused("linux.seccomp.listenerPath");
}

#[test]
fn a_hook_of_the_start_runs_under_the_containers_filter() {
    let hook = json!({
        "path": "/bin/sh", "env": ["PATH=/bin"],
        "args": ["sh", "-c", "cat > /dev/null; mkdir /made 2> /said; echo $? >> /said"],
    });
    for (action, why) in
        [("SCMP_ACT_ERRNO", "Operation not permitted"), ("SCMP_ACT_NOTIFY", "Invalid cross-device link")]
    {
        for no_new_privileges in [true, false] {
            let bundle = Bundle::sh("cat /said").set("/process/noNewPrivileges", no_new_privileges);
            let mut filter = filter(json!([{ "names": MKDIR, "action": action }]));
            let socket = bundle.path("listener");
            let _agent = (action == "SCMP_ACT_NOTIFY").then(|| {
                filter["listenerPath"] = socket.to_str().unwrap().into();
                agent(&socket)
            });
            let bundle = bundle.set("/linux/seccomp", filter).set("/hooks/startContainer/-", hook.clone());
            let output = bundle.run();
            assert!(
                output.ok().contains(why) && output.out.ends_with("\n1\n"),
                "{action} {no_new_privileges}: {}",
                output.out
            );
            assert!(!bundle.path("rootfs/made").exists(), "{action} {no_new_privileges}");
        }
    }
}

/// Returns a program of a few instructions, which writes `hello` and exits with code 7. If it may not exit,
/// it ends by a trap.
#[cfg(target_arch = "x86_64")]
fn hello() -> Vec<u8> {
    let code: &[u8] = &[
        0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
        0xbf, 1, 0, 0, 0, // mov edi, 1
        0x48, 0x8d, 0x35, 0x15, 0, 0, 0, // lea rsi, [rip + 21]
        0xba, 6, 0, 0, 0, // mov edx, 6
        0x0f, 0x05, // syscall
        0xb8, 231, 0, 0, 0, // mov eax, 231 (exit_group)
        0xbf, 7, 0, 0, 0, // mov edi, 7
        0x0f, 0x05, // syscall
        0x0f, 0x0b, // ud2
    ];
    const BASE: u64 = 0x40_0000;
    let size = 64 + 56 + code.len() as u64 + 6;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [BASE + 120, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file.extend(b"hello\n");
    file
}

/// Creates a bundle that runs this program, under a filter that allows only these calls.
#[cfg(target_arch = "x86_64")]
fn minimal(allowed: &[&str]) -> Bundle {
    let bundle = Bundle::of(&["/hello"]);
    let path = bundle.path("rootfs/hello");
    std::fs::write(&path, hello()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let rules = json!([{ "names": allowed, "action": "SCMP_ACT_ALLOW" }]);
    let filter = json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules });
    bundle.set("/linux/seccomp", filter)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn execve_write_and_exit_group_are_enough_to_start_a_program() {
    if runtime_lacks(&["crun", "runc"], "they make more calls under the filter") {
        return;
    }
    for keeps_privileges in [true, false] {
        let bundle = minimal(&["execve", "write", "exit_group"]);
        let output = bundle.set("/process/noNewPrivileges", !keeps_privileges).run();
        assert_eq!((output.code(), output.out.as_str()), (7, "hello\n"), "{}", output.err);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_filter_that_refuses_everything_is_reported_without_a_hang() {
    if runtime_lacks(&["crun", "runc"], "they hang, or report nothing") {
        return;
    }
    // A filter requires a rule that allows a call. Calls with a higher number than all named ones return
    // ENOSYS, so the rule names one of the last.
    for (allowed, no_new_privileges) in [
        (&["futex_waitv"][..], true),
        (&["futex_waitv"], false),
        (&["write", "futex_waitv"], true),
        (&["execve"], true),
    ] {
        let output = minimal(allowed).set("/process/noNewPrivileges", no_new_privileges).run();
        if allowed == ["execve"] {
            assert_eq!((output.code(), output.err.as_str()), (132, ""));
            continue;
        }
        assert_eq!(output.code(), 1, "{allowed:?}: {}", output.err);
        assert!(output.err.contains("execve: Operation not permitted"), "{allowed:?}: {}", output.err);
    }
}

#[test]
fn a_missing_program_under_a_filter_that_refuses_exit_does_not_hang() {
    let refused = json!([{ "names": ["exit", "exit_group"], "action": "SCMP_ACT_ERRNO" }]);
    if runtime_lacks(&["crun", "runc"], "they look up the program earlier") {
        return;
    }
    for no_new_privileges in [true, false] {
        let bundle = Bundle::of(&["/nowhere"]).set("/linux/seccomp", filter(refused.clone()));
        let output = bundle.set("/process/noNewPrivileges", no_new_privileges).run();
        assert_eq!(output.code(), 1, "{}", output.err);
        assert!(output.err.contains("no such file or directory"), "{}", output.err);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_start_whose_filter_refuses_the_report_is_reported() {
    if runtime_lacks(&["crun", "runc"], "they hang, or report nothing") {
        return;
    }
    for no_new_privileges in [true, false] {
        let bundle = minimal(&["futex_waitv"]).set("/process/noNewPrivileges", no_new_privileges);
        bundle.create();
        let output = bundle.verb(&["start", bundle.id()]);
        assert_eq!(output.code(), 1, "{}", output.err);
        assert!(output.err.contains("execve: Operation not permitted"), "{}", output.err);
    }
}

#[test]
fn an_exec_with_a_listener_whose_first_process_is_killed_is_reported() {
    if runtime_lacks(&["crun", "runc"], "they start a process in other steps") {
        return;
    }
    let bundle = Bundle::sh("sleep 1000");
    let socket = bundle.path("listener");
    let (_agent, mut lines) = agent(&socket);
    let mut filter = filter(json!([{ "names": MKDIR, "action": "SCMP_ACT_NOTIFY" }]));
    filter["listenerPath"] = socket.to_str().unwrap().into();
    let bundle = bundle.set("/linux/seccomp", filter).up();
    lines.next();
    let before = bundle.processes().len();
    let exec = bundle.command(&["exec", bundle.id(), "true"]);
    let mut strace = Command::new("strace");
    // With this call the first process would report the process that continues.
    strace.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "signal=none",
        "-e",
        "inject=sendmsg:signal=KILL:when=1",
    ]);
    let output = crate::common::run_with(strace.arg(exec.get_program()).args(exec.get_args()), "");
    assert_eq!(output.code(), 255, "{}", output.err);
    assert!(output.err.contains("was ended by SIGKILL while it was set up"), "{}", output.err);
    crate::common::eventually("nothing is left of it", || bundle.processes().len() == before);
}
