//! `install`, `uninstall` and what Windows starts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use wardring_agent::service::{self, Data, Order, Removal};

// A value that is empty counts as not given: Windows Installer hands over all that it knows of.

#[derive(Args)]
pub struct Install {
    /// Address of a gateway, https://HOST:PORT; may be repeated. An installed agent keeps its own
    /// without any.
    #[arg(long = "gateway", env = "WARDRING_GATEWAY", value_delimiter = ',')]
    gateways: Vec<String>,
    /// Enrolment token; needed until the device is enrolled, and not kept longer.
    #[arg(long, env = "WARDRING_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the enrolment token; better than a token on a command line, which Windows may record.
    #[arg(long, env = "WARDRING_TOKEN_FILE")]
    token_file: Option<OsString>,
    /// Name of the device; the computer's name by default.
    #[arg(long, env = "WARDRING_NAME")]
    name: Option<String>,
    /// Folder of journal, identity and log; Wardring in the folder for programs' data by default.
    #[arg(long, env = "WARDRING_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Proxy for the connection to the gateways, http://HOST:PORT.
    #[arg(long, env = "WARDRING_PROXY")]
    proxy: Option<String>,
    /// This program may take the place of a newer one, which otherwise stays and is only set up.
    #[arg(long)]
    allow_downgrade: bool,
}

#[derive(Args)]
pub struct Uninstall {
    /// Remove journal, identity and log, too: a later installation is a new device.
    #[arg(long, value_parser = switch, num_args = 0..=1, require_equals = true,
        default_value = "0", default_missing_value = "1", hide_default_value = true)]
    purge: bool,
    /// Also while the agent carries out a job, of which nobody learns how it ends then.
    #[arg(long, value_parser = switch, num_args = 0..=1, require_equals = true,
        default_value = "0", default_missing_value = "1", hide_default_value = true)]
    abandon_job: bool,
}

/// A switch that may also be given as a property of Windows Installer.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "" | "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("say 1 for yes, or 0 or nothing for no".to_owned()),
    }
}

#[derive(Args)]
pub struct Service {
    #[arg(long)]
    data_dir: PathBuf,
}

/// Tells the event log as well why something failed.
pub(super) fn told<T, E>(act: &str, done: Result<T, E>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    done.map_err(|error| {
        let error = anyhow::Error::new(error);
        service::refused(&format!("The agent was not {act}: {error:#}."));
        error
    })
}

/// Installs and says what was done.
pub fn install(install: Install) -> anyhow::Result<()> {
    let Install { gateways, token, token_file, name, data_dir, proxy, allow_downgrade } = install;
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let token_file = token_file.filter(|path| !path.is_empty()).map(PathBuf::from);
    let order = Order {
        gateways: gateways.into_iter().filter(|gateway| !gateway.is_empty()).collect(),
        proxy: given(proxy),
        token: given(token),
        token_file,
        name: given(name),
        folder: data_dir,
        allow_downgrade,
    };
    let installed = told("installed", service::install(&order))?;
    let (name, done) = (service::NAME, if installed.is_update { "updated" } else { "installed" });
    println!("Service {name} is {done} and runs as device {}.", installed.device);
    if let Some(newer) = &installed.stays {
        let this = env!("CARGO_PKG_VERSION");
        let text = format!(
            "The installed program, {newer}, is newer than this one, {this}, and stays; --allow-downgrade \
             puts this one in its place."
        );
        service::left_out(&text);
        println!("{text}");
    }
    println!("Program: {}", installed.program.display());
    println!("Data:    {}", installed.folder.display());
    if installed.is_enrolled {
        println!("The device is enrolled already; a token is not needed any more.");
    } else {
        println!("It asks for its certificate now; `wardring-agent status` says when it has it.");
    }
    Ok(())
}

/// Uninstalls and says what is left.
pub fn uninstall(uninstall: &Uninstall) -> anyhow::Result<()> {
    let data = if uninstall.purge { Data::Purge } else { Data::Keep };
    let removal = Removal { data, abandon_job: uninstall.abandon_job };
    let removed = told("removed", service::uninstall(removal))?;
    let name = service::NAME;
    if removed.had_service {
        println!("Service {name} is removed.");
    } else {
        println!("There was no service {name}.");
    }
    if !removed.is_program_gone {
        println!("The program itself runs just now; Windows deletes it at the next restart.");
    }
    match removed.kept {
        Some(folder) if uninstall.purge => {
            println!("{} holds files that are not the agent's, and stays.", folder.display());
        }
        Some(folder) => println!(
            "The device's identity and log stay in {}; --purge removes them.",
            folder.display()
        ),
        None => {}
    }
    Ok(())
}

/// Is the service.
pub fn serve(serve: Service) -> anyhow::Result<()> {
    Ok(service::host(serve.data_dir)?)
}
