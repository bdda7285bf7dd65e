//! Operation of a host: lists the containers of all engines with their use of memory and CPU time. With the path of a
//! cgroup, stops its processes for a second whenever the host's processes wait for memory.
//! `cargo run -p nspod-sandbox --example ops -- /background.slice`
use std::time::Duration;

use nspod_census::{Census, ContainerInfo, model};
use nspod_sandbox::cgroup_core::{Cgroup, Error, Hierarchy, Resource, Stall, Trigger, Usage};

/// A container, and its use of resources if it has its own cgroup.
type Found = (ContainerInfo, Option<Usage>);

/// Returns the containers of the host.
pub(crate) fn containers() -> Result<Vec<Found>, Box<dyn std::error::Error>> {
    let census = Census::take()?;
    let hierarchy = Hierarchy::detect()?;
    let usage = |container: &ContainerInfo| {
        let path = container.cgroup.as_deref().filter(|_| container.cgroup_is_own)?;
        // A container that has ended since the census has no cgroup.
        hierarchy.open(path).ok()?.usage().ok()
    };
    let containers = model::derive(census.processes(), census.host()).containers;
    let found = |container| (usage(&container), container);
    Ok(containers.into_iter().map(found).map(|(usage, container)| (container, usage)).collect())
}

/// Waits until the trigger fires, and stops the processes of the cgroup for a time. Returns whether it has fired.
pub(crate) fn relieve(
    cgroup: &Cgroup,
    pressure: &Trigger,
    patience: Option<Duration>,
    pause: Duration,
) -> Result<bool, Error> {
    let fired = pressure.wait(patience)?;
    if fired {
        cgroup.freeze()?;
        std::thread::sleep(pause);
        cgroup.thaw()?;
    }
    Ok(fired)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (container, usage) in containers()? {
        let memory = usage.as_ref().and_then(|usage| usage.memory.current);
        let cpu = usage.as_ref().and_then(|usage| usage.cpu.usage_usec).map(Duration::from_micros);
        println!(
            "{} with {} processes: {memory:?} bytes of memory, {cpu:?} of CPU time",
            container.cgroup.as_deref().unwrap_or("no cgroup"),
            container.pids.len()
        );
    }
    if let Some(path) = std::env::args().nth(1) {
        let cgroup = Hierarchy::detect()?.open(&path)?;
        let (tenth, window) = (Duration::from_millis(200), Duration::from_secs(2));
        let pressure = Trigger::host(Resource::Memory, Stall::Some, tenth, window)?;
        loop {
            relieve(&cgroup, &pressure, None, Duration::from_secs(1))?;
        }
    }
    Ok(())
}
