//! The kernel of the guest: Debian's package, unpacked in target/guest and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{install, sh};

const PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// Bootable image.
    pub(crate) image: PathBuf,
    /// Directory of the modules, `lib/modules/VERSION`, with `modules.dep`.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Returns the kernel in `cache`, and fetches it if there is none. Delete the directory to get the newest.
    pub(crate) fn get(cache: &Path) -> Result<Self> {
        let unpacked = cache.join("kernel");
        if !unpacked.exists() {
            fetch(&unpacked)
                .with_context(|| format!("Debian's package {PACKAGE} could not be fetched and unpacked"))?;
        }
        let modules = install::only_entry(&unpacked.join("lib/modules"))?;
        let version = modules.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self { image: unpacked.join(format!("boot/vmlinuz-{version}")), modules })
    }

    /// Returns the files of these modules and of the modules that they need, in loading order.
    pub(crate) fn load_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let path = self.modules.join("modules.dep");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let order = load_order(names, &text)
            .with_context(|| format!("{} does not list every module of {names:?}", path.display()))?;
        Ok(order.into_iter().map(|file| self.modules.join(file)).collect())
    }
}

fn fetch(unpacked: &Path) -> Result<()> {
    // The package is empty and depends on the newest kernel.
    let newest = || {
        let depends =
            sh::read(Command::new("apt-cache").args(["depends", "--important", "--no-recommends", PACKAGE]))?;
        let kernel = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"));
        Ok(kernel.with_context(|| format!("apt does not know what {PACKAGE} depends on"))?.to_owned())
    };
    install::unpack(newest, unpacked, |tree| {
        let modules = install::only_entry(&tree.join("lib/modules"))?;
        let version = modules.file_name().unwrap_or_default().to_owned();
        sh::run(Command::new("depmod").arg("-b").arg(tree).arg(version))
    })
}

/// Reads `modules.dep`. A line is `FILE: FILE...`: a module and its dependencies, which load from right to left.
fn load_order<'a>(names: &[&str], modules_dep: &'a str) -> Option<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in names {
        let (file, needs) = modules_dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(file, _)| module_name(file) == *name)?;
        for file in needs.split_whitespace().rev().chain([file]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Some(order)
}

/// Returns the module of a file: `virtio_blk` for `kernel/drivers/block/virtio_blk.ko`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES_DEP: &str = "\
kernel/fs/fuse/fuse.ko:
kernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/drivers/net/dummy-net.ko.xz: kernel/fs/fuse/virtiofs.ko kernel/fs/fuse/fuse.ko kernel/drivers/virtio/virtio.ko
";

    #[test]
    fn dependencies_of_a_module_load_before_it_and_once() {
        assert_eq!(
            load_order(&["fuse", "dummy_net"], MODULES_DEP).unwrap(),
            [
                "kernel/fs/fuse/fuse.ko",
                "kernel/drivers/virtio/virtio.ko",
                "kernel/fs/fuse/virtiofs.ko",
                "kernel/drivers/net/dummy-net.ko.xz",
            ]
        );
    }

    #[test]
    fn an_unknown_module_is_not_skipped() {
        assert_eq!(load_order(&["fuse", "nope"], MODULES_DEP), None);
    }
}
