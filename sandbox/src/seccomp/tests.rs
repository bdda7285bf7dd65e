//! Compares the compiled program with a direct evaluation of the profile, and with the kernel.

#![allow(unsafe_code)]

mod libseccomp;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use proptest::prelude::*;

use super::*;
use crate::arch::abis::ABIS;
use crate::seccomp::abi::Abi;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const SYS_ADMIN: u64 = 1 << 21;
const NATIVE: u32 = ABIS[0].audit;

/// Returns the number of a native call.
fn number(name: &str) -> Option<u32> {
    (ABIS[0].number)(name)
}

fn run(program: &[libc::sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    evaluate::run(program, arch, nr, args).expect("an instruction of the compiler's")
}

/// Returns the filter's return value for an action.
fn returned(action: Action, errno: Option<u16>) -> u32 {
    let data = u32::from(errno.unwrap_or(1));
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno => 0x0005_0000 | data,
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0,
        Action::Trap => 0x0003_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace => 0x7ff0_0000 | data,
        Action::Notify => 0x7fc0_0000,
    }
}

/// Evaluates the profile as its documentation describes, for a call as in struct seccomp_data.
fn model(profile: &Profile, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let default = returned(profile.default_action, profile.default_errno_ret);
    let of_x32 = ABIS.iter().any(|abi| abi.base > 0 && abi.audit == arch && nr >= abi.base);
    let Some(abi) = abi(arch, of_x32) else { return 0x8000_0000 };
    if (abi.base > 0 && nr < u32::MAX) || abi.audit != NATIVE {
        match profile.architectures.iter().any(|name| name == abi.name) {
            true => {}
            false if !of_x32 => return 0x8000_0000,
            false => {
                use Action::{KillProcess, KillThread, Trap};
                let kills = matches!(profile.default_action, KillProcess | KillThread | Trap);
                return if kills { default } else { ENOSYS };
            }
        }
    }
    let holds = |a: &Arg| {
        let cut = |value: u64| if abi.narrow { value & 0xffff_ffff } else { value };
        let (arg, value) = (cut(args[a.index as usize]), cut(a.value));
        match a.op {
            Op::Ne => arg != value,
            Op::Lt => arg < value,
            Op::Le => arg <= value,
            Op::Eq => arg == value,
            Op::Ge => arg >= value,
            Op::Gt => arg > value,
            Op::MaskedEq => arg & value == cut(a.value_two) & value,
        }
    };
    if nr == u32::MAX {
        return default;
    }
    // The strictest action of the rules for a call that a multiplexer makes.
    let through = |way: (u32, Arg)| {
        let rules = profile.syscalls.iter();
        let rules = rules.filter(|rule| rule.names.iter().any(|name| (abi.multiplexed)(name) == Some(way)));
        let returned = |rule: &Rule| returned(rule.action, rule.errno_ret);
        let rules: Vec<_> = rules.collect();
        let end = rules.iter().position(|rule| rule.args.is_empty());
        let tried = &rules[..end.map_or(rules.len(), |end| end + 1)];
        let by_action = |ret: &u32| (ret >> 16) as u16 as i16;
        let strictest = tried.iter().map(|rule| returned(rule)).min_by_key(by_action)?;
        (end.is_some() || by_action(&strictest) <= by_action(&default)).then_some(strictest)
    };
    let mut last = None;
    for rule in &profile.syscalls {
        let numbers: Vec<_> =
            rule.names.iter().filter_map(|n| (abi.number)(n)).map(|n| n + abi.base).collect();
        last = last.max(numbers.iter().copied().max());
        let twice = |a: &Arg| rule.args.iter().filter(|b| b.index == a.index).count() > 1;
        let matches = match rule.args.iter().any(twice) {
            true => rule.args.iter().any(holds),
            false => rule.args.iter().all(holds),
        };
        if numbers.contains(&nr) && matches {
            return returned(rule.action, rule.errno_ret);
        }
        for way in rule.names.iter().filter_map(|name| (abi.multiplexed)(name)) {
            let Some(ret) = through(way) else { continue };
            last = last.max(Some(way.0));
            if way.0 == nr && holds(&way.1) {
                return ret;
            }
        }
    }
    let newer = profile.default_action == Action::Errno && last.is_some_and(|last| nr > last);
    if newer { ENOSYS } else { default }
}

