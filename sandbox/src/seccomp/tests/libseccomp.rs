//! The compiler against libseccomp, which runc and crun have: the same profile through both,
//! and both programs asked about the same calls. Python loads the library, so that none is
//! needed to build. The profile is podman's: of random ones libseccomp 2.5 compiles some wrongly
//! (for `semop` alone on i386 it compares the ABI where it means the number).
//!
//! Where the two may differ, and why:
//! - **Several rules match with different actions.** Here the first decides. libseccomp's are "a
//!   union, with no additional logic" (seccomp_rule_add(3)): which of them decides is not said.
//! - **A number above every one that is named**, under an errno as default: `ENOSYS` here, as
//!   runc has it too, by instructions that it puts before those of libseccomp.
//! - **An ABI that is not listed**: libseccomp kills the thread, and here the process is killed;
//!   x32 calls, which an x86_64 kernel may lack, give `ENOSYS` here.
//! - **Several rules of a call compare, and not all by `EQ` and `MASKED_EQ`**: libseccomp 2.5
//!   joins what it takes for the same comparison, and then misses a rule or finds one that does
//!   not match: of `< 0` and `< 1 << 32` neither is found for 0xffffffff, of `< 0` and
//!   `>= 1 << 32` one is for 2, and on i386 the second of "the fourth `!= 0` and the third `!= 0`"
//!   and "the third `>= 1`" is missed for 1. Such calls are left out; here each rule is tried,
//!   and the other test says that it is right.
//! - **x32's arguments** have 64 bits, as the kernel has them there (of `lseek`, say, it takes
//!   them all), and 64 are compared. libseccomp compares 32.
//! - **A name that x86_64 has not, while x32 is listed**: libseccomp 2.5 loses the rules of other
//!   calls (`_newselect` beside `read`), so such names are not tried.
//! - **`socketcall` and `ipc` with arguments**: what those that the filter cannot see come to is
//!   here the strictest that it may be. libseccomp compares the first as if it were the number
//!   of the call, or the wrong ones.
//! - **The upper half of the first argument of `ipc`** is a version, which the kernel cuts off.
//!   libseccomp takes it for a part of the number, so that a version evades the rule.

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
    /// `None` where Python or the library is missing, and that is said.
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

    /// The numbers that an ABI has for the names: below 0 where it has none, -1 where
    /// libseccomp does not know the name.
    fn numbers(&mut self, abi: &Abi, names: &[&str]) -> Vec<i64> {
        serde_json::from_value(self.ask(json!({ "arch": token(abi), "names": names })).unwrap()).unwrap()
    }

    /// `None` for rules that libseccomp takes for each other, and refuses as there already.
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

/// `SCMP_ARCH_*`, which for x32 is one that the kernel has not.
fn token(abi: &Abi) -> u32 {
    if abi.base > 0 { 0x4000_003e } else { abi.audit }
}

/// `enum scmp_compare`.
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

/// What a call comes to by each rule that matches it, and by the default where none does.
/// `None` where the two programs may differ (see above).
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
        // By a default that no rule has, it shows whether this one decides.
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

/// The names whose numbers in every ABI are libseccomp's as well.
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

/// Both programs, asked about a call in every ABI.
fn differ(
    profile: &Profile,
    ours: &[libc::sock_filter],
    theirs: &[libc::sock_filter],
    nr: u32,
    args: [u64; 6],
) -> Result<(), String> {
    for abi in ABIS {
        // A number as programs of the ABI give it.
        let nr = if abi.base > 0 && nr < abi.base { nr + abi.base } else { nr };
        let (ours, theirs) = (run(ours, abi.audit, nr, args), run(theirs, abi.audit, nr, args));
        let of_x32 = ABIS.iter().any(|x32| x32.base > 0 && x32.audit == abi.audit && nr >= x32.base);
        let listed =
            |abi: &Abi| abi.name == ABIS[0].name || profile.architectures.iter().any(|a| a == abi.name);
        let meant = ABIS.iter().any(|a| a.audit == abi.audit && (a.base > 0) == of_x32 && listed(a));
        let right = if nr == u32::MAX && ABIS.iter().any(|a| a.audit == abi.audit && listed(a)) {
            ours == theirs
        } else if !meant {
            // Neither makes the call.
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

/// Arguments around what the profile compares with.
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

/// The numbers of the calls whose arguments are compared, of the first `names` of each rule.
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
        // It names setns twice, and the second can never decide.
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
