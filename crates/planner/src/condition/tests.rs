use wardring_api::{Gate, GateResult};

use super::*;
use ConditionValue::{Int, Number, Text};

fn result(value: ConditionValue) -> Variables {
    Variables::from([("result".to_owned(), value), ("baseline".to_owned(), Number(0.0))])
}

fn gate(conditions: &str) -> Gate {
    let mut gate = serde_json::json!({ "name": "g", "type": "Webhook" });
    let conditions: serde_json::Value = serde_json::from_str(conditions).unwrap();
    gate.as_object_mut().unwrap().extend(conditions.as_object().unwrap().clone());
    serde_json::from_value(gate).unwrap()
}

fn judged(conditions: &str, value: ConditionValue) -> GateResult {
    judge(&gate(conditions), &result(value)).result
}

#[test]
fn whole_and_other_numbers_compare_with_each_other() {
    for text in
        ["result < 3", "result < 3.0", "result == 2", "result == 2.0", "result <= 2", "2 >= result"]
    {
        for value in [Int(2), Number(2.0)] {
            let holds = Condition::compile(text).unwrap().holds(&result(value.clone()));
            assert_eq!(holds, Ok(true), "{text} of {value:?}");
        }
    }
}

#[test]
fn what_could_burn_time_is_refused() {
    for text in [
        "[1, 2].all(x, x > 0)",
        "[1, 2].map(x, x * 2) == [2, 4]",
        "[1].exists(x, x == result)",
        "result.filter(x, x > 0).size() > 0",
        "'a'.matches('(a*)*b')",
        "{'a': result}.a > 1",
        "duration('1h') > duration('2h')",
        "timestamp('2026-01-01T00:00:00Z') < result",
        "unknown(result)",
        "",
        "result <",
    ] {
        assert!(Condition::compile(text).is_err(), "{text}");
    }
    assert_eq!(Condition::compile(&"(".repeat(2000)).unwrap_err(), ConditionError::TooLong);
    assert_eq!(Condition::compile(&"(".repeat(1000)).unwrap_err(), ConditionError::TooDeep);
    assert_eq!(Condition::compile(&"!".repeat(1000)).unwrap_err(), ConditionError::TooDeep);
    let long = format!("result{}", " + 1".repeat(200));
    assert!(Condition::compile(&long).is_ok());
}

#[test]
fn a_number_that_is_none_is_never_an_answer() {
    for conditions in [
        r#"{"successCondition": "result < 0.5"}"#,
        r#"{"failureCondition": "result > 0.5"}"#,
        r#"{"successCondition": "true"}"#,
        r#"{"failureCondition": "false"}"#,
    ] {
        for none in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(judged(conditions, Number(none)), GateResult::Error, "{conditions}");
        }
        assert_eq!(judged(conditions, ConditionValue::Null), GateResult::NoData);
        assert_eq!(judged(conditions, Text(String::new())), GateResult::NoData);
        assert_eq!(judged(conditions, ConditionValue::List(Vec::new())), GateResult::NoData);
        assert_eq!(judge(&gate(conditions), &Variables::new()).result, GateResult::NoData);
    }
}

#[test]
fn a_number_that_becomes_none_on_the_way_is_an_error_and_no_pass() {
    for text in [
        "result / baseline > 1.5",
        "!(result / baseline <= 1.5)",
        "result - 1.0 > 3.0 || result / baseline > 1.5",
        "result / baseline != 1.0 && false",
    ] {
        let conditions = format!(r#"{{"failureCondition": "{text}"}}"#);
        assert_eq!(judged(&conditions, Number(0.0)), GateResult::Error, "{text}");
    }
    for hidden in ["(result / baseline > 1.5) == false", "[result / baseline > 1.5][0]"] {
        assert_eq!(Condition::compile(hidden).unwrap_err(), ConditionError::Nested, "{hidden}");
    }
    // Who asks first is answered.
    let guarded = r#"{"successCondition": "baseline == 0.0 || result / baseline < 1.5"}"#;
    assert_eq!(judged(guarded, Number(0.0)), GateResult::Pass);
}

#[test]
fn a_text_or_a_missing_field_is_no_number() {
    for conditions in [
        r#"{"successCondition": "result < 0.5"}"#,
        r#"{"failureCondition": "result > 0.5"}"#,
        r#"{"failureCondition": "result.errors > 3"}"#,
        r#"{"successCondition": "errors < 3"}"#,
        r#"{"successCondition": "result"}"#,
    ] {
        assert_eq!(judged(conditions, Text("0.1".to_owned())), GateResult::Error, "{conditions}");
        assert_eq!(judged(conditions, Text("NaN".to_owned())), GateResult::Error, "{conditions}");
    }
}

#[test]
fn both_conditions_make_room_for_neither() {
    let both = r#"{"successCondition": "result < 0.1", "failureCondition": "result > 0.5"}"#;
    assert_eq!(judged(both, Number(0.05)), GateResult::Pass);
    assert_eq!(judged(both, Number(0.3)), GateResult::Inconclusive);
    assert_eq!(judged(both, Number(0.6)), GateResult::Fail);
    let torn = r#"{"successCondition": "result > 0.1", "failureCondition": "result > 0.5"}"#;
    assert_eq!(judged(torn, Number(0.6)), GateResult::Fail, "a fail counts more than a pass");
}

#[test]
fn an_answer_in_fields_is_looked_at_by_name() {
    let answer =
        ConditionValue::from(serde_json::json!({ "open": 3, "state": "green", "ok": true }));
    for text in [
        "result.open < 5",
        "result.state == 'green'",
        "result.ok",
        "has(result.open) && result.open == 3",
        "result.state in ['green', 'yellow']",
        "result['open'] == 3",
        "result.state.startsWith('gr')",
    ] {
        let conditions = format!(r#"{{"successCondition": "{text}"}}"#);
        assert_eq!(judged(&conditions, answer.clone()), GateResult::Pass, "{text}");
    }
    let missing = r#"{"failureCondition": "has(result.errors) && result.errors > 1"}"#;
    assert_eq!(judged(missing, answer), GateResult::Pass, "asked for by name, and not there");
}
