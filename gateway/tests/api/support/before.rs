//! A client whose requests wait for something to have happened.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::Request;
use kube::client::Body;
use tower::{Layer, Service};

/// What happens before a request of this method and path goes to the API server.
pub type Event = Arc<dyn Fn(&str, &str) -> BoxFuture<'static, ()> + Send + Sync>;

/// Has an event happen before each request.
#[derive(Clone)]
pub struct Before(pub Event);

impl<S> Layer<S> for Before {
    type Service = Waiting<S>;

    fn layer(&self, inner: S) -> Waiting<S> {
        Waiting { inner, event: self.0.clone() }
    }
}

/// A service that waits for an event.
pub struct Waiting<S> {
    inner: S,
    event: Event,
}

impl<S> Service<Request<Body>> for Waiting<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let happened = (self.event)(request.method().as_str(), request.uri().path());
        // Nothing is sent before it is awaited.
        let answer = self.inner.call(request);
        Box::pin(async move {
            happened.await;
            answer.await
        })
    }
}
