//! `/proc/PID/status` and a pidfd's fdinfo: two parsers that must agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::parse;
use nspod_sandbox::census::read;

fuzz_target!(|text: &str| {
    let pids = parse::nspid(text);
    if let Some(pids) = &pids {
        let line = pids.iter().fold("NSpid:".to_owned(), |line, pid| line + "\t" + &pid.to_string());
        assert_eq!(parse::nspid(&format!("Name:\tx\n{line}\nVmPeak:\t1 kB\n")).as_ref(), Some(pids));
        assert_eq!(parse::fdinfo_pid(&format!("Pid:\t{}\n{line}\n", pids[0])), Some(pids[0]));
    }
    // The kernel prints a single line of them.
    if let Some(status) = read::status(text.as_bytes())
        && text.matches("NSpid").count() == 1
        && let Some(pids) = pids
        && !text.contains('\r')
    {
        assert_eq!(status.pids, pids);
    }
    let _ = parse::fdinfo_pid(text);
});
