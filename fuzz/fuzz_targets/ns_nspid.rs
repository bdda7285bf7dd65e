//! `/proc/PID/status` and a pidfd's fdinfo.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::proc;

fuzz_target!(|text: &[u8]| {
    if let Some(pids) = proc::nspid(text) {
        let line = pids.iter().fold("NSpid:".to_owned(), |line, pid| line + "\t" + &pid.to_string());
        assert_eq!(
            proc::nspid(format!("Name:\tx\n{line}\nVmPeak:\t1 kB\n").as_bytes()).as_ref(),
            Some(&pids)
        );
        assert_eq!(proc::fdinfo_pid(format!("Pid:\t{}\n{line}\n", pids[0]).as_bytes()), Some(pids[0]));
    }
    let _ = (proc::fdinfo_pid(text), proc::Stat::parse(text));
});
