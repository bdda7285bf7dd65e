//! Ranges of ids that one container or pod has alone (`--userns auto`).
//!
//! A reservation is a file in the entry of the container or pod, so it ends when the entry is removed, also after
//! a crash. A lock on a file of the store lets one process choose at a time.

use std::path::Path;

use ns_core::{Extent, IdMap, Ids, SubIdRange, SubIds};
use nspod_cli::runtime_dir;
use nspod_sandbox::store::Dir;
use nspod_sandbox::{ErrorKind, Host};

use super::base::{base, lock_file};
use crate::error::{Error, Result};

/// File of an entry with its range: first uid, first gid, count.
const FILE: &str = "ids";
const LOCK: &str = "ids.lock";
/// Number of ids of a container, if the pool has enough for many containers.
const LARGE: u32 = 65_536;
/// Number of ids of a container otherwise.
const SMALL: u32 = 1024;
/// Block that [`IdMaps::Auto`](nspod_sandbox::spec::IdMaps::Auto) uses.
const SHARED_BLOCK: u32 = 0x6FFF_0000;
/// First id that systemd reserves for containers; the last is above [`SHARED_BLOCK`] (UIDS-GIDS).
const RESERVED: u32 = 0x0008_0000;

/// A range of uids and a range of gids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    uid: u32,
    gid: u32,
    count: u32,
}

impl Range {
    /// Returns the maps of a user namespace with these ids, from id 0.
    pub(crate) fn maps(self) -> (IdMap, IdMap) {
        let map = |outside| IdMap::from(vec![Extent { inside: 0, outside, count: self.count }]);
        (map(self.uid), map(self.gid))
    }

    fn parse(text: &str) -> Option<Range> {
        let mut numbers = text.split_whitespace().map(|n| n.parse().ok());
        let range = Range { uid: numbers.next()??, gid: numbers.next()??, count: numbers.next()?? };
        numbers.next().is_none().then_some(range)
    }
}

/// Reserves a range for the entry whose directory this is. The caller holds the entry's lock.
///
/// # Errors
/// [`ErrorKind::LimitReached`]: no range of this size is free. The errno of a failed call.
pub(crate) fn reserve(entry: &Dir, size: Option<u32>) -> Result<Range> {
    let dir = Dir::private(&base(), runtime_dir::BY_VARIABLE)?;
    let _lock = lock_file(&dir, LOCK, "ids")?;
    let range = choose(&Pool::of_caller()?, &used(&dir)?, size)?;
    entry.replace(FILE, format!("{} {} {}\n", range.uid, range.gid, range.count).as_bytes())?;
    Ok(range)
}

/// Returns the range that the next reservation would get, for `--explain`.
pub(crate) fn next(size: Option<u32>) -> Result<Range> {
    let base = base();
    let used =
        if base.is_dir() { used(&Dir::private(&base, runtime_dir::BY_VARIABLE)?)? } else { Vec::new() };
    choose(&Pool::of_caller()?, &used, size)
}

/// Returns the ranges of all containers and pods.
fn used(dir: &Dir) -> Result<Vec<Range>> {
    let mut used = Vec::new();
    for kind in ["containers", "pods"] {
        let Some(entries) = dir.sub(kind)? else { continue };
        for name in entries.names()? {
            let Some(entry) = entries.sub(&name)? else { continue };
            let Some(text) = entry.read(FILE)? else { continue };
            used.push(Range::parse(&text).ok_or_else(|| broken(&entry.at(FILE)))?);
        }
    }
    Ok(used)
}

fn broken(path: &Path) -> Error {
    let problem = format!("{} does not have the form UID GID COUNT", path.display());
    let error = Error::new(ErrorKind::InvalidInput, "ids", problem).on(path.display());
    error.hint("remove the container or pod that the file belongs to")
}

