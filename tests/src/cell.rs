//! A container whose program executes orders.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use ns_core::Kind;
use nspod_sandbox::spec::{Mount, MountKind, Root, Spec};
use nspod_sandbox::{Command, Container, Error, Files, Pod, PodSpec, Stdio};

use crate::orders::Orders;

/// Path of the probe in every container.
const INSIDE: &str = "/run/probe";

/// Returns the path of the program that executes orders, which cargo has built beside the tests.
///
/// # Panics
/// If the program is not there.
pub fn probe() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let mut places = own.ancestors().skip(1).take(2).map(|dir| dir.join("probe"));
    places
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("the program probe is missing near {}", own.display()))
}

fn bind() -> Mount {
    Mount { readonly: true, ..Mount::new(INSIDE, MountKind::Bind { source: probe(), recursive: false }) }
}

/// Returns the command of [`Command::new`] with the probe as its program.
pub fn command() -> Command {
    let mut command = Command::new(INSIDE);
    command.mount(bind());
    command
}

/// Returns the same command in a pod.
///
/// # Errors
/// As [`Pod::join`].
pub fn join(pod: &Pod) -> Result<Command, Error> {
    let mut command = command();
    pod.join(&mut command)?;
    Ok(command)
}

/// Returns a pod that shares exactly these kinds. If it shares mnt, it has the standard files.
pub fn pod(share: impl IntoIterator<Item = Kind>) -> PodSpec {
    let share = share.into_iter().collect::<ns_core::Kinds>();
    let files = share.contains_kind(Kind::Mnt).then(|| {
        let mut mounts = Spec::new("").mounts;
        mounts.push(bind());
        Files { root: Root::HostReadOnly, mounts }
    });
    PodSpec { share, files, ..PodSpec::default() }
}

/// A container and the connection to its program.
#[derive(Debug)]
pub struct Cell {
    /// The container.
    pub container: Container,
    orders: Orders,
}

impl Cell {
    /// Starts the container and waits until its program answers.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    ///
    /// # Panics
    /// If the probe does not answer.
    pub fn start(command: &mut Command) -> Result<Cell, Error> {
        command.stdin(Stdio::Piped).stdout(Stdio::Piped);
        let mut container = command.spawn()?;
        let (to, from) = (container.stdin.take(), container.stdout.take());
        let mut orders = Orders::new(to.expect("a pipe"), from.expect("a pipe"));
        assert_eq!(orders.order("ping").as_deref(), Ok("pong"), "{:?}", container.spec());
        Ok(Cell { container, orders })
    }
}

impl Deref for Cell {
    type Target = Orders;

    fn deref(&self) -> &Orders {
        &self.orders
    }
}

impl DerefMut for Cell {
    fn deref_mut(&mut self) -> &mut Orders {
        &mut self.orders
    }
}