fn abi(audit: u32, x32: bool) -> Option<&'static Abi> {
    ABIS.iter().find(|abi| abi.audit == audit && (abi.base > 0) == x32)
}

fn action() -> impl Strategy<Value = Action> {
    use Action::*;
    prop::sample::select(vec![Allow, Errno, KillProcess, KillThread, Trap, Log, Trace, Notify])
}

/// Generates values near each other and near the edges of the halves, so that comparisons have both
/// results.
fn value() -> impl Strategy<Value = u64> {
    let edges = vec![
        0,
        1,
        2,
        0xffff_fffe,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 1,
        (2 << 32) - 1,
        u64::MAX - 1,
        u64::MAX,
    ];
    prop_oneof![4 => prop::sample::select(edges), 1 => any::<u64>()]
}

fn arg() -> impl Strategy<Value = Arg> {
    let op = prop::sample::select(vec![Op::Ne, Op::Lt, Op::Le, Op::Eq, Op::Ge, Op::Gt, Op::MaskedEq]);
    (0u32..6, value(), value(), op).prop_map(|(index, value, value_two, op)| Arg {
        index,
        value,
        value_two,
        op,
    })
}

/// Names that some ABIs lack, and calls that can be made in more than one way.
const FOREIGN: [&str; 9] =
    ["not_a_call", "_newselect", "socketcall", "ipc", "socket", "bind", "semop", "mmap2", "clock_gettime64"];