/// The ids that the caller can give to containers.
#[derive(Debug, Clone)]
struct Pool {
    uids: Vec<SubIdRange>,
    gids: Vec<SubIdRange>,
    /// Whether the caller is the host's root, who can give ids that /etc/subuid does not list.
    root: bool,
}

impl Pool {
    fn of_caller() -> Result<Pool> {
        let root = nix::unistd::geteuid().is_root() && !Host::is_nested();
        let of = |ids| -> Result<Vec<SubIdRange>> {
            let own = SubIds::of_caller(ids)?;
            if !(root && own.is_empty()) {
                return Ok(own);
            }
            Ok(reserved(&[SubIds::read(Ids::Uid)?, SubIds::read(Ids::Gid)?], &accounts()))
        };
        Ok(Pool { uids: of(Ids::Uid)?, gids: of(Ids::Gid)?, root })
    }
}

/// Returns the ids of the users and groups in /etc/passwd and /etc/group. Those of a directory service are not there.
fn accounts() -> Vec<u32> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    [read("/etc/passwd"), read("/etc/group")]
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.split(':').nth(2)?.parse().ok())
        .collect()
}

/// Returns the ids that systemd reserves for containers, without those of the users in /etc/subuid and
/// /etc/subgid, and without those of accounts.
fn reserved(listed: &[SubIds], accounts: &[u32]) -> Vec<SubIdRange> {
    let mut free = Vec::new();
    let mut from = RESERVED;
    let own = accounts.iter().map(|id| SubIdRange { start: *id, count: 1 });
    let mut taken: Vec<SubIdRange> = listed.iter().flat_map(SubIds::ranges).chain(own).collect();
    taken.sort_by_key(|range| range.start);
    for range in taken {
        let start = range.start.min(SHARED_BLOCK);
        if start > from {
            free.push(SubIdRange { start: from, count: start - from });
        }
        from = from.max(range.start.saturating_add(range.count));
    }
    if from < SHARED_BLOCK {
        free.push(SubIdRange { start: from, count: SHARED_BLOCK - from });
    }
    free
}

fn choose(pool: &Pool, used: &[Range], size: Option<u32>) -> Result<Range> {
    let total = |ranges: &[SubIdRange]| ranges.iter().map(|range| u64::from(range.count)).sum::<u64>();
    let many = |ranges| total(ranges) >= 64 * u64::from(LARGE);
    let count = size.unwrap_or(if many(&pool.uids) && many(&pool.gids) { LARGE } else { SMALL });
    let free = |kind, pool_ids: &[SubIdRange], start: fn(&Range) -> u32| {
        let of = |range| SubIdRange { start: start(range), count: range.count };
        let taken: Vec<SubIdRange> = used.iter().map(of).collect();
        highest_free(pool_ids, &taken, count).ok_or_else(|| exhausted(kind, used.len(), count, pool.root))
    };
    let uid = free(Ids::Uid, &pool.uids, |range| range.uid)?;
    let gid = free(Ids::Gid, &pool.gids, |range| range.gid)?;
    Ok(Range { uid, gid, count })
}

/// Returns the start of the highest range of this size that is in one of the pool's ranges and contains no taken
/// id. It is the highest one, because useradd(8) gives new users the lowest ids.
fn highest_free(pool: &[SubIdRange], taken: &[SubIdRange], count: u32) -> Option<u32> {
    let within = |range: &SubIdRange| {
        let mut start = (range.start + range.count).checked_sub(count)?;
        while start >= range.start {
            match taken.iter().find(|t| t.start < start + count && start < t.start + t.count) {
                None => return Some(start),
                Some(other) => start = other.start.checked_sub(count)?,
            }
        }
        None
    };
    pool.iter().filter_map(within).max()
}

