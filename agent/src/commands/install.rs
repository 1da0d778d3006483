//! `install`, `uninstall` and what Windows starts.

use std::path::PathBuf;

use clap::Args;
use wardring_agent::service::{self, Order};

#[derive(Args)]
pub struct Install {
    /// Address of a gateway, https://HOST:PORT; may be repeated.
    #[arg(long = "gateway", env = "WARDRING_GATEWAY", value_delimiter = ',', required = true)]
    gateways: Vec<String>,
    /// Enrolment token; needed until the device is enrolled, and not kept longer.
    #[arg(long, env = "WARDRING_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Name of the device; the computer's name by default.
    #[arg(long, env = "WARDRING_NAME")]
    name: Option<String>,
    /// Folder of journal, identity and log; Wardring in the folder for programs' data by default.
    #[arg(long, env = "WARDRING_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Proxy for the connection to the gateways, http://HOST:PORT.
    #[arg(long, env = "WARDRING_PROXY")]
    proxy: Option<String>,
}

#[derive(Args)]
pub struct Uninstall {
    /// Remove journal, identity and log, too: a later installation is a new device.
    #[arg(long)]
    purge: bool,
}

#[derive(Args)]
pub struct Service {
    #[arg(long)]
    data_dir: PathBuf,
}

/// Installs and says what was done.
pub fn install(install: Install) -> anyhow::Result<()> {
    let Install { gateways, token, name, data_dir, proxy } = install;
    let installed = service::install(&Order { gateways, proxy, token, name, folder: data_dir })?;
    let (name, done) = (service::NAME, if installed.is_update { "updated" } else { "installed" });
    println!("Service {name} is {done} and runs as device {}.", installed.device);
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
    let removed = service::uninstall(uninstall.purge)?;
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
