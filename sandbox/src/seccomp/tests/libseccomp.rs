//! Compares the compiler with libseccomp, which runc and crun use: both compile the same profile,
//! and both programs decide the same calls. Python loads the library, so that the build does not
//! require it. The profile is podman's. libseccomp 2.5 compiles some random profiles wrongly (for
//! `semop` alone on i386 it compares the ABI instead of the number).
//!
//! The two may differ in these cases:
//! - **Several rules match with different actions.** Here the first rule decides. In libseccomp
//!   rules are "a union, with no additional logic" (seccomp_rule_add(3)): which of them decides is
//!   undefined.
//! - **The number is above all named numbers**, and the default is an errno. The result here is
//!   `ENOSYS`, as in runc, which inserts its own instructions before those of libseccomp.
//! - **The ABI is not listed.** libseccomp kills the thread; here the process is killed. x32 calls,
//!   which an x86_64 kernel may not support, fail with `ENOSYS` here.
//! - **Several rules of a call compare arguments, and some use other operators than `EQ` and
//!   `MASKED_EQ`.** libseccomp 2.5 merges comparisons that it considers equal. It then misses a
//!   rule, or applies one that does not match. With `< 0` and `< 1 << 32`, it finds neither for
//!   0xffffffff. With `< 0` and `>= 1 << 32`, it finds one for 2. On i386, with the rules "the
//!   fourth `!= 0` and the third `!= 0`" and "the third `>= 1`", it misses the second for 1. Such
//!   calls are excluded. Here each rule is tried, and the other test checks the result.
//! - **Arguments of x32.** They have 64 bits in the kernel (for `lseek`, for example, it reads all
//!   of them), and 64 bits are compared here. libseccomp compares 32.
//! - **x86_64 lacks a name, while x32 is listed.** libseccomp 2.5 loses the rules of other calls
//!   (`_newselect` beside `read`), so such names are excluded.
//! - **`socketcall` and `ipc` with arguments.** A filter cannot read the arguments, and here the
//!   strictest possible action applies. libseccomp compares the first argument as if it were the
//!   number of the call, or compares the wrong arguments.
//! - **The upper half of the first argument of `ipc`.** It is a version, which the kernel removes.
//!   libseccomp treats it as a part of the number, so that a version evades the rule.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use super::*;

struct Libseccomp {
    _child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Libseccomp {
    /// Returns `None`, and prints a message, if Python or the library is missing.
    fn get() -> Option<&'static Mutex<Libseccomp>> {
        static ONE: OnceLock<Option<Mutex<Libseccomp>>> = OnceLock::new();
        ONE.get_or_init(|| match Libseccomp::start() {
            Ok(one) => Some(Mutex::new(one)),
            Err(why) => {
                nspod_testkit::skip(&format!("libseccomp cannot be used: {why}"));
                None
            }
        })
        .as_ref()
    }

