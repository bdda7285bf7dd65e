//! Encoding of the last steps of a start for the stage: a few kilobytes of machine code
//! (`init/init.rs`) that the child executes from a sealed memory file.
//!
//! The head of `init/init.rs` describes the format.

use std::ffi::{CStr, CString, c_long};

use crate::error::{Error, ErrorKind};
use crate::plan::data::Plan;
use crate::plan::handles::Hold;
use crate::plan::numbers;
use crate::step::{CStrings, Call, Exec, Hook, Step, capability_words};

/// Kinds of operations.
const CALL: u64 = 0;
const CLONE: u64 = 1;
const HOLD: u64 = 2;
const LISTEN: u64 = 3;
const LABEL: u64 = 4;
const HOOK: u64 = 5;
const EXECUTE: u64 = 6;
const EXECUTE_FILE: u64 = 7;
const TELL: u64 = 8;

/// Number of words in the header: the record, the mark, and two counts.
const HEADER: usize = 4;
const WORD: usize = size_of::<u64>();
/// Number of words in an operation.
const OPERATION: usize = 8;
const NO_DESCRIPTOR: u64 = -1i64 as u64;

/// An argument of an operation.
#[derive(Clone, Copy)]
enum Arg {
    Number(u64),
    /// An offset in the data, which the stage converts to an address.
    Data(usize),
}

/// Encodes the steps of the plan from index `first` to the end.
///
/// # Errors
/// The stage cannot perform one of the steps. This is a bug of this library.
pub(super) fn encode(plan: &Plan, first: usize) -> Result<Vec<u8>, Error> {
    let mut blob = Blob::default();
    let high = plan.highest_fd();
    // The embedded init keeps its report socket, its exit status file, `cgroup.kill` and the log across its exec.
    let closing = high + if plan.spec.has_init() { numbers::BLOB } else { numbers::REPORT };
    let mut close = |from: i32, to: u64| {
        let range = [from as u64, to, u64::from(libc::CLOSE_RANGE_CLOEXEC)];
        blob.call(first, Call::CloseRange, libc::SYS_close_range, &range.map(Arg::Number), 0);
    };
    match &plan.log {
        Some(_) => {
            close(closing, (high + numbers::OUTPUT - 1) as u64);
            close(plan.above(), u32::MAX.into());
        }
        None => close(closing, u32::MAX.into()),
    }
    for (at, step) in plan.steps.iter().enumerate().skip(first) {
        blob.step(plan, at, step)?;
    }
    Ok(blob.finish())
}

#[derive(Default)]
struct Blob {
    /// Kind, flags and arguments of each operation.
    operations: Vec<(u64, u64, [Arg; 6])>,
    data: Vec<u8>,
    /// Positions of words in the data that hold an offset in the data.
    pointers: Vec<usize>,
}

impl Blob {
    fn step(&mut self, plan: &Plan, at: usize, step: &Step) -> Result<(), Error> {
        use Arg::{Data, Number};
        let high = plan.highest_fd();
        let fd = |number: i32| Number((high + number) as u64);
        match step {
            Step::Clone(_) => self.push(CLONE, at, Call::Clone, 0, &[], 0),
            Step::Setsid => self.call(at, Call::Setsid, libc::SYS_setsid, &[], 0),
            Step::ControllingTerminal => {
                let args = [Number(0), Number(libc::TIOCSCTTY), Number(0)];
                self.call(at, Call::Ioctl, libc::SYS_ioctl, &args, 0);
            }
            Step::Capabilities { effective, permitted, inheritable } => {
                let (header, sets) = capability_words(*effective, *permitted, *inheritable);
                let args = [Data(self.half_words(&header)), Data(self.half_words(&sets))];
                self.call(at, Call::Capset, libc::SYS_capset, &args, 0);
            }
            Step::Ambient(mask) => {
                let mut prctl = |option: i32, capability: u64| {
                    let args = [libc::PR_CAP_AMBIENT as u64, option as u64, capability, 0, 0];
                    self.call(at, Call::Prctl, libc::SYS_prctl, &args.map(Number), 0);
                };
                prctl(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0);
                for capability in (0..64).filter(|n| mask >> n & 1 == 1) {
                    prctl(libc::PR_CAP_AMBIENT_RAISE, capability);
                }
            }
            Step::Signals => {
                let none = self.words(&[0]);
                let args = [Number(libc::SIG_SETMASK as u64), Data(none), Number(0), Number(8)];
                self.call(at, Call::Sigprocmask, libc::SYS_rt_sigprocmask, &args, 0);
            }
            Step::Seccomp { filter, flags } => {
                let program = self.filter(filter);
                let set = Number(libc::SECCOMP_SET_MODE_FILTER.into());
                let args = [set, Number(*flags), Data(program)];
                let kind = if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 { CALL } else { LISTEN };
                self.push(kind, at, Call::Seccomp, libc::SYS_seccomp, &args, 0);
            }
            Step::Label { lsm, text, .. } => {
                let (path, length) = (self.string(lsm.file()), text.as_bytes().len());
                let args = [fd(numbers::PROC), Data(path), Data(self.string(text)), Number(length as u64)];
                self.push(LABEL, at, Call::Openat2, 0, &args, 0);
            }
            Step::Hold => {
                let pipes = matches!(plan.held, Some(Hold::At(_)));
                let args = match pipes {
                    true => [fd(numbers::GO), fd(numbers::LATE)],
                    false => [Number(NO_DESCRIPTOR); 2],
                };
                self.push(HOLD, at, Call::Read, 0, &args, 0);
            }
            Step::Started => self.push(TELL, at, Call::Write, 0, &[], 0),
            Step::Hook(Hook { path, argv, envp, timeout, .. }) => {
                let (path, argv, envp) = (self.string(path), self.strings(argv), self.strings(envp));
                let seconds = Number(timeout.unwrap_or(0).into());
                let args = [Data(path), Data(argv), Data(envp), fd(numbers::STATE), seconds];
                self.push(HOOK, at, Call::Wait4, 0, &args, 0);
            }
            Step::Exec(Exec { file: Some(_), argv, envp, .. }) => {
                let (empty, argv, envp) = (self.string(c""), self.strings(argv), self.strings(envp));
                let flags = Number(libc::AT_EMPTY_PATH as u64);
                let args = [fd(numbers::IMAGE), Data(empty), Data(argv), Data(envp), flags];
                self.push(EXECUTE_FILE, at, Call::Execveat, libc::SYS_execveat, &args, 0);
            }
            Step::Exec(Exec { candidates, argv, envp, .. }) => {
                let count = Number(candidates.len() as u64);
                let paths = self.array(candidates);
                let args = [Data(paths), count, Data(self.strings(argv)), Data(self.strings(envp))];
                self.push(EXECUTE, at, Call::Execve, 0, &args, 0);
            }
            other => {
                let what = format!("cannot {other}: the stage cannot perform this step");
                return Err(Error::new(ErrorKind::InvalidSpec, "plan", what));
            }
        }
        Ok(())
    }