fn name() -> impl Strategy<Value = String> {
    let all: Vec<_> = syscalls::Sysno::iter().map(|s| s.name().to_owned()).collect();
    let few = all.iter().take(8).cloned().chain(FOREIGN.map(str::to_owned)).collect::<Vec<_>>();
    prop_oneof![prop::sample::select(few), prop::sample::select(all)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let errno = prop::option::of(0u16..4096);
    (prop::collection::vec(name(), 0..16), action(), errno, prop::collection::vec(arg(), 0..4)).prop_map(
        |(names, action, errno_ret, args)| Rule { names, action, errno_ret, args, ..Rule::default() },
    )
}

fn profile() -> impl Strategy<Value = Profile> {
    let errno = prop::option::of(0u16..4096);
    let names: Vec<_> = ABIS.iter().map(|abi| abi.name.to_owned()).collect();
    let architectures = prop::sample::subsequence(names, 0..=ABIS.len());
    (action(), errno, prop::collection::vec(rule(), 0..5), architectures).prop_map(
        |(default_action, default_errno_ret, syscalls, architectures)| {
            // A rule that can never apply is an error: keep the rules of each call up to the first
            // unconditional one.
            let mut decided = std::collections::HashSet::new();
            let syscalls = syscalls
                .into_iter()
                .map(|mut rule| {
                    rule.names.retain(|name| !decided.contains(name));
                    if rule.args.is_empty() {
                        decided.extend(rule.names.iter().cloned());
                    }
                    rule
                })
                .collect();
            Profile { default_action, default_errno_ret, syscalls, architectures, ..Profile::default() }
        },
    )
}

fn calls() -> impl Strategy<Value = Vec<(u32, [u64; 6])>> {
    let nr = prop_oneof![
        2 => 0u32..9,
        6 => 0u32..480,
        1 => prop::sample::select(vec![102, 117, u32::MAX]),
        1 => (0u32..480).prop_map(|n| n | 0x4000_0000),
        1 => any::<u32>(),
    ];
    prop::collection::vec((nr, prop::array::uniform6(value())), 200)
}

proptest! {
    #[test]
    fn the_program_decides_as_the_profile_says(profile in profile(), calls in calls(), other in any::<u32>()) {
        let program = profile.compile().unwrap();
        for (nr, args) in calls {
            for arch in ABIS.iter().map(|abi| abi.audit).chain([other]) {
                let (decided, meant) = (run(&program, arch, nr, args), model(&profile, arch, nr, args));
                prop_assert_eq!(decided, meant, "{:#x}: call {} {:?}", arch, nr, args);
            }
        }
    }

    #[test]
    fn a_profile_survives_its_json(profile in profile()) {
        let json = serde_json::to_string(&profile).unwrap();
        prop_assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    }

    #[test]
    fn the_standard_profile_decides_as_its_rules_say(capabilities in any::<u64>(), calls in calls()) {
        let profile = Profile::standard(capabilities);
        let program = profile.compile().unwrap();
        for (nr, args) in calls {
            prop_assert_eq!(run(&program, NATIVE, nr, args), model(&profile, NATIVE, nr, args), "call {} {:?}", nr, args);
        }
    }
}

#[test]
fn a_program_longer_than_a_jump_reaches_still_decides_right() {
    let arg = Arg { index: 0, value: 7, value_two: 0, op: Op::Eq };
    let mut profile = Profile { default_action: Action::Allow, ..Profile::default() };
    for (n, call) in syscalls::Sysno::iter().enumerate() {
        let (names, errno_ret) = (vec![call.name().to_owned()], Some(n as u16 + 1));
        profile.syscalls.push(Rule { names, errno_ret, args: vec![arg], ..Rule::default() });
    }
    let program = profile.compile().unwrap();
    assert!(program.len() > 2000);
    for nr in 0..500 {
        for value in [7, 8] {
            let args = [value, 0, 0, 0, 0, 0];
            assert_eq!(run(&program, NATIVE, nr, args), model(&profile, NATIVE, nr, args), "call {nr}");
        }
    }
}

#[test]
fn the_standard_profile_names_each_call_once() {
    let mut seen = std::collections::HashSet::new();
    for name in standard::all_names() {
        assert!(seen.insert(name), "{name} is there twice");
    }
}

/// Returns the standard profile's decision about a call.
fn standard(capabilities: u64, name: &str, first: u64) -> u32 {
    let program = Profile::standard(capabilities).compile().unwrap();
    run(&program, NATIVE, number(name).unwrap(), [first, 0, 0, 0, 0, 0])
}

#[test]
fn calls_that_no_namespace_contains_are_denied_with_any_capabilities() {
    for name in ["keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup", "nfsservctl"] {
        for capabilities in [0, u64::MAX] {
            assert_eq!(standard(capabilities, name, 0), EPERM, "{name}");
        }
    }
}

#[test]
fn a_capability_unlocks_its_calls_and_no_others() {
    let cases =
        [(21, "mount"), (21, "setns"), (39, "bpf"), (21, "bpf"), (22, "reboot"), (25, "clock_settime")];
    for (cap, name) in cases {
        assert_eq!(standard(1 << cap, name, 0), ALLOW, "{name} with {cap}");
        assert_eq!(standard(1 << 10, name, 0), EPERM, "{name} without");
    }
    assert_eq!(standard(!SYS_ADMIN, "unshare", 0), EPERM);
}

#[test]
fn clone_carries_namespaces_only_with_cap_sys_admin() {
    let thread = 0x3d_0f00;
    assert_eq!(standard(0, "clone", thread), ALLOW);
    for kind in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(standard(0, "clone", thread | kind), EPERM, "{kind:#x}");
        assert_eq!(standard(0, "clone", kind | 1 << 32), EPERM, "{kind:#x}");
        assert_eq!(standard(SYS_ADMIN, "clone", thread | kind), ALLOW, "{kind:#x}");
    }
    assert_eq!(standard(0, "clone3", 0), ENOSYS);
    assert_eq!(standard(SYS_ADMIN, "clone3", 0), ALLOW);
}

#[test]
fn sockets_that_no_namespace_contains_are_denied_even_with_a_filled_upper_half() {
    for family in (0..50).filter(|family| ![38, 40].contains(family)) {
        assert_eq!(standard(0, "socket", family), ALLOW, "{family}");
    }
    for family in [libc::AF_ALG, libc::AF_VSOCK] {
        for capabilities in [0, u64::MAX] {
            assert_eq!(standard(capabilities, "socket", family as u64), EPERM);
            assert_eq!(standard(capabilities, "socket", family as u64 | 1 << 32), EPERM);
        }
    }
    assert_eq!(standard(0, "personality", 0xffff_ffff), ALLOW);
    assert_eq!(standard(0, "personality", 0x40_0000), EPERM);
}

#[test]
fn calls_newer_than_the_profile_fail_with_enosys() {
    let program = Profile::standard(0).compile().unwrap();
    assert_eq!(run(&program, NATIVE, 600, [0; 6]), ENOSYS);
    assert_eq!(run(&program, NATIVE, 0x4000_0001, [0; 6]), ENOSYS);
}

