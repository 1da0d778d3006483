//! From an answer and the conditions of its gate to one of the outcomes. Whoever measures uses this, so
//! that the same answer is the same outcome everywhere.

use wardring_api::{Gate, GateResult, GateType, NoData, conditions::clip};

use super::{Condition, ConditionValue, Variables};

/// What one answer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The outcome. Missing data is [`GateResult::NoData`], whatever the gate makes of it.
    pub result: GateResult,
    /// The value, in at most 128 bytes.
    pub value: Option<String>,
    /// Why it is what it is, in at most 256 bytes.
    pub message: String,
}

impl Judgement {
    fn new(result: GateResult, value: Option<&ConditionValue>, message: &str) -> Judgement {
        let value = value.map(|value| clip(&value.told(), 128));
        Judgement { result, value, message: clip(message, 256) }
    }
}

/// What the value of a gate is held against, in words.
pub fn threshold(gate: &Gate) -> String {
    let text = match (success(gate), gate.failure_condition.as_deref()) {
        (Some(success), Some(failure)) => format!("{success}, and not {failure}"),
        (Some(success), None) => success.to_owned(),
        (None, Some(failure)) => format!("not {failure}"),
        (None, None) => String::new(),
    };
    clip(&crate::explain::one_line(&text), 512)
}

/// The condition for a pass; gates that count what is wrong need none.
fn success(gate: &Gate) -> Option<&str> {
    let counts = matches!(gate.kind, GateType::Alertmanager | GateType::DeviceHealth);
    let given = gate.success_condition.as_deref();
    given.or((counts && gate.failure_condition.is_none()).then_some("result == 0"))
}

/// What is wrong with the gate's conditions, if anything is.
pub(crate) fn unreadable(gate: &Gate) -> Option<String> {
    let expression = gate.cel.as_ref().map(|cel| ("cel.expression", cel.expression.as_str()));
    let success = gate.success_condition.as_deref().map(|text| ("successCondition", text));
    let failure = gate.failure_condition.as_deref().map(|text| ("failureCondition", text));
    let mut all = [expression, success, failure].into_iter().flatten();
    all.find_map(|(field, text)| {
        let error = Condition::compile(text).err()?;
        Some(format!("{field} cannot be used: {error}"))
    })
}

/// Judges an answer by the gate's conditions. `variables` holds the answer as `result`, and whatever else
/// the type of the gate promises.
pub fn judge(gate: &Gate, variables: &Variables) -> Judgement {
    let result = variables.get("result");
    let Some(value) = result.filter(|value| !value.is_empty()) else {
        return Judgement::new(GateResult::NoData, result, "there is no data");
    };
    if variables.values().any(ConditionValue::has_a_number_that_is_none) {
        let message = "a number in the answer is none (NaN or infinite)";
        return Judgement::new(GateResult::Error, Some(value), message);
    }
    let holds = |text: Option<&str>| -> Result<Option<bool>, String> {
        let Some(text) = text else { return Ok(None) };
        let condition = Condition::compile(text).map_err(|error| error.to_string())?;
        condition.holds(variables).map(Some)
    };
    let answers = holds(success(gate))
        .and_then(|success| Ok((success, holds(gate.failure_condition.as_deref())?)));
    let (result, message) = match answers {
        Err(error) => (GateResult::Error, format!("the condition cannot be answered: {error}")),
        Ok((_, Some(true))) | Ok((Some(false), None)) => (GateResult::Fail, String::new()),
        Ok((Some(true), _)) | Ok((None, Some(false))) => (GateResult::Pass, String::new()),
        Ok((Some(false), Some(false))) => {
            (GateResult::Inconclusive, "neither condition holds".to_owned())
        }
        Ok((None, None)) => (GateResult::Error, "the gate has no condition".to_owned()),
    };
    Judgement::new(result, Some(value), &message)
}

/// Measures a gate of type Cel, over counters alone.
pub fn measure(gate: &Gate, counters: &Variables) -> Judgement {
    let expression = gate.cel.as_ref().map_or("", |cel| cel.expression.as_str());
    let value = Condition::compile(expression)
        .map_err(|error| error.to_string())
        .and_then(|condition| condition.value(counters));
    match value {
        Ok(value) => {
            let mut variables = counters.clone();
            variables.insert("result".to_owned(), value);
            judge(gate, &variables)
        }
        Err(error) => {
            let message = format!("the expression cannot be answered: {error}");
            Judgement::new(GateResult::Error, None, &message)
        }
    }
}

/// What an outcome means for the gate: missing data may count for something.
pub(crate) fn counted(gate: &Gate, result: GateResult) -> GateResult {
    match (result, gate.no_data) {
        (GateResult::NoData, NoData::Fail) => GateResult::Fail,
        (GateResult::NoData, NoData::Pass) => GateResult::Pass,
        (result, _) => result,
    }
}
