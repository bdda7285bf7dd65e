//! What `/proc` says about processes: any bytes, and no line changes what another says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nspod_census::read;

fuzz_target!(|bytes: &[u8]| {
    if let Some(status) = read::status(bytes) {
        let (name, state) =
            (status.name.replace('\\', "\\\\").replace('\n', "\\n"), char::from(status.state));
        let pids: String = status.pids.iter().map(|pid| format!("\t{pid}")).collect();
        let text = format!(
            "Name:\t{name}\nState:\t{state} (x)\nPPid:\t{}\nUid:\t0\t{}\t0\t0\nNSpid:{pids}\n",
            status.parent, status.uid
        );
        // Blanks around a name do not survive: they cannot be told from the file's own.
        if status.name.trim_ascii() == status.name && status.state.is_ascii_alphabetic() {
            assert_eq!(read::status(text.as_bytes()), Some(status), "{text}");
        }
    }
    if let Some(path) = read::cgroup(bytes) {
        assert_eq!(read::cgroup(format!("1:cpu:/\n0::{path}\n").as_bytes()), Some(path));
    }
    let mounts: Vec<_> = read::namespace_mounts(bytes).collect();
    let singly: Vec<_> = bytes.split(|b| *b == b'\n').flat_map(read::namespace_mounts).collect();
    assert_eq!(mounts, singly);
    for mount in &mounts {
        let link = format!("{}:[{}]", mount.kind, mount.ino);
        assert_eq!(read::link(link.as_bytes()), Some((mount.kind, mount.ino)));
    }
});
