//! What the agent needs beside the updates themselves: signatures, the network, processes, and a place
//! of its own on this Windows.

use std::path::Path;

use super::super::configmgr;
use super::super::registry::{LocalMachine, Registry};
use super::{LATER, Listed, SOON, must, refused, told};
use crate::ffi;
use crate::folder;
use crate::selftest::Finding;
use crate::selftest::Weight::Needed;
use crate::service::{EVENT_SOURCE, create_right, used_folder};

const SOURCES: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application";
/// Files of Windows that carry a signature of their own, in the order in which they are asked: what starts
/// before there are catalogues must (Microsoft Learn, "Embedded Signatures in a Driver File").
const SIGNED: [&str; 3] = ["ntoskrnl.exe", "winload.exe", "ntdll.dll"];

pub(super) const CHECKS: &[Listed] = &[
    Listed(
        Needed,
        "standalone-installer",
        "Windows' own installer for packages by address (wusa.exe) is there",
        LATER,
        standalone_installer,
    ),
    Listed(
        Needed,
        "signatures",
        "Windows tells whose signature a file carries (WinVerifyTrust)",
        LATER,
        signatures,
    ),
    Listed(Needed, "certificate-roots", "Windows names the roots that it trusts", SOON, roots),
    Listed(
        Needed,
        "network-neighbours",
        "Windows names the routers and DNS servers of the device (GetAdaptersAddresses)",
        SOON,
        neighbours,
    ),
    Listed(Needed, "echo", "routers can be sent an echo request (IcmpCreateFile)", SOON, echo),
    Listed(Needed, "processes", "Windows lists the programs that run", SOON, processes),
    Listed(
        Needed,
        "listening-ports",
        "Windows lists the TCP ports that are listened on",
        SOON,
        listening_ports,
    ),
    Listed(
        Needed,
        "configmgr",
        "the ConfigMgr client, where there is one, says whether it waits for a restart",
        LATER,
        configmgr,
    ),
    Listed(
        Needed,
        "data-folder",
        "the agent's data folder is open to SYSTEM and the administrators alone",
        SOON,
        data_folder,
    ),
    Listed(
        Needed,
        "event-source",
        "milestones can be written to the Application log",
        SOON,
        event_source,
    ),
    Listed(
        Needed,
        "service-right",
        "a service can be made (SC_MANAGER_CREATE_SERVICE)",
        SOON,
        service_right,
    ),
];

/// Windows signs it in a catalogue, which no job asks: it is taken from Windows' own folder.
fn standalone_installer() -> Finding {
    let program = match ffi::system_folder() {
        Ok(folder) => folder.join("wusa.exe"),
        Err(error) => return refused(&error),
    };
    let path = program.display();
    if !program.is_file() {
        return Finding::differs(format!("there is no {path}"));
    }
    match ffi::publisher(&program) {
        Ok(Some(name)) => judged(&path.to_string(), &name),
        Ok(None) => Finding::ok(format!("{path}; it carries no signature of its own")),
        Err(error) => Finding::differs(format!("{path}: {error}")),
    }
}

fn signatures() -> Finding {
    let folder = match ffi::system_folder() {
        Ok(folder) => folder,
        Err(error) => return refused(&error),
    };
    for name in SIGNED {
        let file = folder.join(name);
        match file.is_file().then(|| ffi::publisher(&file)) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(signer))) => return judged(name, &signer),
            Some(Err(error)) => return Finding::differs(format!("{name}: {error}")),
        }
    }
    Finding::unknown(format!("none carries a signature: {}", SIGNED.join(", ")))
}

/// A part of Windows that somebody else signed is none.
fn judged(file: &str, signer: &str) -> Finding {
    let evidence = format!("{file} is signed by {signer}");
    if signer.contains("Microsoft") { Finding::ok(evidence) } else { Finding::differs(evidence) }
}

fn roots() -> Finding {
    match ffi::roots().len() {
        0 => Finding::differs("it names none; no package can be fetched by https"),
        count => Finding::ok(format!("{count} roots")),
    }
}

fn neighbours() -> Finding {
    must(ffi::find_neighbours(), |found| {
        format!("{} routers, {} DNS servers", found.routers.len(), found.dns.len())
    })
}

fn echo() -> Finding {
    must(ffi::can_echo(), |()| "a handle was opened and closed".to_owned())
}

fn processes() -> Finding {
    let own = std::env::current_exe().ok();
    let own = own.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    match ffi::process_images() {
        Err(error) => refused(&error),
        Ok(images) if images.iter().any(|image| image.eq_ignore_ascii_case(&own)) => {
            Finding::ok(format!("{} programs, this one among them", images.len()))
        }
        Ok(images) => Finding::differs(format!("{} programs, without {own}", images.len())),
    }
}

fn listening_ports() -> Finding {
    must(ffi::find_listening_ports(), |ports| format!("{} ports", ports.len()))
}

fn configmgr() -> Finding {
    match configmgr::waits_for_restart() {
        None => Finding::ok("there is no client"),
        Some(Ok(waits)) => {
            Finding::ok(if waits { "it waits for one" } else { "it waits for none" })
        }
        Some(Err(why)) => Finding::differs(format!("there is a client, and {why}")),
    }
}

fn data_folder() -> Finding {
    let data = match used_folder() {
        Ok(data) => data,
        Err(error) => return Finding::differs(error.to_string()),
    };
    let path = data.display();
    match data.try_exists() {
        Ok(false) => Finding::ok(format!("{path} is not there yet; `install` makes it")),
        Ok(true) => match folder::check(&data) {
            Ok(()) => Finding::ok(format!("{path} is")),
            Err(error) => Finding::differs(error.to_string()),
        },
        Err(error) => Finding::unknown(format!("{path}: {error}")),
    }
}

fn event_source() -> Finding {
    if let Err(error) = ffi::EventSource::open(EVENT_SOURCE) {
        return Finding::differs(format!("it does not open: {}", told(&error)));
    }
    match LocalMachine.has_key(&format!(r"{SOURCES}\{EVENT_SOURCE}")) {
        Ok(true) => Finding::ok(format!("the source {EVENT_SOURCE} is registered and opens")),
        Ok(false) => Finding::ok("it opens; `install` registers the source with its texts"),
        Err(error) => Finding::unknown(error.to_string()),
    }
}

fn service_right() -> Finding {
    match create_right() {
        Ok(()) => Finding::ok("the service manager was opened for that, and nothing was made"),
        Err(error) => Finding::unknown(error.to_string()),
    }
}
