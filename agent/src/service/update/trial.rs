//! Being tried: the agent, as a program of the one that tries it, which carries out nothing.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use wardring_protocol::{JobAnswer, JobQuery, PermitAnswer, PermitRequest, ReportAck, ReportBatch};

use crate::gateway::{Gateway, GatewayError};
use crate::service::host::{self, HostError};

/// Runs the agent until whoever tries it closes our standard input, which it does by ending, too. Says
/// on standard output when it runs and when a gateway answered.
///
/// # Errors
/// The agent cannot run.
pub fn trial(folder: &Path) -> Result<(), HostError> {
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        stop.send_replace(true);
    });
    host::try_out(folder, stopped)
}

/// Tells whoever tries us; once nobody listens it does not matter.
pub(in crate::service) fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{word}").and_then(|()| out.flush());
}

/// A gateway from which a program on trial takes no work: it could not be ended in good order then.
pub(in crate::service) struct OnTrial<G>(pub Arc<G>);

impl<G: Gateway> Gateway for OnTrial<G> {
    async fn poll(&self, query: &JobQuery) -> Result<JobAnswer, GatewayError> {
        let answer = self.0.poll(query).await?;
        say("contact");
        Ok(JobAnswer { job: None, ..answer })
    }

    async fn permit(&self, _request: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        Err(GatewayError::Unreachable { detail: "this program is on trial".to_owned() })
    }

    async fn report(&self, batch: &ReportBatch) -> Result<ReportAck, GatewayError> {
        let ack = self.0.report(batch).await?;
        say("contact");
        Ok(ack)
    }

    async fn is_there(&self) -> bool {
        self.0.is_there().await
    }
}
