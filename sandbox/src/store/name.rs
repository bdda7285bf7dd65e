//! Random names.

use std::hash::{BuildHasher, RandomState};

/// Returns twelve random hexadecimal digits, as the name of a container or cgroup that was given no
/// name. The names differ; they are not secret.
///
/// Only the first call of a thread makes a system call, getrandom(2).
pub fn random_name() -> String {
    // The keys are random. A forked process has the keys of its parent, but another pid.
    format!("{:012x}", RandomState::new().hash_one(std::process::id()) >> 16)
}

/// Returns whether a name has the form of a random one.
pub fn is_random_name(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_differ_and_are_recognised() {
        let (one, two) = (random_name(), random_name());
        assert!(is_random_name(&one) && is_random_name(&two) && one != two);
        assert!(!is_random_name("web") && !is_random_name("0123456789AB"));
    }
}
