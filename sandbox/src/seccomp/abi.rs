//! The description of an ABI of system calls, and the tables from names to numbers. The ABIs of a
//! machine are in `arch/NAME.rs`.

use super::profile::Arg;

/// An ABI of system calls.
pub(crate) struct Abi {
    /// Name in OCI, `SCMP_ARCH_*`.
    pub(crate) name: &'static str,
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub(crate) audit: u32,
    /// First call number of the ABI.
    pub(crate) base: u32,
    /// Whether arguments have 32 bits.
    pub(crate) narrow: bool,
    /// Returns the number of a call, relative to `base`.
    pub(crate) number: fn(&str) -> Option<u32>,
    /// Returns the number of the multiplexer that also makes this call, and the argument that
    /// selects it.
    pub(crate) multiplexed: fn(&str) -> Option<(u32, Arg)>,
}

/// Numbers from here on are private to an architecture (for example ARM's `cacheflush`). They are
/// not newer than those below.
pub(crate) const PRIVATE: u32 = 0xf_0000;

/// Slots of a table.
pub(crate) const SLOTS: usize = 1024;

/// Returns the folded FNV-1a hash of a name. The names of a table have almost no collisions.
pub(crate) const fn slot(name: &str) -> usize {
    let (bytes, mut hash, mut n) = (name.as_bytes(), 0x811c_9dc5u32, 0);
    while n < bytes.len() {
        hash = (hash ^ bytes[n] as u32).wrapping_mul(0x0100_0193);
        n += 1;
    }
    ((hash ^ hash >> 16) as usize) % SLOTS
}

/// Defines a function that maps names to numbers with a hash table built at compile time: a start
/// looks up about four hundred names for each ABI.
macro_rules! numbers {
    ($name:ident, $sysno:ty) => {
        fn $name(name: &str) -> Option<u32> {
            use $crate::seccomp::abi::{SLOTS, slot};
            const TABLE: [u16; SLOTS] = {
                let (mut table, mut id) = ([u16::MAX; SLOTS], 0);
                while id <= <$sysno>::last().id() as usize {
                    if let Some(call) = <$sysno>::new(id) {
                        let mut at = slot(call.name());
                        while table[at] != u16::MAX {
                            at = (at + 1) % SLOTS;
                        }
                        table[at] = id as u16;
                    }
                    id += 1;
                }
                table
            };
            let mut at = slot(name);
            loop {
                // An empty slot holds a number that is not a call.
                let call = <$sysno>::new(usize::from(TABLE[at]))?;
                if call.name() == name {
                    return Some(call.id() as u32);
                }
                at = (at + 1) % SLOTS;
            }
        }
    };
}

pub(crate) use numbers;

/// Returns `None`, for an ABI without multiplexers.
pub(crate) fn none(_: &str) -> Option<(u32, Arg)> {
    None
}
