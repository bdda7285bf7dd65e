//! The log of a container, from the library.

use nspod_sandbox::log::{Log, LogLimit, LogReader};
use nspod_sandbox::store::Dir;
use nspod_sandbox::{Command, ErrorKind};

/// Returns a command with a log, and the directory of the log.
fn logged(program: &str) -> (tempfile::TempDir, Command) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::shared(temp.path(), || None).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", program]);
    command.init(true);
    command.log(Log::create(&dir, LogLimit { size: 4096, files: 2 }).unwrap());
    (temp, command)
}

fn text(dir: &tempfile::TempDir) -> String {
    let mut reader = LogReader::open(dir.path()).unwrap().unwrap();
    let mut buffer = [0; 8192];
    let n = reader.read(&mut buffer).unwrap();
    String::from_utf8(buffer[..n].into()).unwrap()
}

#[test]
fn a_log_requires_an_init() {
    let (_dir, mut command) = logged("true");
    assert!(command.plan().unwrap().to_string().contains("the init copies to 2 files of 4 KiB"));
    command.init(false);
    let error = command.plan().unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some("init")));
}

#[test]
fn the_stage_keeps_the_log_for_the_init_and_the_program_gets_none_of_its_descriptors() {
    if !nspod_testkit::root() {
        return;
    }
    for held in [false, true] {
        let (dir, mut command) = logged("echo out; echo err >&2; ls /proc/self/fd | wc -l");
        if held {
            command.hold();
        }
        let mut container = command.spawn().unwrap();
        if held {
            assert_eq!(text(&dir), "");
            container.start().unwrap();
        }
        assert!(container.wait().unwrap().status.success());
        container.delete().unwrap();
        // The fourth one is the directory itself.
        assert_eq!(text(&dir), "out\nerr\n4\n", "{held}");
    }
}
