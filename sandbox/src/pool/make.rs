//! Makes the entries, in the pool's thread.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use ns_core::{Kind, Kinds, Namespace};

use crate::cgroups::ContainerCgroup;
use crate::error::Error;
use crate::parent::CgroupParent;
use crate::plan::Plan;
use crate::spawn::perform_ahead;
use crate::spec::{Mount, MountKind, Root, Spec};

/// Namespaces without processes, and mounts of `/dev`.
pub(super) struct Namespaces {
    pub(super) namespaces: Vec<(OwnedFd, Kinds)>,
    pub(super) dev: Vec<OwnedFd>,
}

pub(super) struct Maker {
    /// The thread's own namespaces, to which it returns.
    home: Vec<Namespace>,
    /// A plan whose steps include those of a `/dev`.
    plan: Option<Plan>,
    cgroup_parent: Option<PathBuf>,
    /// The library's parent of cgroups, if it is known already.
    known: Option<Arc<CgroupParent>>,
}

impl Maker {
    /// Separates this thread from the process, and plans the `/dev` if it is wanted.
    pub(super) fn new(dev: bool, cgroups: bool, cgroup_parent: Option<&Path>) -> Result<Maker, Error> {
        // From here on this thread has its own working directory and umask.
        unshare(CloneFlags::CLONE_FS).map_err(|e| {
            Error::call("namespace", "separate the pool's thread from the process", "unshare", e as i32)
        })?;
        let kinds: &[Kind] = if dev { &[Kind::Net, Kind::Ipc] } else { &[Kind::Net] };
        let home = kinds.iter().map(|kind| Namespace::current(*kind)).collect::<Result<_, _>>()?;
        let plan = match dev {
            true => Some(Plan::new(&with_dev(), Default::default())?).filter(|plan| plan.dev.is_some()),
            false => None,
        };
        if cgroups {
            ContainerCgroup::remove_abandoned(cgroup_parent);
        }
        Ok(Maker { home, plan, cgroup_parent: cgroup_parent.map(Path::to_owned), known: None })
    }

    pub(super) fn cgroup(&mut self) -> Result<ContainerCgroup, Error> {
        ContainerCgroup::ahead(self.cgroup_parent.as_deref(), &mut self.known)
    }

    /// Makes namespaces by entering them, and returns to the thread's own.
    pub(super) fn namespaces(&self) -> Result<Namespaces, Error> {
        let kinds: Kinds = self.home.iter().map(Namespace::kind).collect();
        ns_core::unshare(kinds)?;
        let made = self.within();
        for namespace in &self.home {
            ns_core::setns(namespace)?;
        }
        made
    }

    fn within(&self) -> Result<Namespaces, Error> {
        let open = |one: &Namespace| {
            let kind = one.kind();
            Ok((Namespace::current(kind)?.into(), Kinds::from(kind)))
        };
        let namespaces = self.home.iter().map(open).collect::<Result<_, Error>>()?;
        let steps = self.plan.as_ref().and_then(|plan| plan.steps.get(plan.dev.clone()?)).unwrap_or_default();
        let dev = perform_ahead(steps)?;
        Ok(Namespaces { namespaces, dev })
    }
}

/// Returns the spec of a container with a `/dev` and nothing else.
fn with_dev() -> Spec {
    let mut spec = Spec::bare("/");
    spec.namespaces = crate::spec::Namespaces::new(Kinds::FIVE);
    spec.init = Some(false);
    spec.root = Root::Host;
    spec.mounts.push(Mount::new("/dev", MountKind::Dev));
    spec
}
