//! The text of a plan: `nspod run --explain` prints it.

use std::fmt;

use crate::plan::data::Plan;
use crate::quota::{self, Limited};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.kinds.kinds().map(|k| k.name()).collect();
        if !self.spec.limits.is_empty() {
            writeln!(f, "set the limits of its cgroup:")?;
            let net = self.spec.limits.net.iter().flat_map(|net| net.settings());
            for (file, value) in self.spec.limits.writes().into_iter().chain(net) {
                writeln!(f, "      {file} = {value}")?;
            }
        }
        for Limited { directories, limit, .. } in quota::limited(&self.spec) {
            let names: Vec<_> = directories.iter().map(|path| path.to_string_lossy()).collect();
            write!(f, "set the project quota of {}:", names.join(" and "))?;
            for (name, value) in [("size", limit.size), ("inodes", limit.inodes)] {
                if let Some(value) = value {
                    write!(f, " {name} = {value}")?;
                }
            }
            writeln!(f)?;
        }
        for tree in &self.trees {
            write!(f, "open the tree {}", tree.source.to_string_lossy())?;
            match tree.id_maps {
                Some(_) => writeln!(f, " with mapped ids")?,
                None => writeln!(f)?,
            }
        }
        if let Some(log) = &self.log {
            writeln!(
                f,
                "make a pipe for its output, which the init copies to {} files of {} KiB",
                log.count(),
                log.kib()
            )?;
        }
        write!(f, "clone3 into its cgroup")?;
        match names.is_empty() {
            true => write!(f, ", no new namespaces")?,
            false => write!(f, ", new {} namespaces", names.join(", "))?,
        }
        writeln!(f, ", memory {}", if self.shared_memory { "shared until exec" } else { "copied" })?;
        if let Some(maps) = &self.maps {
            let by = if maps.helpers { " by newuidmap and newgidmap" } else { "" };
            writeln!(f, "write the id maps{by}:")?;
            for (name, map) in [("uid_map", &maps.uid), ("gid_map", &maps.gid)] {
                for line in map.to_string().lines() {
                    writeln!(f, "      {name} {}", line.trim())?;
                }
            }
        }
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:4}  {step}")?;
        }
        Ok(())
    }
}
