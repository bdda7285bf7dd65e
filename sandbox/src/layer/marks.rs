//! The extended attributes in which overlayfs keeps its marks.

use std::ffi::CStr;

use crate::spec::{NamespaceMode, Spec};

/// The extended attributes in which overlayfs marks opaque directories and whiteouts, in the documentation of
/// [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html).
///
/// The attributes with the other prefix are ordinary: a container can set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marks {
    /// `trusted.overlay.*`: the overlay was mounted in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: the overlay was mounted with `userxattr`, as in a user namespace. Since Linux 5.11.
    User,
}

impl Marks {
    /// Returns the marks of the overlay that is the root of a container with this spec.
    pub fn of_spec(spec: &Spec) -> Marks {
        match spec.namespaces.user {
            NamespaceMode::Host => Marks::Trusted,
            _ => Marks::User,
        }
    }

    pub(super) fn prefix(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.",
            Marks::User => "user.overlay.",
        }
    }

    pub(super) fn is_own(self, name: &CStr) -> bool {
        name.to_bytes().starts_with(self.prefix().as_bytes())
    }
}
