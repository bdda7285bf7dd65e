//! A build executor: runs the steps of a build without a network. A step sees the host's tools, the source at `/src`
//! and an output directory at `/out`, and nothing else of the host.
//! `cargo run -p nspod-sandbox --example build -- . /tmp/out 'grep -c ^name Cargo.lock >/out/count' 'cat /out/count'`
use std::path::Path;
use std::time::Duration;

use nspod_sandbox::spec::{Mount, MountKind, Root};
use nspod_sandbox::{Command, Error, Output, Overflow, Stdio};

/// Directories with compilers and libraries.
const TOOLS: [&str; 6] = ["/usr", "/bin", "/lib", "/lib64", "/sbin", "/etc/alternatives"];

/// Returns the command of one step.
fn step(source: &Path, output: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-e", "-c", script])
        .root(Root::Empty)
        .current_dir("/src")
        .envs([("HOME", "/tmp"), ("SOURCE_DATE_EPOCH", "0")])
        .hostname("build")
        .stderr(Stdio::Stdout)
        .timeout(Duration::from_secs(600))
        .cpu_time_max(Duration::from_secs(3600))
        .output_max(1 << 20, Overflow::Discard);
    // The mounts of `Command::new` come first: `/proc`, `/dev`, `/sys`, `/tmp` and `/run`.
    for tools in TOOLS.iter().filter(|path| Path::new(path).exists()) {
        command.mount(Mount::bind_ro(tools, tools));
    }
    command.mount(Mount::bind_ro(source, "/src")).mount(Mount::bind(output, "/out"));
    // Object files need not outlive the step.
    command.mount(Mount::new("/build", MountKind::Tmpfs { mode: Some(0o755) }));
    command
}

/// Runs the steps until one fails, and returns the log and the outcome of each. The directories are absolute paths.
pub(crate) fn build(source: &Path, output: &Path, steps: &[String]) -> Result<Vec<Output>, Error> {
    let mut done = Vec::new();
    for script in steps {
        let ended = step(source, output, script).output()?;
        let failed = !ended.outcome.status.success();
        done.push(ended);
        if failed {
            break;
        }
    }
    Ok(done)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, output, steps @ ..] = arguments.as_slice() else {
        return Err("usage: build SOURCE OUTPUT STEP...".into());
    };
    std::fs::create_dir_all(output)?;
    let done = build(&Path::new(source).canonicalize()?, &Path::new(output).canonicalize()?, steps)?;
    for (script, ended) in steps.iter().zip(done) {
        print!("$ {script}\n{}", String::from_utf8_lossy(&ended.stdout));
        println!("{}, {:?} of CPU time", ended.outcome.status, ended.outcome.cpu_time);
    }
    Ok(())
}