fn parse(json: &str) -> Profile {
    serde_json::from_str(json).unwrap()
}

#[test]
fn dockers_profile_form_is_parsed_and_resolved() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
          {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
          {"architecture": "SCMP_ARCH_S390X", "subArchitectures": null}],
        "syscalls": [
          {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
          {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
          {"names": ["setns"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
          {"names": ["sync"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
          {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
           "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
          {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}}
        ]}"#,
    );
    let names = |p: Profile| p.syscalls.iter().flat_map(|r| r.names.clone()).collect::<Vec<_>>().join(" ");
    assert_eq!(names(profile.resolve(0, (6, 1))), "read ptrace clone clone3");
    assert_eq!(names(profile.resolve(SYS_ADMIN, (4, 7))), "read setns");
    assert!(profile.compile().unwrap_err().to_string().contains("call Profile::resolve first"));
    let resolved = profile.resolve(0, (6, 1));
    assert!(resolved.compile().is_ok());
    let native = ABIS[0].name;
    assert_eq!(
        resolved.architectures,
        [native, if native == "SCMP_ARCH_X86_64" { "SCMP_ARCH_X86" } else { "SCMP_ARCH_ARM" }]
    );
}

#[test]
fn an_unenforceable_rule_is_refused_with_its_path() {
    let with = |rule: &str| parse(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#));
    let message = |profile: Profile| profile.compile().unwrap_err().to_string();
    let m = message(with(r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#));
    assert!(m.contains("4096 is not an errno"), "{m}");
    let arg = r#""args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]"#;
    let m = message(with(&format!(r#"{{"names": ["read"], "action": "SCMP_ACT_TRAP", {arg}}}"#)));
    assert!(m.contains("no argument 6"), "{m}");
    let m = message(
        with(r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errno": "EFOO"}"#).resolve(0, (6, 1)),
    );
    assert!(m.contains("seccomp.syscalls[0].errno") && m.contains("\"EFOO\" is not an errno"), "{m}");
    let foreign = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#;
    assert!(message(parse(foreign)).contains("the profile is for SCMP_ARCH_S390X"));
}

#[test]
fn the_first_rule_that_names_a_call_decides_and_a_later_one_is_accepted() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["read", "chmod"], "action": "SCMP_ACT_LOG"}, {"names": ["chmod"], "action": "SCMP_ACT_TRAP"}]}"#,
    );
    let program = profile.compile().unwrap();
    for name in ["read", "chmod"] {
        assert_eq!(run(&program, NATIVE, number(name).unwrap(), [0; 6]), libc::SECCOMP_RET_LOG, "{name}");
    }
}

#[test]
fn dockers_old_form_has_one_name_in_a_rule() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"name": "mkdirat", "action": "SCMP_ACT_ERRNO", "args": []},
          {"name": "getpgid", "action": "SCMP_ACT_ERRNO",
           "args": [{"index": 0, "value": 7, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let program = profile.resolve(0, (6, 1)).compile().unwrap();
    for (name, first, ret) in [("mkdirat", 0, EPERM), ("getpgid", 7, EPERM), ("getpgid", 8, ALLOW)] {
        assert_eq!(run(&program, NATIVE, number(name).unwrap(), [first, 0, 0, 0, 0, 0]), ret, "{name}");
    }
    let both = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"name": "read", "names": ["write"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let error = serde_json::from_str::<Profile>(both).unwrap_err().to_string();
    assert!(error.contains("duplicate field `names`"), "{error}");
}

#[test]
fn podmans_name_of_an_errno_overrides_its_number() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "defaultErrno": "ENOSYS", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errno": "EINVAL"},
        {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71, "errno": ""}]}"#,
    );
    assert!(profile.compile().unwrap_err().to_string().contains("Profile::resolve"));
    let program = profile.resolve(0, (6, 1)).compile().unwrap();
    for (name, errno) in [("read", libc::EINVAL), ("write", libc::EPROTO), ("close", libc::ENOSYS)] {
        let ret = libc::SECCOMP_RET_ERRNO | errno as u32;
        assert_eq!(run(&program, NATIVE, number(name).unwrap(), [0; 6]), ret, "{name}");
    }
}

#[test]
fn every_call_is_found_by_its_name() {
    let native = (0..=syscalls::Sysno::last() as usize).filter_map(syscalls::Sysno::new);
    assert!(native.clone().count() > 300);
    for call in native {
        assert_eq!(number(call.name()), Some(call as u32));
    }
    assert_eq!(number("socketcall"), None);
}

#[test]
fn flags_equal_those_of_the_system_call() {
    let flags = r#"["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#;
    assert_eq!(
        parse(&format!(r#"{{"defaultAction": "SCMP_ACT_LOG", "flags": {flags}}}"#)).load_flags(),
        2 | 4
    );
    let flags = r#"["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#;
    for (action, load) in [("SCMP_ACT_NOTIFY", 8 | 32), ("SCMP_ACT_ALLOW", 1)] {
        let profile = parse(&format!(r#"{{"defaultAction": "{action}", "flags": {flags}}}"#));
        assert_eq!(profile.load_flags(), load, "{action}");
    }
}

/// Returns the errno (0 for success) of each call that a child makes under the filter.
fn under(profile: &Profile, calls: &[(libc::c_long, [libc::c_long; 3])]) -> Vec<i32> {
    let mut program = profile.compile().unwrap();
    let prog = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let mut pipe = [0; 2];
    let mut errnos = vec![0i32; calls.len() + 1];
    // SAFETY: `pipe` has room for two descriptors. The parent may have threads, so the child makes
    // only raw system calls on existing memory, and exits.
    unsafe {
        assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let errno = |ret: libc::c_long| if ret < 0 { *libc::__errno_location() } else { 0 };
            let load = libc::SECCOMP_SET_MODE_FILTER;
            errnos[0] = errno(libc::syscall(libc::SYS_seccomp, load, profile.load_flags(), &raw const prog));
            for (n, (nr, [a, b, c])) in calls.iter().enumerate() {
                errnos[n + 1] = errno(libc::syscall(*nr, *a, *b, *c, 0, 0, 0));
            }
            libc::write(pipe[1], errnos.as_ptr().cast(), size_of_val(&errnos[..]));
            libc::_exit(0);
        }
        libc::close(pipe[1]);
        let n = libc::read(pipe[0], errnos.as_mut_ptr().cast(), size_of_val(&errnos[..]));
        libc::close(pipe[0]);
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert_eq!((n as usize, status), (size_of_val(&errnos[..]), 0), "the child was ended by its filter");
    }
    assert_eq!(errnos.remove(0), 0, "seccomp(2)");
    errnos
}

#[test]
fn the_kernel_enforces_the_standard_profile() {
    let newuts = libc::c_long::from(libc::CLONE_NEWUTS);
    let calls = [
        (libc::SYS_getpid, [0; 3]),
        (libc::SYS_keyctl, [0; 3]),
        (libc::SYS_clone3, [0; 3]),
        (libc::SYS_unshare, [newuts, 0, 0]),
        (libc::SYS_clone, [newuts, 0, 0]),
        (libc::SYS_socket, [40, 1, 0]),
        (libc::SYS_socket, [38, 5, 0]),
        (libc::SYS_socket, [1, 1, 0]),
        (libc::SYS_personality, [0xffff_ffff, 0, 0]),
        (1000, [0; 3]),
    ];
    assert_eq!(under(&Profile::standard(0), &calls), [0, 1, 38, 1, 1, 1, 1, 0, 0, 38]);
    // The kernel rejects clone3 without arguments, and unshare(0) does nothing.
    let calls = [(libc::SYS_getpid, [0; 3]), (libc::SYS_clone3, [0; 3]), (libc::SYS_unshare, [0; 3])];
    assert_eq!(under(&Profile::standard(SYS_ADMIN), &calls), [0, libc::EINVAL, 0]);
}

#[test]
fn the_kernel_compares_arguments_as_the_profile_says() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71,
         "args": [{"index": 0, "value": 4294967296, "op": "SCMP_CMP_GE"}]},
        {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 72,
         "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NE"}, {"index": 1, "value": 5, "op": "SCMP_CMP_LT"}]}]}"#,
    );
    let call = |a, b| (libc::SYS_getpgid, [a, b, 0]);
    let calls = [call(0, 0), call(1 << 32, 9), call(-1, 9), call(7_000_000, 4), call(0, 4)];
    assert_eq!(under(&profile, &calls), [0, 71, 71, 72, 0]);
}