    fn call(&mut self, at: usize, call: Call, nr: c_long, args: &[Arg], tolerated: i32) {
        self.push(CALL, at, call, nr, args, tolerated);
    }

    fn push(&mut self, kind: u64, at: usize, call: Call, nr: c_long, args: &[Arg], tolerated: i32) {
        let mut all = [Arg::Number(0); 6];
        all.iter_mut().zip(args).for_each(|(to, from)| *to = *from);
        let head = kind | (call as u64) << 8 | (at as u64) << 16 | (tolerated as u64) << 32;
        self.operations.push((head, nr as u64, all));
    }

    /// Adds bytes at the next word boundary, and returns their offset.
    fn bytes(&mut self, bytes: &[u8]) -> usize {
        self.data.resize(self.data.len().next_multiple_of(WORD), 0);
        let at = self.data.len();
        self.data.extend(bytes);
        at
    }

    fn words(&mut self, words: &[u64]) -> usize {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.bytes(&bytes)
    }

    fn half_words(&mut self, words: &[u32]) -> usize {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.bytes(&bytes)
    }

    fn string(&mut self, text: &CStr) -> usize {
        self.bytes(text.to_bytes_with_nul())
    }

    fn strings(&mut self, strings: &CStrings) -> usize {
        self.array(strings.strings())
    }

    /// Adds strings and a NULL-terminated array of pointers to them.
    fn array(&mut self, strings: &[CString]) -> usize {
        let mut pointers: Vec<u64> = strings.iter().map(|text| self.string(text) as u64).collect();
        pointers.push(0);
        let at = self.words(&pointers);
        self.pointers.extend((0..strings.len()).map(|n| at + n * WORD));
        at
    }

    /// Adds a `struct sock_fprog`.
    fn filter(&mut self, filter: &[libc::sock_filter]) -> usize {
        let mut code = Vec::with_capacity(size_of_val(filter));
        for instruction in filter {
            code.extend(instruction.code.to_ne_bytes());
            code.extend([instruction.jt, instruction.jf]);
            code.extend(instruction.k.to_ne_bytes());
        }
        let code = self.bytes(&code);
        // The length is a `short`; padding follows up to the pointer.
        let mut length = [0; WORD];
        length[..2].copy_from_slice(&(filter.len() as u16).to_ne_bytes());
        let at = self.words(&[u64::from_ne_bytes(length), code as u64]);
        self.pointers.push(at + WORD);
        at
    }

    fn finish(self) -> Vec<u8> {
        let pointing = self.operations.iter().flat_map(|(.., args)| args);
        let relocations = self.pointers.len() + pointing.filter(|arg| matches!(arg, Arg::Data(_))).count();
        let operations = (HEADER + relocations) * WORD;
        let data = operations + self.operations.len() * OPERATION * WORD;
        let mut blob: Vec<u64> = vec![0, 0, relocations as u64, self.operations.len() as u64];
        blob.extend(self.pointers.iter().map(|at| (data + at) as u64));
        for (n, (.., args)) in self.operations.iter().enumerate() {
            for (m, _) in args.iter().enumerate().filter(|(_, arg)| matches!(arg, Arg::Data(_))) {
                blob.push((operations + (n * OPERATION + 2 + m) * WORD) as u64);
            }
        }
        for (head, nr, args) in &self.operations {
            blob.extend([*head, *nr]);
            blob.extend(args.iter().map(|arg| match arg {
                Arg::Number(number) => *number,
                Arg::Data(at) => (data + at) as u64,
            }));
        }
        let mut bytes: Vec<u8> = blob.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut content = self.data;
        for at in self.pointers {
            let place = &mut content[at..at + WORD];
            let offset = u64::from_ne_bytes(place.try_into().unwrap_or_default()) + data as u64;
            place.copy_from_slice(&offset.to_ne_bytes());
        }
        bytes.extend(content);
        bytes
    }
}
