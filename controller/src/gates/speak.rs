//! One question with an answer in JSON, and the words for when there is none.

use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::outbound::{Answer, Endpoint, Question};

/// Whom we speak to, for the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speak {
    /// Prometheus.
    Prometheus,
    /// Alertmanager.
    Alertmanager,
    /// A webhook.
    Webhook,
    /// A service that counts tickets.
    Tickets,
}

impl Speak {
    fn name(self) -> &'static str {
        match self {
            Speak::Prometheus => "Prometheus",
            Speak::Alertmanager => "Alertmanager",
            Speak::Webhook => "the webhook",
            Speak::Tickets => "the tickets service",
        }
    }
}

/// Asks, and says in our words why there is no answer.
pub async fn ask(endpoint: &Endpoint, question: Question, who: Speak) -> Result<Answer, String> {
    endpoint.ask(question).await.map_err(|error| format!("{} gives no answer: {error}", who.name()))
}

/// Asks for JSON of a shape.
pub async fn read_json<T: DeserializeOwned>(
    endpoint: &Endpoint,
    question: Question,
    who: Speak,
) -> Result<T, String> {
    let answer = ask(endpoint, question, who).await?;
    read_answer(&answer, who)
}

/// The JSON of an answer that went well.
pub fn read_answer<T: DeserializeOwned>(answer: &Answer, who: Speak) -> Result<T, String> {
    if answer.status != StatusCode::OK {
        return Err(refused(answer.status, who));
    }
    // What is wrong with it is not said: the library's words repeat a part of it.
    serde_json::from_slice(&answer.body)
        .map_err(|_| format!("the answer is not what {} should answer", who.name()))
}

/// What a status other than the expected one means.
pub fn refused(status: StatusCode, who: Speak) -> String {
    let (name, code) = (who.name(), status.as_u16());
    match code {
        401 | 403 => format!("{name} does not accept our credentials (HTTP {code})"),
        404 => format!("there is no such address at {name} (HTTP 404)"),
        400 | 422 => format!("{name} does not understand the question (HTTP {code})"),
        429 => format!("{name} is asked too often (HTTP 429)"),
        500..=599 => format!("{name} is not well (HTTP {code})"),
        _ => format!("{name} answers with HTTP {code}"),
    }
}
