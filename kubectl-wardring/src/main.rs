//! `kubectl wardring`: what people ask of patch rollouts at a terminal.
//!
//! It reads and writes objects under the user's own identity and nothing else: no device is reached from
//! here, and `status` never lists devices, so it costs the same for ten and for a hundred thousand.

mod approve;
mod args;
mod cluster;
mod complaint;
mod enroll;
mod explain;
mod hold;
mod output;
mod paint;
mod plan;
mod rollback;
mod standing;
mod status;
mod stop;
mod table;
mod verbs;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use wardring_api::Decided;

use crate::{
    args::{Args, Command, Held, Released},
    cluster::Cluster,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", complaint::sentence(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<ExitCode> {
    let cluster = Cluster::connect(&args.connection).await?;
    let limit = args.connection.limit();
    let watches = matches!(&args.command, Command::Status(status) if status.watch);
    let (Some(limit), false) = (limit, watches) else { return obey(&cluster, &args.command).await };
    match tokio::time::timeout(limit, obey(&cluster, &args.command)).await {
        Ok(result) => result,
        Err(_) => bail!(
            "the API server did not answer within {}; --request-timeout gives it longer",
            args.connection.request_timeout
        ),
    }
}

async fn obey(cluster: &Cluster, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Status(status) => return status::run(cluster, status).await,
        Command::Explain(explain) => explain::run(cluster, explain).await?,
        Command::Plan(plan) => plan::run(cluster, plan).await?,
        Command::Enroll(enroll) => enroll::run(cluster, enroll).await?,
        Command::Suspend(verb) => verbs::suspend(cluster, verb).await?,
        Command::Resume(verb) => verbs::resume(cluster, verb).await?,
        Command::Abort(verb) => verbs::abort(cluster, verb).await?,
        Command::Retry(verb) => verbs::retry(cluster, verb).await?,
        Command::Hold(Held::Device(verb)) => hold::devices(cluster, verb).await?,
        Command::Hold(Held::Update(verb)) => hold::updates(cluster, verb).await?,
        Command::Release(Released::Device(verb)) => verbs::release(cluster, verb).await?,
        Command::Release(Released::Update(verb)) => hold::release_updates(cluster, verb).await?,
        Command::Approve(verb) => approve::run(cluster, verb, Decided::Approve).await?,
        Command::Reject(verb) => approve::run(cluster, verb, Decided::Reject).await?,
        Command::Rollback(verb) => rollback::run(cluster, verb).await?,
        Command::Stop(verb) => stop::stop(cluster, verb).await?,
        Command::Lift(verb) => stop::lift(cluster, verb).await?,
    }
    Ok(ExitCode::SUCCESS)
}
