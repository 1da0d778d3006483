//! In which order services stop and start so that none is torn from under another.

use std::collections::{BTreeMap, BTreeSet};

use super::Needs;

/// A service among the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// What it needs.
    pub needs: Needs,
    /// Whether it runs.
    pub runs: bool,
}

/// Those that run and need `name`, directly or through others, in the order in which they are to be
/// stopped: each before what it needs. They start in the opposite order.
pub(super) fn dependents(name: &str, all: &BTreeMap<String, Node>) -> Vec<String> {
    let mut seen = BTreeSet::from([name.to_lowercase()]);
    let mut order = Vec::new();
    visit(name, all, &mut seen, &mut order);
    order.retain(|name| all.get(name).is_some_and(|node| node.runs));
    order
}

fn visit(
    name: &str,
    all: &BTreeMap<String, Node>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) {
    for (other, node) in all {
        if needs(node, name, all) && seen.insert(other.to_lowercase()) {
            visit(other, all, seen, order);
            order.push(other.clone());
        }
    }
}

fn needs(node: &Node, name: &str, all: &BTreeMap<String, Node>) -> bool {
    let is = |other: &String| other.eq_ignore_ascii_case(name);
    let own = all.iter().find(|(other, _)| is(other)).and_then(|(_, own)| own.needs.group.as_ref());
    let in_group = |group: &String| own.is_some_and(|own| own.eq_ignore_ascii_case(group));
    node.needs.services.iter().any(is) || node.needs.groups.iter().any(in_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(services: &[&str], runs: bool) -> Node {
        let services = services.iter().map(|name| (*name).to_owned()).collect();
        Node { needs: Needs { services, ..Needs::default() }, runs }
    }

    fn world(nodes: &[(&str, Node)]) -> BTreeMap<String, Node> {
        nodes.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect()
    }

    #[test]
    fn dependents_stop_before_what_they_need() {
        let all = world(&[
            ("MSSQLSERVER", node(&[], true)),
            ("SQLSERVERAGENT", node(&["mssqlserver"], true)),
            ("Reports", node(&["SQLSERVERAGENT", "MSSQLSERVER"], true)),
            ("Other", node(&[], true)),
        ]);
        assert_eq!(dependents("MSSQLSERVER", &all), ["Reports", "SQLSERVERAGENT"]);
        assert_eq!(dependents("Reports", &all), [""; 0]);
        let chain = [("S", node(&[], true)), ("A", node(&["S"], true)), ("Z", node(&["A"], true))];
        assert_eq!(dependents("S", &world(&chain)), ["Z", "A"], "whatever their names are");
    }

    #[test]
    fn one_that_did_not_run_is_left_alone() {
        let all =
            world(&[("A", node(&[], true)), ("B", node(&["A"], false)), ("C", node(&["B"], true))]);
        assert_eq!(dependents("A", &all), ["C"]);
    }

    #[test]
    fn services_that_need_each_other_end_the_search_all_the_same() {
        let all = world(&[("A", node(&["B"], true)), ("B", node(&["A"], true))]);
        assert_eq!(dependents("A", &all), ["B"]);
    }

    #[test]
    fn a_member_of_a_needed_group_is_needed() {
        let mut all = world(&[("Driver", node(&[], true)), ("User", node(&[], true))]);
        all.get_mut("Driver").unwrap().needs.group = Some("Net".to_owned());
        all.get_mut("User").unwrap().needs.groups = vec!["NET".to_owned()];
        assert_eq!(dependents("driver", &all), ["User"]);
    }
}
