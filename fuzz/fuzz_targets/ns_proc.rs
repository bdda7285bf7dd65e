//! Parsers of `/proc/PID/{status,stat,cgroup,mountinfo}` accept any bytes, and no line changes the meaning of
//! another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::proc::{self, Mount, Stat, Status};

fuzz_target!(|bytes: &[u8]| {
    if let Some(status) = Status::parse(bytes) {
        let (name, state) =
            (status.name.replace('\\', "\\\\").replace('\n', "\\n"), char::from(status.state));
        let pids: String = status.pids.iter().map(|pid| format!("\t{pid}")).collect();
        let text = format!(
            "Name:\t{name}\nState:\t{state} (x)\nPPid:\t{}\nUid:\t0\t{}\t0\t0\nNSpid:{pids}\n",
            status.parent, status.uid
        );
        // Spaces around a name do not survive, because they look like the separators of the file.
        if status.name.trim_ascii() == status.name && status.state.is_ascii_alphabetic() {
            assert_eq!(Status::parse(text.as_bytes()), Some(status), "{text}");
        }
    }
    let _ = Stat::parse(bytes);
    if let Some(path) = proc::cgroup(bytes) {
        assert_eq!(proc::cgroup(format!("1:cpu:/\n0::{path}\n").as_bytes()), Some(path));
    }
    let mounts: Vec<Mount> = proc::mounts(bytes).collect();
    let singly: Vec<Mount> = bytes.split(|b| *b == b'\n').filter_map(Mount::parse).collect();
    assert_eq!(mounts, singly);
    for mount in &mounts {
        let _ = (mount.root(), mount.point());
    }
});
