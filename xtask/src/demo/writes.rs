//! How many writes an API server has taken, by its own metrics.

use anyhow::{Context, Result};
use kube::Client;

/// Writes to objects of our group, and events, since the API server started. `None` if its metrics may
/// not be read.
pub async fn count(client: &Client) -> Result<Option<u64>> {
    let request = http::Request::get("/metrics").body(Vec::new()).context("a GET has no body")?;
    match client.request_text(request).await {
        Ok(metrics) => Ok(Some(sum(&metrics))),
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => Ok(None),
        Err(error) => Err(error).context("failed to read the API server's metrics"),
    }
}

fn sum(metrics: &str) -> u64 {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix("apiserver_request_total{"))
        .filter_map(|line| line.rsplit_once("} "))
        .filter(|(labels, _)| is_ours(labels) && is_write(labels))
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .map(|value| value as u64)
        .sum()
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
    use super::sum;

    #[test]
    fn only_writes_to_our_objects_and_events_count() {
        let metrics = "\
# TYPE apiserver_request_total counter
apiserver_request_total{code=\"200\",group=\"wardring.dev\",resource=\"patchjobs\",verb=\"PATCH\"} 12
apiserver_request_total{code=\"201\",group=\"wardring.dev\",resource=\"patchjobs\",verb=\"POST\"} 3
apiserver_request_total{code=\"200\",group=\"wardring.dev\",resource=\"patchjobs\",verb=\"WATCH\"} 90
apiserver_request_total{code=\"200\",group=\"coordination.k8s.io\",resource=\"leases\",verb=\"PUT\"} 40
apiserver_request_total{code=\"201\",group=\"\",resource=\"events\",verb=\"POST\"} 2
";
        assert_eq!(sum(metrics), 17);
    }
}