    fn start() -> Result<Libseccomp, String> {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("libseccomp.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("python3: {e}"))?;
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut one = Libseccomp { _child: child, stdin, stdout };
        match one.line().as_str() {
            "\"ready\"\n" => Ok(one),
            _ => Err("python3 could not load libseccomp.so.2".to_owned()),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn ask(&mut self, request: Value) -> Result<Value, String> {
        writeln!(self.stdin, "{request}").unwrap();
        let answer: Value = serde_json::from_str(&self.line()).expect("Python ended, and said why");
        match answer.get("error") {
            Some(error) => Err(format!("libseccomp: {error}")),
            None => Ok(answer),
        }
    }

    /// Returns an ABI's numbers for the names: a negative number if the ABI lacks the call, and -1
    /// if libseccomp does not know the name.
    fn numbers(&mut self, abi: &Abi, names: &[&str]) -> Vec<i64> {
        serde_json::from_value(self.ask(json!({ "arch": token(abi), "names": names })).unwrap()).unwrap()
    }

    /// Returns `None` if libseccomp rejects a rule because it considers the rule a duplicate.
    fn compile(&mut self, profile: &Profile) -> Result<Option<Vec<libc::sock_filter>>, String> {
        let archs: Vec<_> = ABIS
            .iter()
            .filter(|abi| profile.architectures.iter().any(|a| a == abi.name))
            .map(token)
            .collect();
        let rules = profile.syscalls.iter().map(|rule| {
            let args =
                rule.args.iter().map(|arg| json!([arg.index, number_of(arg.op), arg.value, arg.value_two]));
            json!([rule.names, returned(rule.action, rule.errno_ret), args.collect::<Vec<_>>()])
        });
        let default = returned(profile.default_action, profile.default_errno_ret);
        let rules: Vec<_> = rules.collect();
        let answer = self.ask(json!({ "default": default, "archs": archs, "rules": rules }))?;
        let Some(hex) = answer.as_str() else { return Ok(None) };
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect();
        let instruction = |b: &[u8]| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        Ok(Some(bytes.chunks_exact(8).map(instruction).collect()))
    }
}

/// Returns `SCMP_ARCH_*`. The value for x32 does not exist in the kernel.
fn token(abi: &Abi) -> u32 {
    if abi.base > 0 { 0x4000_003e } else { abi.audit }
}

/// Returns the value of `enum scmp_compare`.
fn number_of(op: Op) -> u32 {
    match op {
        Op::Ne => 1,
        Op::Lt => 2,
        Op::Le => 3,
        Op::Eq => 4,
        Op::Ge => 5,
        Op::Gt => 6,
        Op::MaskedEq => 7,
    }
}

/// Returns the actions of all rules that match a call, or the default if none matches. Returns
/// `None` if the two programs may differ (see above).
fn outcomes(profile: &Profile, abi: &Abi, nr: u32, args: [u64; 6]) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    let direct = |name: &String| (abi.number)(name).is_some_and(|number| number + abi.base == nr);
    let by_another = |name: &String| (abi.multiplexed)(name).is_some_and(|(number, _)| number == nr);
    let (mut comparing, mut only_equal) = (0, true);
    for rule in &profile.syscalls {
        let compares = !rule.args.is_empty();
        if rule.names.iter().any(by_another) {
            if compares || args[0] > 0xffff {
                return None;
            }
        } else if !rule.names.iter().any(direct) {
            continue;
        }
        let high =
            rule.args.iter().flat_map(|arg| [arg.value, arg.value_two]).chain(args).any(|v| v >> 32 > 0);
        if abi.base > 0 && compares && high {
            return None;
        }
        comparing += usize::from(compares);
        only_equal &= rule.args.iter().all(|arg| matches!(arg.op, Op::Eq | Op::MaskedEq));
        // No rule has this default, so the result shows whether this rule matches.
        let one = Profile {
            default_action: Action::Trace,
            default_errno_ret: Some(4095),
            architectures: profile.architectures.clone(),
            syscalls: vec![rule.clone()],
            ..Profile::default()
        };
        let ret = model(&one, abi.audit, nr, args);
        if ret != returned(Action::Trace, Some(4095)) {
            found.push(ret);
        }
    }
    if found.is_empty() {
        found.push(returned(profile.default_action, profile.default_errno_ret));
    }
    (comparing < 2 || only_equal).then_some(found)
}

/// Returns the names whose numbers are the same in libseccomp for every ABI.
fn known() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let Some(libseccomp) = Libseccomp::get() else { return Vec::new() };
        let mut libseccomp = libseccomp.lock().unwrap();
        let names: Vec<_> = all_names().collect();
        let mut same = vec![true; names.len()];
        for abi in ABIS {
            for (n, theirs) in libseccomp.numbers(abi, &names).into_iter().enumerate() {
                let ours = (abi.number)(names[n]).map(|number| i64::from(number + abi.base));
                let both_ways = theirs < -1 && (abi.multiplexed)(names[n]).is_some();
                same[n] &= ours == Some(theirs) || both_ways || theirs < -1 && ours.is_none();
            }
        }
        let known = names.iter().zip(same).filter(|(_, same)| *same).map(|(name, _)| (*name).to_owned());
        let known: Vec<_> = known.collect();
        assert!(known.len() > 300, "{}", known.len());
        known
    })
}

fn all_names() -> impl Iterator<Item = &'static str> {
    syscalls::Sysno::iter().map(|call| call.name()).chain(FOREIGN)
}

