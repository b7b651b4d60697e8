//! Finds circles: groups of nodes in which every node can reach every other node.

use std::collections::{BTreeMap, BTreeSet};

/// For each node, the nodes that it needs.
pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The circles of the graph. The names in a circle are sorted.
pub(super) fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|node| (node.as_str(), reach(graph, node))).collect();
    let can_reach = |from: &str, to: &str| reached.get(from).is_some_and(|nodes| nodes.contains(to));
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for node in graph.keys().filter(|node| can_reach(node, node)) {
        if found.iter().any(|circle| circle.contains(node)) {
            continue;
        }
        found.push(graph.keys().filter(|other| can_reach(node, other) && can_reach(other, node)).cloned().collect());
    }
    found
}

/// The nodes that can be reached from `from` in one step or more.
fn reach<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = graph.get(from).into_iter().flatten().map(String::as_str).collect();
    while let Some(node) = open.pop() {
        if reached.insert(node) {
            open.extend(graph.get(node).into_iter().flatten().map(String::as_str));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::{Graph, circles};

    fn graph(arrows: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::new();
        for (from, to) in arrows {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    }

    #[test]
    fn nodes_that_reach_each_other_are_one_circle() {
        let found =
            circles(&graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d"), ("f", "a")]));
        let found: Vec<String> = found.iter().map(|circle| circle.iter().map(String::as_str).collect()).collect();
        assert_eq!(found, ["abc", "de"]);
    }

    #[test]
    fn two_paths_to_one_node_are_no_circle() {
        assert!(circles(&graph(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])).is_empty());
    }
}
