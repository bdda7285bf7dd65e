//! Tests of the command line that both programs run.

use clap::Command;
use nspod_cli::manual::{self, ManArgs};

/// Checks the definitions of all commands, and that a manual page renders for each. `pages` are some of them.
pub(crate) fn check(program: fn() -> Command, pages: [&str; 3]) {
    program().debug_assert();
    check_descriptions(program);
    let dir = tempfile::tempdir().unwrap();
    manual::man(&ManArgs { dir: dir.path().into() }, program(), |_| Vec::new()).unwrap();
    for page in pages {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS") && text.len() > 500, "{page}");
    }
}

/// Checks that the list of commands describes each command as its own help does. `defer` reads the help of
/// an argument type only after its command was chosen, so the command and the argument type must have the
/// same text.
fn check_descriptions(program: fn() -> Command) {
    let mut built = program();
    built.build();
    for command in program().get_subcommands() {
        let said = |command: &Command| command.get_about().map(ToString::to_string);
        let name = command.get_name();
        assert!(said(command).is_some(), "{name}");
        assert_eq!(built.find_subcommand(name).and_then(said), said(command), "{name}");
    }
}
