//! Rules 1 and 2 of the model as a property of the real kernel: whatever sequence of spawn,
//! unshare, join and exit, every process is in exactly one namespace of each kind, and who
//! shares which is what the rules in `rules.rs` say.

mod population;
mod rules;

use ns_core::{Kind, Kinds, NamespaceSet};
use nspod_tests::lane;
use population::Population;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rules::{Op, World};

/// Who acts, on whom, with which kinds; whom there is is known only when it is done.
fn op() -> impl Strategy<Value = (u8, usize, usize, Kinds)> {
    let kinds = (0..256_u32).prop_map(|bits| {
        Kind::ALL
            .into_iter()
            .enumerate()
            .filter(|(at, _)| bits & 1 << at != 0)
            .map(|(_, kind)| kind)
            .collect()
    });
    let one = proptest::sample::select(&Kind::ALL[..]).prop_map(Kinds::from);
    let kinds = prop_oneof![2 => one, 1 => kinds];
    (0..10_u8, 0..8_usize, 0..8_usize, kinds)
}

/// The operation that these numbers stand for in a world of so many processes.
fn op_of((what, who, whom, kinds): (u8, usize, usize, Kinds), alive: &[usize]) -> Op {
    let pick = |number: usize| alive[number % alive.len()];
    match what {
        0..=3 => Op::Spawn { by: pick(who), kinds },
        4 | 5 => Op::Unshare { who: pick(who), kinds },
        6..=8 => Op::Join { who: pick(who), whom: pick(whom), kinds },
        // The first of all stays, as the one whom orphans come to.
        _ => Op::Exit { who: pick(who).max(1) },
    }
}

#[test]
fn any_sequence_of_spawn_unshare_join_and_exit_partitions_processes_as_the_model_says() {
    if !lane::root() {
        return;
    }
    let config = Config { failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let sequences = proptest::collection::vec(op(), 1..24);
    let run = TestRunner::new(config).run(&sequences, |ops| play(&ops).map_err(TestCaseError::fail));
    if let Err(error) = run {
        panic!("{error}");
    }
}

/// Does the operations in the model and on the kernel, and compares after each.
fn play(ops: &[(u8, usize, usize, Kinds)]) -> Result<(), String> {
    let mut world = World::new();
    let mut population = Population::new();
    let mut done = Vec::new();
    for numbers in ops {
        let op = op_of(*numbers, &world.alive());
        if matches!(&op, Op::Exit { who } if !world.alive().contains(who)) {
            continue;
        }
        let before = population.look();
        let expected = world.apply(&op);
        let found = population.apply(&op, &world);
        done.push(op);
        let context = || format!("after {done:?}");
        if expected != found {
            return Err(format!("the model says {expected:?} and the kernel {found:?} {}", context()));
        }
        let after = population.look();
        compare(&world, &after).map_err(|error| format!("{error} {}", context()))?;
        // Kinds are independent: nobody has moved but the one that acted, in what it named.
        let touched = op_touches(&op, expected.is_ok());
        for (who, set) in after.iter() {
            let Some((_, was)) = before.iter().find(|(other, _)| other == who) else { continue };
            let moved = Kinds::all() - was.coincide(set);
            let may = touched.filter(|(actor, _)| actor == who).map_or(Kinds::empty(), |(_, kinds)| kinds);
            if !may.contains(moved) {
                return Err(format!("process {who} has moved in {moved} {}", context()));
            }
        }
    }
    Ok(())
}

/// Whom an operation moves, and in which kinds at most.
fn op_touches(op: &Op, ok: bool) -> Option<(usize, Kinds)> {
    match *op {
        Op::Unshare { who, kinds } | Op::Join { who, kinds, .. } if ok => Some((who, kinds)),
        _ => None,
    }
}

/// Two processes share a namespace of a kind if and only if they do in the model; and what
/// is the host's in the model is the host's.
fn compare(world: &World, found: &[(usize, NamespaceSet)]) -> Result<(), String> {
    let host = NamespaceSet::current().map_err(|error| error.to_string())?;
    let alive: Vec<usize> = found.iter().map(|(who, _)| *who).collect();
    if alive != world.alive() {
        return Err(format!("alive are {alive:?}, in the model {:?}", world.alive()));
    }
    for (index, (one, set)) in found.iter().enumerate() {
        let differs = |other: &dyn std::fmt::Display, wanted: Kinds, found: Kinds| {
            format!("process {one} shares {found} with {other}, in the model {wanted}")
        };
        let (wanted, shared) = (world.shares_with_host(*one), set.coincide(&host));
        if wanted != shared {
            return Err(differs(&"the host", wanted, shared));
        }
        for (other, other_set) in &found[..index] {
            let (wanted, shared) = (world.shares(*one, *other), set.coincide(other_set));
            if wanted != shared {
                return Err(differs(other, wanted, shared));
            }
        }
    }
    Ok(())
}
