//! Prometheus: an instant, or a range reduced to one number, and the same of an earlier time.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use wardring_api::{PrometheusGate, PrometheusRange, RangeReduction};
use wardring_planner::condition::ConditionValue;

use super::{
    context::Context,
    reading::{Found, Reading, number},
    speak::{Speak, read_json},
};
use crate::outbound::{Endpoint, Question};

/// What all the names of devices in one query may weigh: servers refuse longer addresses.
const MAX_NAMES: usize = 6 * 1024;
/// Samples of a range; more is a step too fine to be meant.
const MAX_SAMPLES: i64 = 1_000;
/// How far the time of a sample may be from the time that was asked for: further, and it comes out of
/// somebody's cache.
const MAX_SHIFT: f64 = 1.0;

/// Measures.
pub async fn read(endpoint: &Endpoint, gate: &PrometheusGate, context: &Context) -> Reading {
    let query = match resolve(&gate.query, context) {
        Ok(query) => query,
        Err(why) => return Reading { query: gate.query.clone(), found: Found::Fault(why) },
    };
    let range = gate.range.as_ref();
    let found = async {
        let result = match sample(endpoint, &query, range, context.now).await? {
            Sample::Value(value) => value,
            Sample::None => return Ok(Found::Nothing("the query has no result".to_owned())),
        };
        let Some(baseline) = &gate.baseline else {
            return Ok(Found::values([("result", ConditionValue::Number(result))]));
        };
        let then = match baseline.offset {
            Some(offset) => context.now.checked_sub(offset.duration()),
            None => Ok(context.stage_began),
        };
        let then = then.map_err(|_| "the baseline lies before all time".to_owned())?;
        match sample(endpoint, &query, range, then).await? {
            Sample::Value(before) => Ok(Found::values([
                ("result", ConditionValue::Number(result)),
                ("baseline", ConditionValue::Number(before)),
            ])),
            Sample::None => Ok(Found::Nothing(format!("the query has no result at {then}"))),
        }
    };
    let found = found.await.unwrap_or_else(Found::Fault);
    Reading { query, found }
}

/// The query with what stands in braces filled in.
fn resolve(template: &str, context: &Context) -> Result<String, String> {
    let mut query = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or("`{{` without `}}` in the query")?;
        query.push_str(before);
        match name.trim() {
            "namespace" => query.push_str(&context.namespace),
            "rollout" => query.push_str(&context.rollout),
            "stage" => query.push_str(&context.stage),
            "devices" => query.push_str(&alternation(context)?),
            _ => {
                return Err(
                    "the query may hold {{namespace}}, {{rollout}}, {{stage}} and {{devices}}, and nothing else in such braces".to_owned(),
                );
            }
        }
        rest = after;
    }
    query.push_str(rest);
    Ok(query)
}

/// Every name of every device, to stand behind `=~`. A dot is no wildcard.
fn alternation(context: &Context) -> Result<String, String> {
    let names: Vec<String> = context.names().iter().map(|name| name.replace('.', "[.]")).collect();
    if names.is_empty() {
        return Err("the stage has no device to put in the place of {{devices}}".to_owned());
    }
    let text = format!("(?i:{})", names.join("|"));
    if text.len() > MAX_NAMES {
        return Err(
            "the stage has too many devices for {{devices}}; select them by a label of the metric"
                .to_owned(),
        );
    }
    Ok(text)
}

enum Sample {
    Value(f64),
    None,
}

async fn sample(
    endpoint: &Endpoint,
    query: &str,
    range: Option<&PrometheusRange>,
    at: Timestamp,
) -> Result<Sample, String> {
    let seconds = |at: Timestamp| format!("{:.3}", instant(at));
    let mut parameters = vec![("query", query.to_owned())];
    let Some(range) = range else {
        parameters.push(("time", seconds(at)));
        let question =
            Question { path: "/api/v1/query".to_owned(), query: parameters, ..Question::default() };
        return judge(read_json(endpoint, question, Speak::Prometheus).await?, at, None);
    };
    let (over, step) = (range.over.duration(), range.step().duration());
    if step.as_secs() < 1 || over.as_secs() / step.as_secs() > MAX_SAMPLES {
        return Err(format!("the range has more than {MAX_SAMPLES} steps"));
    }
    let start = at.checked_sub(over).map_err(|_| "the range begins before all time".to_owned())?;
    parameters.extend([
        ("start", seconds(start)),
        ("end", seconds(at)),
        ("step", format!("{}", step.as_secs())),
    ]);
    let path = "/api/v1/query_range".to_owned();
    let question = Question { path, query: parameters, ..Question::default() };
    let answer = read_json(endpoint, question, Speak::Prometheus).await?;
    judge(answer, at, Some((start, step, range.reduce)))
}