/// Checks that both programs decide a call in the same way, in every ABI.
fn differ(
    profile: &Profile,
    ours: &[libc::sock_filter],
    theirs: &[libc::sock_filter],
    nr: u32,
    args: [u64; 6],
) -> Result<(), String> {
    for abi in ABIS {
        // The number that programs of the ABI use.
        let nr = if abi.base > 0 && nr < abi.base { nr + abi.base } else { nr };
        let (ours, theirs) = (run(ours, abi.audit, nr, args), run(theirs, abi.audit, nr, args));
        let of_x32 = ABIS.iter().any(|x32| x32.base > 0 && x32.audit == abi.audit && nr >= x32.base);
        let listed =
            |abi: &Abi| abi.name == ABIS[0].name || profile.architectures.iter().any(|a| a == abi.name);
        let meant = ABIS.iter().any(|a| a.audit == abi.audit && (a.base > 0) == of_x32 && listed(a));
        let right = if nr == u32::MAX && ABIS.iter().any(|a| a.audit == abi.audit && listed(a)) {
            ours == theirs
        } else if !meant {
            // Neither program allows the call.
            theirs == libc::SECCOMP_RET_KILL_THREAD && ours != ALLOW && ours != libc::SECCOMP_RET_LOG
        } else {
            let abi = ABIS.iter().find(|a| a.audit == abi.audit && (a.base > 0) == of_x32).unwrap();
            let newer = profile.default_action == Action::Errno && ours == ENOSYS;
            let default = returned(profile.default_action, profile.default_errno_ret);
            match outcomes(profile, abi, nr, args) {
                None => true,
                Some(all) if all.iter().all(|one| *one == all[0]) => {
                    ours == theirs || newer && theirs == default && all[0] == default
                }
                Some(all) => ours == all[0] && all.contains(&theirs),
            }
        };
        if !right {
            return Err(format!("{}: call {nr} {args:x?}: {ours:#x}, and libseccomp {theirs:#x}", abi.name));
        }
    }
    Ok(())
}

/// Returns arguments near the values that the profile compares with.
fn arguments(profile: &Profile) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6], [u64::MAX; 6]];
    for arg in profile.syscalls.iter().flat_map(|rule| &rule.args) {
        for value in [arg.value, arg.value_two] {
            for near in
                [value.wrapping_sub(1), value, value.wrapping_add(1), value ^ 1 << 32, value ^ 1 << 31]
            {
                for mut args in [all[0], all[1]] {
                    args[arg.index as usize] = near;
                    all.push(args);
                }
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns the numbers of calls whose arguments are compared, from the first `names` of each rule.
fn comparing(profile: &Profile, names: usize) -> Vec<u32> {
    let rules = profile.syscalls.iter().filter(|rule| !rule.args.is_empty());
    let names = rules.flat_map(|rule| rule.names.iter().take(names));
    names.flat_map(|name| ABIS.iter().filter_map(|abi| (abi.number)(name))).collect()
}

#[test]
fn libseccomp_decides_podmans_profile_alike() {
    let Some(libseccomp) = Libseccomp::get() else { return };
    let json = match std::fs::read("/usr/share/containers/seccomp.json") {
        Ok(json) => json,
        Err(e) => {
            return nspod_testkit::skip(&format!("podman's profile cannot be read: {e}"));
        }
    };
    let podmans: Profile = serde_json::from_slice(&json).unwrap();
    for capabilities in [0, 0x8000_05fb, u64::MAX] {
        let mut profile = podmans.resolve(capabilities, (6, 1));
        // The profile names setns twice, and the second rule can never decide.
        let mut named = false;
        for rule in &mut profile.syscalls {
            rule.names.retain(|name| name != "setns" || !std::mem::replace(&mut named, true));
            let lacks = |name: &String| all_names().any(|one| one == name) && !known().contains(name);
            rule.names.retain(|name| !lacks(name));
        }
        for narrower in [&ABIS[..1], ABIS] {
            let architectures = narrower.iter().map(|abi| abi.name.to_owned()).collect();
            let profile = Profile { architectures, ..profile.clone() };
            let (ours, theirs) =
                (profile.compile().unwrap(), libseccomp.lock().unwrap().compile(&profile).unwrap().unwrap());
            for nr in (0..600).chain([u32::MAX - 1, u32::MAX]) {
                differ(&profile, &ours, &theirs, nr, [0; 6]).unwrap();
            }
            for args in arguments(&profile) {
                for nr in comparing(&profile, usize::MAX) {
                    differ(&profile, &ours, &theirs, nr, args).unwrap();
                }
            }
        }
    }
}
