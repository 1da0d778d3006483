//! Plain values that conditions look at.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// A value as JSON knows it, with whole numbers apart, and with numbers that are none.
#[derive(Clone, Debug, PartialEq)]
pub enum ConditionValue {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number, or NaN, or infinite.
    Number(f64),
    /// A text.
    Text(String),
    /// Values in order.
    List(Vec<ConditionValue>),
    /// Values by name.
    Map(BTreeMap<String, ConditionValue>),
}

impl ConditionValue {
    /// Whether there is nothing in it that could be judged.
    pub fn is_empty(&self) -> bool {
        match self {
            ConditionValue::Null => true,
            ConditionValue::Text(text) => text.is_empty(),
            ConditionValue::List(list) => list.is_empty(),
            ConditionValue::Map(map) => map.is_empty(),
            ConditionValue::Bool(_) | ConditionValue::Int(_) | ConditionValue::Number(_) => false,
        }
    }

    /// Whether a number in it is NaN or infinite.
    pub fn has_a_number_that_is_none(&self) -> bool {
        match self {
            ConditionValue::Number(number) => !number.is_finite(),
            ConditionValue::List(list) => list.iter().any(Self::has_a_number_that_is_none),
            ConditionValue::Map(map) => map.values().any(Self::has_a_number_that_is_none),
            _ => false,
        }
    }

    /// The value in a few words, for people.
    pub fn told(&self) -> String {
        match self {
            ConditionValue::Null => "nothing".to_owned(),
            ConditionValue::Bool(answer) => answer.to_string(),
            ConditionValue::Int(number) => number.to_string(),
            ConditionValue::Number(number) => rounded(*number),
            ConditionValue::Text(text) => crate::explain::one_line(text),
            ConditionValue::List(list) => format!("{} values", list.len()),
            ConditionValue::Map(map) => format!("{} fields", map.len()),
        }
    }

    pub(super) fn from_cel(value: &cel::Value) -> Result<ConditionValue, String> {
        Ok(match value {
            cel::Value::Null => ConditionValue::Null,
            cel::Value::Bool(answer) => ConditionValue::Bool(*answer),
            cel::Value::Int(number) => ConditionValue::Int(*number),
            cel::Value::UInt(number) => i64::try_from(*number)
                .map_or(ConditionValue::Number(*number as f64), |number| {
                    ConditionValue::Int(number)
                }),
            cel::Value::Float(number) => ConditionValue::Number(*number),
            cel::Value::String(text) => ConditionValue::Text(text.to_string()),
            cel::Value::List(list) => {
                ConditionValue::List(list.iter().map(Self::from_cel).collect::<Result<_, _>>()?)
            }
            cel::Value::Map(map) => {
                let fields = map
                    .map
                    .iter()
                    .map(|(key, value)| Ok::<_, String>((key.to_string(), Self::from_cel(value)?)));
                ConditionValue::Map(fields.collect::<Result<_, _>>()?)
            }
            other => return Err(format!("a value of type {} cannot be judged", other.type_of())),
        })
    }
}

/// Three digits after the point are enough for a person, and six where there is nothing before it.
fn rounded(number: f64) -> String {
    let places = if number.abs() < 0.01 { 6 } else { 3 };
    let text = format!("{number:.places$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl From<serde_json::Value> for ConditionValue {
    fn from(value: serde_json::Value) -> ConditionValue {
        match value {
            serde_json::Value::Null => ConditionValue::Null,
            serde_json::Value::Bool(answer) => ConditionValue::Bool(answer),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => ConditionValue::Int(whole),
                None => ConditionValue::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => ConditionValue::Text(text),
            serde_json::Value::Array(list) => {
                ConditionValue::List(list.into_iter().map(Into::into).collect())
            }
            serde_json::Value::Object(map) => {
                let fields = map.into_iter().map(|(name, value)| (name, value.into()));
                ConditionValue::Map(fields.collect())
            }
        }
    }
}

impl Serialize for ConditionValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ConditionValue::Null => serializer.serialize_unit(),
            ConditionValue::Bool(answer) => serializer.serialize_bool(*answer),
            ConditionValue::Int(number) => serializer.serialize_i64(*number),
            ConditionValue::Number(number) => serializer.serialize_f64(*number),
            ConditionValue::Text(text) => serializer.serialize_str(text),
            ConditionValue::List(list) => serializer.collect_seq(list),
            ConditionValue::Map(map) => serializer.collect_map(map),
        }
    }
}
