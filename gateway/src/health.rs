//! The plain listener for the kubelet and Prometheus. Nothing on it comes from or goes to devices.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use crate::Gateway;

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(gateway);
    axum::serve(listener, router).await
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let missing = gateway.readiness.missing();
    if gateway.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping".to_owned())
    } else if let Some(fault) = gateway.clock.fault() {
        (StatusCode::SERVICE_UNAVAILABLE, fault)
    } else if missing.is_empty() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        let sentence = format!("the gateway still waits for {}", missing.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, sentence)
    }
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let text = gateway.metrics.text(gateway.writer.load(), gateway.cache.sizes());
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
