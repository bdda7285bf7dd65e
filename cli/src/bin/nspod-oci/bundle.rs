//! The options of `create`, `run` and `restore`.

use std::path::Path;

use clap::Args;
use nspod_cli::error::Result;
use nspod_oci_runtime::{Bundle, CreateOptions, InheritedFds};

use crate::global::MaybePath;

// A doc comment would become the help of the command.
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// Directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: MaybePath,
    /// Send the master end of the terminal to this socket
    #[arg(long, value_name = "SOCKET", default_value = "", hide_default_value = true)]
    console_socket: MaybePath,
    /// Send a pidfd of the process to this socket
    #[arg(long, value_name = "SOCKET", default_value = "", hide_default_value = true)]
    pidfd_socket: MaybePath,
    /// Write the pid of the container's first process to a file
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pid_file: MaybePath,
    /// Enter the root by chroot instead of pivot_root, which cannot leave an initramfs
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass this many additional descriptors to the container, starting at 3
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u16,
    /// Id of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

impl BundleArgs {
    /// See [`InheritedFds::take`].
    pub(crate) fn inherited(&self) -> Result<InheritedFds> {
        Ok(InheritedFds::take(self.preserve_fds)?)
    }

    pub(crate) fn open(&self) -> Result<Bundle> {
        Ok(Bundle::open(self.bundle.get().unwrap_or(Path::new(".")))?)
    }

    pub(crate) fn options(&self, inherited: InheritedFds) -> CreateOptions {
        CreateOptions {
            console_socket: self.console_socket.owned(),
            pidfd_socket: self.pidfd_socket.owned(),
            pid_file: self.pid_file.owned(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            inherited,
            notify_socket: std::env::var_os("NOTIFY_SOCKET").map(Into::into),
        }
    }
}