fn exhausted(kind: Ids, used: usize, count: u32, root: bool) -> Error {
    let user = if root { "root" } else { "the caller" };
    let (ids, file) = match kind {
        Ids::Uid => ("user", "/etc/subuid"),
        Ids::Gid => ("group", "/etc/subgid"),
    };
    let in_use = match used {
        0 => String::new(),
        1 => ": 1 range is in use".into(),
        n => format!(": {n} ranges are in use"),
    };
    let cure = match used {
        0 => format!("add a line for {user} to {file}, or use --userns new"),
        _ => format!(
            "remove containers or pods, use --userns auto:size=N with fewer ids, or add a line for {user} to {file}"
        ),
    };
    let problem = format!("no range of {count} {ids} ids is free for {user}{in_use}");
    Error::new(ErrorKind::LimitReached, "ids", problem).on(file).hint(cure)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u32, count: u32) -> SubIdRange {
        SubIdRange { start, count }
    }

    #[test]
    fn ids_of_users_are_not_given_to_containers() {
        assert_eq!(reserved(&[], &[0, 65_534]), [range(RESERVED, SHARED_BLOCK - RESERVED)]);
        let listed = SubIds::parse("a:100000:65536\nb:1000000:65536\nc:1065536:10\nd:1878000000:1000000\n");
        let free = reserved(&[listed.clone(), listed], &[600_000, 1000]);
        let second = 1_065_546;
        let first = [range(RESERVED, 600_000 - RESERVED), range(600_001, 1_000_000 - 600_001)];
        assert_eq!(free, [first[0], first[1], range(second, 1_878_000_000 - second)]);
    }

    #[test]
    fn the_size_follows_the_pool_unless_it_is_given() {
        let pool =
            |count| Pool { uids: vec![range(100_000, count)], gids: vec![range(7, count)], root: true };
        assert_eq!(choose(&pool(1_000_000_000), &[], None).unwrap().count, LARGE);
        let few = choose(&pool(65_536), &[], None).unwrap();
        assert_eq!(few, Range { uid: 100_000 + 65_536 - 1024, gid: 7 + 65_536 - 1024, count: SMALL });
        assert_eq!(choose(&pool(65_536), &[few], Some(64_512)).unwrap().uid, 100_000);
        let error = choose(&pool(65_536), &[few], Some(64_513)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no range of 64513 user ids is free for root: 1 range is in use; remove containers or pods, use --userns \
             auto:size=N with fewer ids, or add a line for root to /etc/subuid"
        );
        let none = Pool { uids: vec![range(1, 1024)], gids: vec![], root: false };
        let error = choose(&none, &[], None).unwrap_err().to_string();
        let said = "no range of 1024 group ids is free for the caller; add a line for the caller to /etc/subgid, or \
            use --userns new";
        assert_eq!(error, said);
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_a_released_one_is_found_again(
            pool in prop::collection::vec((0u32..50, 1u32..40), 1..4),
            sizes in prop::collection::vec(1u32..12, 1..12),
            released in 0usize..12,
        ) {
            // The parts of the pool are separate, as in a sensible /etc/subuid.
            let pool: Vec<_> = pool.iter().zip(1u32..).map(|((at, n), i)| range(i * 100 + at, *n)).collect();
            let pool = Pool { uids: pool.clone(), gids: pool.clone(), root: true };
            let mut used: Vec<Range> = Vec::new();
            for size in sizes {
                let Ok(new) = choose(&pool, &used, Some(size)) else { continue };
                let ids = |r: &Range| r.uid..r.uid + r.count;
                prop_assert!(ids(&new).all(|id| !used.iter().any(|other| ids(other).contains(&id))));
                prop_assert!(pool.uids.iter().any(|p| p.start <= new.uid && new.uid + size <= p.start + p.count));
                used.push(new);
            }
            if released < used.len() {
                let gone = used.swap_remove(released);
                prop_assert!(choose(&pool, &used, Some(gone.count)).is_ok());
            }
        }

        #[test]
        fn no_text_of_a_reservation_makes_the_parser_panic(text in "\\PC{0,24}") {
            let _ = Range::parse(&text);
        }
    }
}
