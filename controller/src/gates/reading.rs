//! What a provider's answer comes to, before anybody judges it.

use wardring_planner::condition::{ConditionValue, Variables};

/// Longest number that is read; no honest one is longer.
const MAX_NUMBER: usize = 40;

/// What was asked, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The question as people read it.
    pub query: String,
    /// What came of it.
    pub found: Found,
}

/// What came of a question. Only numbers that are numbers get as far as a condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// What conditions see, by name.
    Values(Variables),
    /// The provider says that there is nothing; why.
    Nothing(String),
    /// No answer, or none that can be trusted; why, in our words.
    Fault(String),
}

impl Found {
    /// Values of these numbers and words.
    pub fn values<const N: usize>(values: [(&str, ConditionValue); N]) -> Found {
        Found::Values(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// The number that `text` is. Not what only looks like one: NaN and infinities are no measurement, and
/// every comparison with them says something else than its author meant.
pub fn number(text: &str) -> Option<f64> {
    let is_plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    if text.len() > MAX_NUMBER || !text.bytes().all(is_plain) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A count, as conditions see it.
pub fn whole(count: usize) -> ConditionValue {
    ConditionValue::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_are_numbers() {
        for (text, expected) in
            [("0", 0.0), ("-0.5", -0.5), ("1e3", 1000.0), ("+7", 7.0), ("0.001", 0.001)]
        {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        let long = "1".repeat(41);
        for text in [
            "", " 1", "1 ", "NaN", "nan", "+Inf", "-Inf", "inf", "infinity", "1e999", "-1e999",
            "0x10", "1,5", "1_000", "١", "true", "\"1\"", &long,
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
