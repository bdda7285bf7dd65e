//! A tool runner for an agent: a container is the session, and each tool is a call in it with its own limits, output
//! and end. Files in `/tmp` last as long as the session. Prints each result as JSON.
//! `cargo run -p nspod-sandbox --features tokio --example agent -- 'echo text >/tmp/a' 'cat /tmp/a; sleep 1000'`
use std::time::Duration;

use nspod_sandbox::cgroup_core::{Limits, Max};
use nspod_sandbox::{AsyncContainer, Command, Error, Output, Overflow, Stdio};

/// A session. Dropping it ends all its processes.
#[derive(Debug)]
pub(crate) struct Session(AsyncContainer);

fn limits(memory: u64, processes: u64) -> Limits {
    Limits {
        memory_max: Some(Max::Value(memory)),
        memory_swap_max: Some(Max::Value(0)),
        pids_max: Some(Max::Value(processes)),
        ..Limits::default()
    }
}

impl Session {
    /// Starts a session without a network. All its calls together have at most 256 MiB and 256 processes.
    pub(crate) async fn start() -> Result<Session, Error> {
        let mut command = Command::new("sleep");
        command.arg("infinity").user(65_534, 65_534).limits(limits(256 << 20, 256)).stdin(Stdio::Null);
        Ok(Session(command.spawn_async().await?))
    }

    /// Runs a tool, and ends it with all processes that it has started. If the future is dropped, the tool ends.
    pub(crate) async fn call(&self, script: &str) -> Result<Output, Error> {
        let mut call = self.0.call("sh")?;
        call.args(["-c", script])
            .stderr(Stdio::Stdout)
            .limits(limits(64 << 20, 64))
            .timeout(Duration::from_secs(10))
            .output_max(1 << 16, Overflow::Discard);
        call.output_async().await
    }

    /// Ends the session.
    pub(crate) async fn end(self) -> Result<(), Error> {
        self.0.delete().await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let session = Session::start().await?;
    for script in std::env::args().skip(1) {
        let output = session.call(&script).await?;
        let result = serde_json::json!({
            "output": String::from_utf8_lossy(&output.stdout),
            "truncated": output.truncated,
            "outcome": output.outcome,
        });
        println!("{result}");
    }
    Ok(session.end().await?)
}
