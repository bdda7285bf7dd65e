//! The traced program of this package's tests: makes the directories of its arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    for dir in std::env::args_os().skip(1) {
        if let Err(error) = std::fs::create_dir(&dir) {
            eprintln!("{}: {error}", dir.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
