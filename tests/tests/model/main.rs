//! Compares the kernel with the model in `rules.rs` for random sequences of spawn, unshare, join and exit.
//!
//! Every process is in exactly one namespace of each kind. Two processes share a namespace if and only if the model
//! says so.

mod population;
mod rules;

use ns_core::{Kind, Kinds, NamespaceSet};
use nspod_tests::lane;
use population::Population;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rules::{Op, World};

/// Numbers that choose the acting process, its target and the kinds. The set of processes is known only when the
/// operation runs.
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

/// Returns the operation that these numbers stand for in a world with this many processes.
fn op_of((what, who, whom, kinds): (u8, usize, usize, Kinds), alive: &[usize]) -> Op {
    let pick = |number: usize| alive[number % alive.len()];
    match what {
        0..=3 => Op::Spawn { by: pick(who), kinds },
        4 | 5 => Op::Unshare { who: pick(who), kinds },
        6..=8 => Op::Join { who: pick(who), whom: pick(whom), kinds },
        // The first process never ends, because it adopts orphans.
        _ => Op::Exit { who: pick(who).max(1) },
    }
}

#[test]
fn any_sequence_of_spawn_unshare_join_and_exit_partitions_processes_as_the_model_predicts() {
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

/// Performs the operations in the model and in the kernel, and compares them after each one.
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
        // Kinds are independent: only the acting process has moved, and only in the kinds that it named.
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

/// Returns the process that an operation moves, and the kinds in which it can move.
fn op_touches(op: &Op, ok: bool) -> Option<(usize, Kinds)> {
    match *op {
        Op::Unshare { who, kinds } | Op::Join { who, kinds, .. } if ok => Some((who, kinds)),
        _ => None,
    }
}

/// Checks that two processes share a namespace of a kind exactly if they do in the model, and that the model knows
/// which namespaces are the host's.
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
