//! Helpers that the benches share.

pub mod floor;

/// Whether this process may make namespaces. Says so on standard error if not, for a bench that
/// measures nothing must not look like one that ran.
pub fn is_root() -> bool {
    // SAFETY: a plain query.
    #[allow(unsafe_code)]
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED: the benches start containers, which takes root");
    }
    root
}
