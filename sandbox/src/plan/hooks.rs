//! Hooks, and the point at which namespaces and mounts exist.

use crate::error::Error;
use crate::plan::data::Plan;
use crate::plan::text::{c_string, environment};
use crate::spec;
use crate::step::{CStrings, Hook, Step};

impl Plan {
    /// Adds the steps for the point at which namespaces and mounts exist and `/` is still the
    /// caller's: the wait for the parent, and the createContainer hooks.
    pub(super) fn push_ready(&mut self) -> Result<(), Error> {
        let mut hooks = self.spec.hooks.create_container.clone();
        let outside = self.enters() && !hooks.is_empty();
        if outside {
            self.ready = true;
            self.shared_memory = false;
        }
        if self.ready || !hooks.is_empty() {
            // The limits apply to the programs of the parent and the hooks that use the container's cgroup.
            self.await_limits();
        }
        if self.ready {
            self.push(Step::Ready);
        }
        if let Some(stage) = self.stage.as_mut().filter(|_| outside) {
            for (index, hook) in hooks.iter_mut().enumerate() {
                hook.validate(&format!("hooks.createContainer[{index}]"))?;
                hook.env.get_or_insert_with(|| self.spec.process.env.clone());
            }
            stage.hooks = hooks;
            return Ok(());
        }
        self.push_hooks("createContainer", &hooks)
    }

    /// Adds steps that run these hooks.
    pub(super) fn push_hooks(&mut self, when: &'static str, hooks: &[spec::Hook]) -> Result<(), Error> {
        for (index, hook) in hooks.iter().enumerate() {
            let field = format!("hooks.{when}[{index}]");
            hook.validate(&field)?;
            let argv = hook.args.iter().map(|arg| c_string(&field, arg)).collect::<Result<_, _>>()?;
            self.push(Step::Hook(Hook {
                when,
                path: c_string(&field, &hook.path)?,
                argv: CStrings::new(argv),
                envp: environment(&field, hook.env.as_ref().unwrap_or(&self.spec.process.env))?,
                timeout: hook.timeout,
            }));
        }
        Ok(())
    }
}
