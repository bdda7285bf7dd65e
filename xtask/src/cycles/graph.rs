//! The strongly connected components of a directed graph.

use std::collections::BTreeSet;

/// Returns each set of two or more nodes of which every one leads to every other one.
pub(super) fn cycles(nodes: usize, edges: impl Iterator<Item = (usize, usize)>) -> Vec<BTreeSet<usize>> {
    let mut next = vec![Vec::new(); nodes];
    let mut previous = vec![Vec::new(); nodes];
    for (from, to) in edges {
        next[from].push(to);
        previous[to].push(from);
    }
    let mut cycles = Vec::new();
    let mut placed = BTreeSet::<usize>::new();
    for node in 0..nodes {
        if placed.contains(&node) {
            continue;
        }
        let after = reachable(node, &next);
        let cycle: BTreeSet<usize> = after.intersection(&reachable(node, &previous)).copied().collect();
        placed.extend(&cycle);
        if cycle.len() > 1 {
            cycles.push(cycle);
        }
    }
    cycles
}

/// Returns the nodes that the edges lead to from a node, and the node itself.
fn reachable(node: usize, edges: &[Vec<usize>]) -> BTreeSet<usize> {
    let mut seen = BTreeSet::from([node]);
    let mut pending = vec![node];
    while let Some(node) = pending.pop() {
        pending.extend(edges[node].iter().filter(|&&next| seen.insert(next)));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_reach_each_other_are_in_a_cycle() {
        let edges = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (5, 6), (6, 5), (6, 0)];
        assert_eq!(cycles(7, edges.into_iter()), [BTreeSet::from([0, 1, 2]), BTreeSet::from([5, 6])]);
    }
}