fn instant(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1_000.0
}

#[derive(Deserialize)]
struct Envelope {
    status: String,
    data: Option<Data>,
    #[serde(default)]
    warnings: Vec<IgnoredAny>,
    /// VictoriaMetrics' word for the same.
    #[serde(default, rename = "isPartial")]
    is_partial: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

/// One series; native histograms have neither field.
#[derive(Deserialize)]
struct Series {
    value: Option<(f64, String)>,
    values: Option<Vec<(f64, String)>>,
}

type Span = (Timestamp, SignedDuration, RangeReduction);

/// What an answer says of `at`.
fn judge(answer: Envelope, at: Timestamp, range: Option<Span>) -> Result<Sample, String> {
    let malformed = || "the answer is not what Prometheus answers".to_owned();
    if answer.status != "success" {
        return Err("Prometheus could not answer the query".to_owned());
    }
    // Such as a store behind it that is down: a part of the truth looks just like the truth.
    if answer.is_partial || !answer.warnings.is_empty() {
        return Err("the answer comes with warnings, so it may be a part only".to_owned());
    }
    let data = answer.data.ok_or_else(malformed)?;
    let (start, step, reduction) = match (range, data.result_type.as_str()) {
        (None, "scalar") => {
            let sample = serde_json::from_value(data.result).map_err(|_| malformed())?;
            return Ok(Sample::Value(value_at(&sample, at)?));
        }
        (None, "vector") => {
            return match one(data.result)? {
                None => Ok(Sample::None),
                Some(Series { value: Some(sample), values: None }) => {
                    Ok(Sample::Value(value_at(&sample, at)?))
                }
                Some(_) => Err(malformed()),
            };
        }
        (Some(range), "matrix") => range,
        (_, "string" | "scalar" | "vector" | "matrix") => {
            return Err("the query's result is no number; aggregate it to one".to_owned());
        }
        _ => return Err(malformed()),
    };
    let samples = match one(data.result)? {
        None => return Ok(Sample::None),
        Some(Series { value: None, values: Some(samples) }) => samples,
        Some(_) => return Err(malformed()),
    };
    let mut numbers = Vec::new();
    for (time, text) in &samples {
        if *time < instant(start) - MAX_SHIFT || *time > instant(at) + MAX_SHIFT {
            return Err(of_another_time());
        }
        numbers.push(number(text).ok_or_else(no_number)?);
    }
    // The end of the range is what it is asked for.
    let is_recent = |(time, _): &(f64, String)| *time >= instant(at) - 2.0 * step.as_secs_f64();
    if !samples.last().is_some_and(is_recent) {
        return Ok(Sample::None);
    }
    let reduced = reduce(&numbers, reduction);
    if reduced.is_finite() { Ok(Sample::Value(reduced)) } else { Err(no_number()) }
}

fn no_number() -> String {
    "the query's value is not a finite number".to_owned()
}

fn of_another_time() -> String {
    "the answer is of another time than was asked for; something on the way caches".to_owned()
}

fn value_at((time, text): &(f64, String), at: Timestamp) -> Result<f64, String> {
    // Also of NaN: only what is near is near.
    if (*time - instant(at)).abs() <= MAX_SHIFT {
        number(text).ok_or_else(no_number)
    } else {
        Err(of_another_time())
    }
}

fn one(result: Value) -> Result<Option<Series>, String> {
    let mut series: Vec<Series> = serde_json::from_value(result)
        .map_err(|_| "the answer is not what Prometheus answers".to_owned())?;
    match series.len() {
        0 | 1 => Ok(series.pop()),
        count => Err(format!("the query has {count} series; aggregate it to one")),
    }
}

fn reduce(numbers: &[f64], reduction: RangeReduction) -> f64 {
    match reduction {
        RangeReduction::Last => numbers.last().copied().unwrap_or(f64::NAN),
        RangeReduction::Average => numbers.iter().sum::<f64>() / numbers.len() as f64,
        RangeReduction::Sum => numbers.iter().sum(),
        RangeReduction::Min => numbers.iter().copied().fold(f64::INFINITY, f64::min),
        RangeReduction::Max => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::context::tests::*, *};

    fn judged(answer: Value, range: Option<Span>) -> Result<Option<f64>, String> {
        let answer = serde_json::from_value(answer).map_err(|_| "no envelope".to_owned())?;
        match judge(answer, at("2026-11-21T03:00:00Z"), range)? {
            Sample::Value(value) => Ok(Some(value)),
            Sample::None => Ok(None),
        }
    }

    fn success(kind: &str, result: Value) -> Value {
        json!({ "status": "success", "data": { "resultType": kind, "result": result } })
    }

    const NOW: f64 = 1_795_230_000.0;

    #[test]
    fn an_instant_is_one_finite_number_of_now_or_it_is_no_answer() {
        assert_eq!(instant(at("2026-11-21T03:00:00Z")), NOW);
        let vector =
            |text: &str| success("vector", json!([{ "metric": {}, "value": [NOW, text] }]));
        assert_eq!(judged(vector("0.25"), None), Ok(Some(0.25)));
        assert_eq!(judged(success("scalar", json!([NOW, "3"])), None), Ok(Some(3.0)));
        assert_eq!(judged(success("vector", json!([])), None), Ok(None));
        for text in ["NaN", "+Inf", "-Inf", "", "good", "1e999", "null"] {
            assert!(judged(vector(text), None).is_err(), "{text}");
        }
        let two = json!([
            { "metric": { "a": "1" }, "value": [NOW, "0"] },
            { "metric": { "a": "2" }, "value": [NOW, "0"] },
        ]);
        let histogram = json!([{ "metric": {}, "histogram": [NOW, { "count": "1" }] }]);
        let partial = json!({
            "status": "success", "warnings": ["a store is down"],
            "data": { "resultType": "vector", "result": [{ "value": [NOW, "0"] }] },
        });
        let half = json!({
            "status": "success", "isPartial": true,
            "data": { "resultType": "vector", "result": [{ "value": [NOW, "0"] }] },
        });
        for answer in [
            half,
            success("vector", two),
            success("vector", histogram),
            success("vector", json!([{ "value": [NOW - 600.0, "0"] }])),
            success("vector", json!([{ "value": [NOW, 0] }])),
            success("vector", json!([{ "value": [NOW] }])),
            success("vector", json!({ "value": [NOW, "0"] })),
            success("vector", json!("0")),
            success("string", json!([NOW, "0"])),
            success("matrix", json!([{ "values": [[NOW, "0"]] }])),
            success("tensor", json!([])),
            json!({ "status": "error", "errorType": "bad_data", "error": "secret" }),
            json!({ "status": "success" }),
            json!({}),
            json!([]),
            json!(0),
            partial,
        ] {
            let judged = judged(answer.clone(), None);
            assert!(
                judged.as_ref().is_err_and(|why| !why.contains("secret")),
                "{answer}: {judged:?}"
            );
        }
    }

    #[test]
    fn a_range_is_reduced_to_one_number_and_an_old_end_is_no_data() {
        let range = |reduction| {
            Some((at("2026-11-21T02:00:00Z"), SignedDuration::from_mins(10), reduction))
        };
        let matrix = |samples: &[(f64, &str)]| {
            let list: Vec<_> =
                samples.iter().map(|(back, text)| json!([NOW - back, text])).collect();
            success("matrix", json!([{ "metric": {}, "values": list }]))
        };
        let samples = [(1_200.0, "4"), (600.0, "1"), (0.0, "1")];
        for (reduction, expected) in [
            (RangeReduction::Last, 1.0),
            (RangeReduction::Average, 2.0),
            (RangeReduction::Sum, 6.0),
            (RangeReduction::Min, 1.0),
            (RangeReduction::Max, 4.0),
        ] {
            assert_eq!(judged(matrix(&samples), range(reduction)), Ok(Some(expected)));
        }
        let old = [(3_000.0, "1"), (2_400.0, "1")];
        assert_eq!(judged(matrix(&old), range(RangeReduction::Max)), Ok(None));
        assert_eq!(judged(matrix(&[]), range(RangeReduction::Max)), Ok(None));
        assert_eq!(judged(success("matrix", json!([])), range(RangeReduction::Max)), Ok(None));
        for samples in [
            vec![(600.0, "NaN"), (0.0, "1")],
            vec![(90_000.0, "1"), (0.0, "1")],
            vec![(600.0, "1"), (-600.0, "1")],
            vec![(600.0, "1e308"), (0.0, "1e308")],
        ] {
            let judged = judged(matrix(&samples), range(RangeReduction::Sum));
            assert!(judged.is_err(), "{samples:?}: {judged:?}");
        }
    }

    #[test]
    fn names_stand_in_a_query_as_names_and_not_as_patterns() {
        let context = context();
        let query =
            resolve("up{instance=~\"{{ devices }}(:[0-9]+)?\",ns=\"{{namespace}}\"}", &context);
        let expected = "up{instance=~\"(?i:web-1|web-2|web1[.]clinic[.]example|web2)(:[0-9]+)?\",ns=\"clinic\"}";
        assert_eq!(query.unwrap(), expected);
        assert!(resolve("{{secret}}", &context).is_err());
        assert!(resolve("{{devices", &context).is_err());
        let empty = Context { population: Vec::new(), ..context };
        assert!(
            resolve("up{a=~\"{{devices}}\"}", &empty).is_err(),
            "`(?i:)` would match everything"
        );
    }
}
