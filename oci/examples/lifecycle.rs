//! The life cycle of a container without the program nspod-oci: create, start, exec, kill, delete.
//!
//! ```text
//! lifecycle BUNDLE STATE_DIR
//! ```
//! The program of the bundle must run until it is killed, and its root file system must have
//! `/busybox`. Requires root.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use nspod_oci_runtime::{Bundle, Container, CreateOptions, ErrorKind, ExecOptions, Runtime, Status};

/// SIGKILL of signal(7).
const SIGKILL: i32 = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [bundle, root] = &args[..] else { return Err("usage: lifecycle BUNDLE STATE_DIR".into()) };
    for line in lifecycle(Path::new(bundle), Path::new(root))? {
        println!("{line}");
    }
    Ok(())
}

/// Runs a container from creation to deletion. Returns a description of each step.
///
/// # Errors
/// A step failed, or the container still exists after `delete`.
pub fn lifecycle(bundle: &Path, root: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let runtime = Runtime::new(root);
    let id = format!("lifecycle-{}", std::process::id());
    let container = Container::create(&runtime, &id, &Bundle::open(bundle)?, CreateOptions::default())?;
    let done = use_it(&container);
    // Remove the container even after an error: `force` kills its processes.
    container.delete(true)?;
    let mut lines = done?;
    match container.state() {
        Err(e) if e.kind() == ErrorKind::NotFound => lines.push("deleted".into()),
        other => return Err(format!("the container still exists: {other:?}").into()),
    }
    Ok(lines)
}

fn use_it(container: &Container) -> Result<Vec<String>, Box<dyn Error>> {
    let mut lines = vec![container.state()?.status.to_string()];
    container.start()?;
    lines.push(container.state()?.status.to_string());

    let args = ["/busybox", "sh", "-c", "exit 7"].map(Into::into).into();
    let mut process = container.exec(ExecOptions { args, ..ExecOptions::default() })?;
    lines.push(format!("exec: {}", process.wait()?.status));

    container.kill(SIGKILL, false)?;
    while container.state()?.status != Status::Stopped {
        std::thread::sleep(Duration::from_millis(5));
    }
    lines.push(container.state()?.status.to_string());
    Ok(lines)
}
