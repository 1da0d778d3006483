//! Label selectors, read once and matched often.

use std::collections::BTreeMap;

use wardring_api::LabelSelector;

/// A label selector with its requirements read. An empty selector matches everything, and one with
/// an operator that Kubernetes does not know matches nothing: a typo must not select a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
    Never,
}

impl Selector {
    /// Reads the API form.
    pub fn new(selector: &LabelSelector) -> Selector {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
        }
        for item in selector.match_expressions.iter().flatten() {
            let values = item.values.clone().unwrap_or_default();
            requirements.push(match item.operator.as_str() {
                "In" => Requirement::In(item.key.clone(), values),
                "NotIn" => Requirement::NotIn(item.key.clone(), values),
                "Exists" => Requirement::Exists(item.key.clone()),
                "DoesNotExist" => Requirement::DoesNotExist(item.key.clone()),
                _ => Requirement::Never,
            });
        }
        Selector { requirements }
    }

    /// Whether labels satisfy every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                labels.get(key).is_some_and(|value| values.contains(value))
            }
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| !values.contains(value))
            }
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
            Requirement::Never => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(' ')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn selector(operator: &str, values: &[&str]) -> Selector {
        let json = serde_json::json!({
            "matchExpressions": [{ "key": "ring", "operator": operator, "values": values }]
        });
        Selector::new(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn operators_mean_what_kubernetes_says() {
        assert!(selector("In", &["a", "b"]).matches(&labels("ring=b")));
        assert!(!selector("In", &["a"]).matches(&labels("site=x")));
        assert!(selector("NotIn", &["a"]).matches(&labels("site=x")));
        assert!(!selector("NotIn", &["a"]).matches(&labels("ring=a")));
        assert!(selector("Exists", &[]).matches(&labels("ring=z")));
        assert!(selector("DoesNotExist", &[]).matches(&labels("site=x")));
        assert!(Selector::default().matches(&labels("")));
    }

    #[test]
    fn an_unknown_operator_selects_nothing() {
        assert!(!selector("Like", &["a"]).matches(&labels("ring=a")));
    }
}
