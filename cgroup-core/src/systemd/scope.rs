//! Scopes and slices as plain data.

use super::property::Property;
use crate::error::{Error, Result};

/// A scope to start.
/// [systemd.scope(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.scope.html).
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// Name of the unit, which ends in `.scope`.
    pub name: String,
    /// Slice of the unit, which systemd creates if it does not exist. `None`: the default of
    /// systemd, which is `system.slice`, or `app.slice` for a user.
    pub slice: Option<String>,
    /// Description, which `systemctl status` shows.
    pub description: String,
    /// Additional properties. Every scope is delegated, has accounting of processor, memory, io and
    /// tasks, has no default dependencies, and is removed when it ends, even after a failure.
    pub properties: Vec<Property>,
}

impl Scope {
    /// Creates a scope with this name, the default slice and no additional properties.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { description: name.clone(), name, slice: None, properties: Vec::new() }
    }

    /// Creates a scope from the three parts of OCI's `cgroupsPath` for systemd: `PREFIX-NAME.scope`
    /// in the slice. The slice and the prefix may be empty. See `cgroupsPath` in
    /// [runc's documentation](https://github.com/opencontainers/runc/blob/main/docs/systemd.md).
    ///
    /// ```
    /// use cgroup_core::systemd::Scope;
    /// let scope = Scope::of_parts("machine.slice", "libpod", "c1")?;
    /// assert_eq!((scope.slice.as_deref(), scope.name.as_str()), (Some("machine.slice"), "libpod-c1.scope"));
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidName`: the slice has no valid name, see [`slice_path`].
    pub fn of_parts(slice: &str, prefix: &str, name: &str) -> Result<Self> {
        let slice = (!slice.is_empty()).then(|| slice_path(slice).map(|_| slice.to_owned())).transpose()?;
        let name = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        Ok(Self { slice, ..Self::new(name) })
    }

    pub(super) fn properties(&self, pid: i32) -> Vec<Property> {
        let mut all = vec![Property::new("Description", self.description.as_str())];
        all.extend(self.slice.as_deref().map(|slice| Property::new("Slice", slice)));
        all.push(Property::new("Delegate", true));
        all.push(Property::new("PIDs", vec![pid.cast_unsigned()]));
        all.push(Property::new("CollectMode", "inactive-or-failed"));
        all.extend(common());
        all.extend(self.properties.iter().cloned());
        all
    }
}

/// Returns the properties of all units for containers, which are those of runc.
pub(super) fn common() -> impl Iterator<Item = Property> {
    let accounting = ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"];
    let accounting = accounting.into_iter().map(|name| Property::new(name, true));
    accounting.chain([Property::new("DefaultDependencies", false)])
}

/// Returns the path of a slice's cgroup below the cgroup of systemd. Each dash in the name is a
/// level.
/// [systemd.slice(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.slice.html).
///
/// ```
/// use cgroup_core::systemd::slice_path;
/// assert_eq!(slice_path("user-1000.slice")?, "/user.slice/user-1000.slice");
/// assert_eq!(slice_path("-.slice")?, "/");
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidName`: the name does not end in `.slice`, or a part between dashes is empty or contains
/// a slash.
pub fn slice_path(slice: &str) -> Result<String> {
    let wrong = |why| Err(Error::name(slice.as_bytes(), why));
    let Some(stem) = slice.strip_suffix(".slice") else {
        return wrong("the name of a slice must end in .slice");
    };
    if stem == "-" {
        return Ok("/".to_owned());
    }
    if stem.split('-').any(str::is_empty) {
        return wrong("the name of a slice is words with single dashes between");
    }
    if stem.contains('/') {
        return wrong("the name of a slice must not contain a slash: dashes are its levels");
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("/{}.slice", &stem[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_in_a_slices_name_is_a_level() {
        for (slice, path) in [("a.slice", "/a.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")] {
            assert_eq!(slice_path(slice).unwrap(), path);
        }
        for wrong in
            ["", ".slice", "a", "a.scope", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice", "--.slice"]
        {
            assert_eq!(slice_path(wrong).unwrap_err().kind(), crate::ErrorKind::InvalidName, "{wrong}");
        }
    }

    #[test]
    fn slice_and_prefix_of_a_scope_may_be_empty() {
        let of = |slice, prefix| Scope::of_parts(slice, prefix, "c").map(|scope| (scope.slice, scope.name));
        assert_eq!(of("a-b.slice", "cri").unwrap(), (Some("a-b.slice".into()), "cri-c.scope".into()));
        assert_eq!(of("", "").unwrap(), (None, "c.scope".into()));
        assert_eq!(of("kubepods", "cri").unwrap_err().kind(), crate::ErrorKind::InvalidName);
    }
}
