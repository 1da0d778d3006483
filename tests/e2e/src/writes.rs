//! How many writes an API server has taken, by its own metrics.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::Client;

/// Writes by resource, such as `patchjobs/status`.
pub type Writes = BTreeMap<String, u64>;

/// Writes to objects of our group, and events, since the API server started. `None` if its metrics may
/// not be read.
pub async fn count(client: &Client) -> Result<Option<Writes>> {
    let request = http::Request::get("/metrics").body(Vec::new()).context("a GET has no body")?;
    match client.request_text(request).await {
        Ok(metrics) => Ok(Some(sum(&metrics))),
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => Ok(None),
        Err(error) => Err(error).context("failed to read the API server's metrics"),
    }
}

/// What was written after `before` was counted.
pub fn since(before: &Writes, after: Writes) -> Writes {
    let earlier = |resource: &str| before.get(resource).copied().unwrap_or(0);
    let more = after.into_iter().map(|(resource, total)| {
        let more = total.saturating_sub(earlier(&resource));
        (resource, more)
    });
    more.filter(|(_, more)| *more > 0).collect()
}

fn sum(metrics: &str) -> Writes {
    let mut writes = Writes::new();
    let counters = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("apiserver_request_total{"))
        .filter_map(|line| line.rsplit_once("} "));
    for (labels, value) in counters.filter(|(labels, _)| is_ours(labels) && is_write(labels)) {
        let resource = label(labels, "resource").to_owned();
        let name = match label(labels, "subresource") {
            "" => resource,
            subresource => format!("{resource}/{subresource}"),
        };
        *writes.entry(name).or_default() += value.parse::<f64>().unwrap_or(0.0) as u64;
    }
    writes
}

/// The value of one label, empty if there is none.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=\"");
    let mut parts = labels.split(',');
    let value = parts.find_map(|part| part.strip_prefix(start.as_str()));
    value.map_or("", |value| value.trim_end_matches('"'))
}

fn is_ours(labels: &str) -> bool {
    labels.contains("group=\"wardring.dev\"") || labels.contains("resource=\"events\"")
}

fn is_write(labels: &str) -> bool {
    ["POST", "PUT", "PATCH", "APPLY", "DELETE"]
        .iter()
        .any(|verb| labels.contains(&format!("verb=\"{verb}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_to_our_objects_and_events_count() {
        let metrics = "\
# TYPE apiserver_request_total counter
apiserver_request_total{code=\"200\",group=\"wardring.dev\",resource=\"patchjobs\",subresource=\"status\",verb=\"PATCH\"} 12
apiserver_request_total{code=\"201\",group=\"wardring.dev\",resource=\"patchjobs\",verb=\"POST\"} 3
apiserver_request_total{code=\"200\",group=\"wardring.dev\",resource=\"patchjobs\",verb=\"WATCH\"} 90
apiserver_request_total{code=\"200\",group=\"coordination.k8s.io\",resource=\"leases\",verb=\"PUT\"} 40
apiserver_request_total{code=\"201\",group=\"\",resource=\"events\",verb=\"POST\"} 2
";
        let counted = sum(metrics);
        let entry = |name: &str, writes| (name.to_owned(), writes);
        let (status, jobs, events) =
            (entry("patchjobs/status", 12), entry("patchjobs", 3), entry("events", 2));
        assert_eq!(counted, Writes::from([status.clone(), jobs, events]));
        let before = Writes::from([entry("patchjobs", 3), entry("events", 1)]);
        assert_eq!(since(&before, counted), Writes::from([status, entry("events", 1)]));
    }
}
