//! The command line, with kubectl's words for what kubectl has words for.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use wardring_api::{Cap, KbId, Span};

/// Patch rollouts of Windows devices.
#[derive(Parser)]
#[command(name = "kubectl wardring", bin_name = "kubectl wardring", version)]
pub struct Args {
    /// How to reach the cluster.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// kubectl's connection flags.
#[derive(ClapArgs)]
#[command(next_help_heading = "Connection (as in kubectl)")]
pub struct Connection {
    /// Path of the kubeconfig file
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<std::path::PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Cluster of the kubeconfig
    #[arg(long, global = true)]
    pub cluster: Option<String>,
    /// User of the kubeconfig
    #[arg(long, global = true)]
    pub user: Option<String>,
    /// Namespace; default: the context's
    #[arg(short, long, global = true, value_parser = object)]
    pub namespace: Option<String>,
    /// User to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to impersonate (repeatable)
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
    /// Longest time for one request, such as 5s or 1m; 0 waits for ever
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub request_timeout: Span,
}

impl Connection {
    /// The longest time for a request, if there is one.
    pub fn limit(&self) -> Option<std::time::Duration> {
        let limit = std::time::Duration::try_from(self.request_timeout.duration()).ok()?;
        (!limit.is_zero()).then_some(limit)
    }
}

/// The verbs.
#[derive(Subcommand)]
pub enum Command {
    /// Shows rollouts as a tree of stages: counts, what they wait for, what failed
    Status(Status),
    /// Says why a rollout or a device stands where it stands
    Explain(Explain),
    /// Shows what a rollout would do and when, before it does: a manifest with -f, or one that exists
    Plan(Plan),
    /// Makes an enrolment token and prints the line that enrols a device
    Enroll(Enroll),
    /// Pauses a rollout; devices get no further permit
    Suspend(Rollout),
    /// Lets a suspended rollout go on
    Resume(Rollout),
    /// Ends a rollout for good; nothing is installed, removed or restarted any more
    Abort(Abort),
    /// Gives the failed devices of a rollout another attempt
    Retry(Rollout),
    /// Shows what a stage or a rollback asks a person for, and approves exactly that (PatchApproval)
    Approve(Approve),
    /// Shows what a stage or a rollback asks a person for, and rejects it; it stays so until a retry
    Reject(Approve),
    /// Takes back what a rollout brought, also long after it was completed (PatchRollback)
    Rollback(Rollback),
    /// Keeps devices from getting jobs, or updates from being brought to devices
    #[command(subcommand)]
    Hold(Held),
    /// Lets go of devices and updates that are held, and of the job of a lost device
    #[command(subcommand)]
    Release(Released),
    /// Stops installs and restarts at once, in every namespace (EmergencyStop)
    Stop(Stop),
    /// Lifts an emergency stop; what it kept back goes on
    Lift(Lift),
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Objects as JSON.
    Json,
    /// Objects as YAML.
    Yaml,
    /// The table with more columns.
    Wide,
    /// Only `resource/name`.
    Name,
}

/// `status`.
#[derive(ClapArgs)]
pub struct Status {
    /// Rollout; without it, every one of the namespace
    #[arg(value_parser = object)]
    pub name: Option<String>,
    /// Rollouts of every namespace
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub all_namespaces: bool,
    /// Keeps looking; with NAME until the rollout ends (exit code 1 unless it completed)
    #[arg(short, long)]
    pub watch: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `explain`.
#[derive(ClapArgs)]
pub struct Explain {
    /// Kind of object
    pub kind: Explained,
    /// Its name
    #[arg(value_parser = object)]
    pub name: String,
    /// Output format; `json` and `yaml` hold the sentences as a list
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `plan`.
#[derive(ClapArgs)]
pub struct Plan {
    /// A rollout that exists
    #[arg(value_parser = object, required_unless_present = "file")]
    pub name: Option<String>,
    /// Manifest of a rollout, applied or not; - reads standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with = "name")]
    pub file: Option<std::path::PathBuf>,
    /// As if every device were in contact
    #[arg(long)]
    pub all_online: bool,
    /// How long a device takes to install
    #[arg(long, value_name = "TIME", default_value = "30m")]
    pub install_time: Span,
    /// How long a device takes to restart
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub restart_time: Span,
    /// Output format; `wide` shows every device
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// What can be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Explained {
    /// A PatchRollout.
    #[value(alias = "patchrollout", alias = "prollout")]
    Rollout,
    /// A Device.
    #[value(alias = "wdev")]
    Device,
}

/// `enroll`.
#[derive(ClapArgs)]
pub struct Enroll {
    /// Name of the token; default: a random one
    #[arg(long, value_parser = object)]
    pub name: Option<String>,
    /// How long it may be used
    #[arg(long, default_value = "24h", value_name = "TIME")]
    pub ttl: Span,
    /// How many devices it may admit
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_uses: u32,
    /// Label for devices that are created by it (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Mode of devices that are created by it
    #[arg(long, value_enum, default_value_t = Mode::Observe)]
    pub mode: Mode,
    /// Lets it give a new key to a device that is enrolled already
    #[arg(long)]
    pub may_replace: bool,
    /// Address under which devices reach the gateways; without it, the line has GATEWAY in its place
    #[arg(long, value_name = "https://HOST[:PORT]", value_parser = gateway)]
    pub gateway: Option<String>,
    /// Namespace that Wardring is installed in
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "wardring-system",
        value_parser = object,
        env = "WARDRING_SYSTEM_NAMESPACE"
    )]
    pub system_namespace: String,
    /// Output format; `json` and `yaml` hold the token too, and with `name` the line goes to standard error
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// What an agent may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Scan and report, touch nothing.
    #[value(name = "Observe", alias = "observe")]
    Observe,
    /// Carry out jobs.
    #[value(name = "Manage", alias = "manage")]
    Manage,
}

/// A verb on one rollout.
#[derive(ClapArgs)]
pub struct Rollout {
    /// The rollout
    #[arg(value_parser = object)]
    pub name: String,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `abort`.
#[derive(ClapArgs)]
pub struct Abort {
    /// The rollout
    #[arg(value_parser = object)]
    pub name: String,
    /// Why; it stands in the rollout for good
    #[arg(long)]
    pub reason: String,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `approve` and `reject`.
#[derive(ClapArgs)]
pub struct Approve {
    /// The rollout
    #[arg(value_parser = object)]
    pub name: String,
    /// The stage, where more than one thing is asked
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// The gate, where more than one thing is asked
    #[arg(long, value_name = "NAME")]
    pub gate: Option<String>,
    /// The rollback that waits for it, where more than one thing is asked
    #[arg(long, conflicts_with_all = ["stage", "gate"])]
    pub rollback: bool,
    /// The PatchRollback that waits for it, where more than one thing is asked
    #[arg(long, value_name = "NAME", value_parser = object, conflicts_with_all = ["stage", "gate", "rollback"])]
    pub order: Option<String>,
    /// Why; the rollout and the record of approvals say it
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Decides without a question on what --dry-run showed with this hash, and on nothing else
    #[arg(long, value_name = "HASH")]
    pub hash: Option<String>,
    /// Only shows what is asked, and asks the API server whether you may decide
    #[arg(long)]
    pub dry_run: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `rollback`.
#[derive(ClapArgs)]
pub struct Rollback {
    /// The rollout
    #[arg(value_parser = object)]
    pub name: String,
    /// Only this device (repeatable)
    #[arg(long = "device", value_name = "NAME", value_parser = object)]
    pub devices: Vec<String>,
    /// Only devices of this DeviceGroup
    #[arg(long, value_parser = object, conflicts_with_all = ["devices", "selector"])]
    pub group: Option<String>,
    /// Only devices with these labels
    #[arg(short = 'l', long, value_name = "KEY=VALUE[,…]", value_parser = labels, conflicts_with = "devices")]
    pub selector: Option<Labels>,
    /// Why; the rollout and the UpdateHold say it
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Devices rolled back at once, a number or a share; default: what the rollout says, or 1
    #[arg(long, value_name = "N|N%")]
    pub max_concurrency: Option<Cap>,
    /// Waits for maintenance windows and freezes; it goes on whatever they say otherwise
    #[arg(long)]
    pub in_windows: bool,
    /// Bars updates that take the place of what is taken back, too
    #[arg(long)]
    pub superseding: bool,
    /// Name of the order; default: made of the rollout and the time
    #[arg(long = "order-name", value_name = "NAME", value_parser = object)]
    pub order: Option<String>,
    /// Asks a second person before the updates are taken back from more devices than this, a number or a share,
    /// with those from which they were taken back already; default: nobody is asked
    #[arg(long, value_name = "N|N%")]
    pub approval_above: Option<Cap>,
    /// Only asks the API server, and tells whom it reaches and which fixes go missing
    #[arg(long)]
    pub dry_run: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// What can be held.
#[derive(Subcommand)]
pub enum Held {
    /// Devices: no job begins there, no permit is given, no rollback begins
    #[command(alias = "devices", alias = "wdev")]
    Device(HoldDevices),
    /// Updates: no rollout of the namespace brings them to a device (UpdateHold)
    #[command(alias = "updates", alias = "wupd")]
    Update(HoldUpdates),
}

/// `hold device`.
#[derive(ClapArgs)]
pub struct HoldDevices {
    /// The devices
    #[arg(value_name = "NAME", value_parser = object, required = true)]
    pub names: Vec<String>,
    /// Why; everybody who waits reads it
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// When it ends by itself: an instant such as 2026-11-22T14:00:00Z, or a time from now such as 4h
    #[arg(long, value_name = "TIME")]
    pub until: Option<Until>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `hold update`.
#[derive(ClapArgs)]
pub struct HoldUpdates {
    /// The updates
    #[arg(value_name = "KB", value_parser = kb, required = true)]
    pub kbs: Vec<KbId>,
    /// Why; everybody who waits reads it
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Only on devices with these labels
    #[arg(short = 'l', long, value_name = "KEY=VALUE[,…]", value_parser = labels)]
    pub selector: Option<Labels>,
    /// Bars updates that took their place, too
    #[arg(long)]
    pub superseding: bool,
    /// Name of the bar; default: made of what it bars
    #[arg(long, value_parser = object)]
    pub name: Option<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// What can be released.
#[derive(Subcommand)]
pub enum Released {
    /// A device: a person's hold is lifted; without one, its job is given up, for a machine that will
    /// not come back, and with it the quarantine of a device that an update left damaged
    #[command(alias = "wdev")]
    Device(Release),
    /// Updates: bars on them are lifted; a bar on more than these keeps the rest
    #[command(alias = "updates", alias = "wupd")]
    Update(ReleaseUpdates),
}

/// `release device`.
#[derive(ClapArgs)]
pub struct Release {
    /// Its name
    #[arg(value_parser = object)]
    pub name: String,
    /// Gives up its job, also where a person holds it; the hold stays
    #[arg(long)]
    pub job: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// `release update`.
#[derive(ClapArgs)]
pub struct ReleaseUpdates {
    /// The updates
    #[arg(value_name = "KB", value_parser = kb, required = true)]
    pub kbs: Vec<KbId>,
    /// The bars of this device alone, which took the update back by itself; without it, those of all others
    #[arg(long, value_parser = object)]
    pub device: Option<String>,
    /// Lifts the bars; without it, they are only named
    #[arg(short, long)]
    pub yes: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// An end, as an instant or as a time from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Then.
    At(Timestamp),
    /// So long from now.
    In(Span),
}

impl Until {
    /// The instant. One that is over already would hold nothing.
    pub fn from(self, now: Timestamp) -> anyhow::Result<Timestamp> {
        let at = match self {
            Until::At(at) => at,
            Until::In(span) => now.saturating_add(span.duration())?,
        };
        anyhow::ensure!(at > now, "--until {at} is over already");
        Ok(at)
    }
}

impl std::str::FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Until, String> {
        let span = text.parse().map(Until::In);
        span.or_else(|_| text.parse().map(Until::At)).map_err(|_| {
            "give an instant such as 2026-11-22T14:00:00Z, or a time from now such as 4h".to_owned()
        })
    }
}

/// `stop`.
#[derive(ClapArgs)]
pub struct Stop {
    /// Only these updates; without any, every update
    #[arg(value_name = "KB", value_parser = kb)]
    pub kbs: Vec<KbId>,
    /// Why; everybody who waits reads it
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Only devices with these labels, in every namespace
    #[arg(short = 'l', long, value_name = "KEY=VALUE[,…]", value_parser = labels)]
    pub selector: Option<Labels>,
    /// Stops rollbacks too; they go on otherwise, because they mend devices
    #[arg(long)]
    pub rollbacks: bool,
    /// Every namespace, which is what a stop always means; only needed beside --namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Name of the stop; default: made of what it stops
    #[arg(long, value_parser = object)]
    pub name: Option<String>,
    /// Only asks the API server, and tells who is mid-flight
    #[arg(long)]
    pub dry_run: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// Labels with their values.
pub type Labels = Vec<(String, String)>;

/// `lift`.
#[derive(ClapArgs)]
pub struct Lift {
    /// The emergency stop
    #[arg(value_parser = object)]
    pub name: String,
    /// Does not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// A KB number, also as people say it: `5068787`, `kb5068787`.
fn kb(text: &str) -> Result<KbId, String> {
    let digits = text.trim_start_matches(['K', 'k', 'B', 'b']);
    format!("KB{digits}").parse().map_err(|error: wardring_api::KbIdError| error.to_string())
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a reason says why; everybody who waits reads it".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn labels(text: &str) -> Result<Labels, String> {
    let labels: Labels = text.split(',').map(label).collect::<Result<_, _>>()?;
    let keys: std::collections::BTreeSet<_> = labels.iter().map(|(key, _)| key).collect();
    if keys.len() < labels.len() {
        return Err("a label may be given once".to_owned());
    }
    Ok(labels)
}

/// A name becomes a part of an address: another character would lead elsewhere.
fn object(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_inside = |byte: u8| is_name(byte) || matches!(byte, b'-' | b'.');
    let ends = text.bytes().next().is_some_and(is_name) && text.bytes().last().is_some_and(is_name);
    if ends && text.len() <= 253 && text.bytes().all(is_inside) {
        return Ok(text.to_owned());
    }
    Err("a name has lower-case letters, digits, `-` and `.`, and a letter or digit at both ends"
        .to_owned())
}

/// Whether a label may have it; `!=` and `==` would select nothing, and say that they do.
fn is_word(text: &str, also: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.chars().all(|letter| fits(letter) || also.contains(letter))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if is_word(key, "/") && (value.is_empty() || is_word(value, "")) => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("a label has the form KEY=VALUE".to_owned()),
    }
}

/// Agents refuse any other address, and it would be noticed only after the token was made.
fn gateway(text: &str) -> Result<String, String> {
    let address = text.parse::<http::Uri>().ok().filter(|uri| {
        let Some(authority) = uri.authority() else { return false };
        let host = authority.host();
        let written = match authority.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        // Neither a user nor a half-written port.
        uri.scheme_str() == Some("https")
            && !host.is_empty()
            && authority.as_str() == written
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
    });
    match address {
        Some(_) => Ok(text.to_owned()),
        None => {
            Err("the address of gateways has the form https://HOST or https://HOST:PORT".to_owned())
        }
    }
}

/// kubectl takes bare seconds too.
fn timeout(text: &str) -> Result<Span, String> {
    let seconds: Option<u32> = text.parse().ok();
    match seconds {
        Some(seconds) => Ok(Span::from_secs(seconds)),
        None => text.parse().map_err(|error: wardring_api::SpanError| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn kubectls_flags_may_stand_before_and_after_the_verb() {
        for line in [
            "kubectl-wardring -n patching --context prod status 2026-11 -o wide",
            "kubectl-wardring status 2026-11 -o wide --context prod -n patching --request-timeout 5",
        ] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(args.connection.namespace.as_deref(), Some("patching"), "{line}");
            assert_eq!(args.connection.context.as_deref(), Some("prod"), "{line}");
            let Command::Status(status) = args.command else { panic!("{line}") };
            assert_eq!(status.output, Some(Format::Wide));
        }
    }

    #[test]
    fn an_address_that_agents_would_refuse_is_no_gateway() {
        for good in ["https://gw.example", "https://gw.example:8443/", "https://[fd00::1]:8443"] {
            assert_eq!(gateway(good).as_deref(), Ok(good));
        }
        for bad in [
            "foo",
            "foo:8443",
            "http://foo",
            "https://",
            "https://:8443",
            "https://foo:",
            "https://foo:99999",
            "https://me@foo",
            "https://foo/path",
            "https://foo?query",
            "https://foo bar",
        ] {
            assert!(gateway(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_none() {
        for name in ["november", "2026-11", "srv-01.example"] {
            assert_eq!(object(name).as_deref(), Ok(name));
        }
        for name in ["november/status", "..", "", "-a", "a.", "November", "a b", "a%2fb", "a?b"] {
            assert!(object(name).is_err(), "{name}");
        }
        let words = ["kubectl-wardring", "suspend", "november/status"];
        let error = Args::try_parse_from(words).err().unwrap();
        assert!(error.to_string().contains("a name has lower-case letters"), "{error}");
    }

    #[test]
    fn a_stop_takes_numbers_as_people_say_them_and_wants_a_reason() {
        let line =
            "kubectl-wardring stop 5068787 kb5068791 KB5068001 --reason ERP -l ward=3,site=x";
        let Command::Stop(stop) = Args::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line}")
        };
        let kbs: Vec<&str> = stop.kbs.iter().map(KbId::as_str).collect();
        assert_eq!(kbs, ["KB5068787", "KB5068791", "KB5068001"]);
        assert_eq!(stop.selector.map_or(0, |labels| labels.len()), 2);
        for line in [
            "kubectl-wardring stop",
            "kubectl-wardring stop --reason",
            "kubectl-wardring stop november --reason r",
            "kubectl-wardring stop -l ward --reason r",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let empty = Args::try_parse_from(["kubectl-wardring", "stop", "--reason", " "]);
        assert!(empty.is_err());
    }

    #[test]
    fn a_hold_wants_a_reason_and_an_end_that_is_ahead() {
        let line = "kubectl-wardring hold device srv-01 srv-02 --reason audit --until 4h";
        let parsed = Args::try_parse_from(line.split(' ')).unwrap();
        let Command::Hold(Held::Device(hold)) = parsed.command else { panic!("{line}") };
        assert_eq!(hold.names, ["srv-01", "srv-02"]);
        let now: Timestamp = "2026-11-22T08:00:00Z".parse().unwrap();
        let until = hold.until.unwrap().from(now).unwrap();
        assert_eq!(until, "2026-11-22T12:00:00Z".parse::<Timestamp>().unwrap());
        let over: Until = "2026-11-22T07:00:00Z".parse().unwrap();
        assert!(over.from(now).is_err());
        assert!("tomorrow".parse::<Until>().is_err());
        for line in [
            "kubectl-wardring hold device srv-01",
            "kubectl-wardring hold device --reason r",
            "kubectl-wardring hold update november --reason r",
            "kubectl-wardring hold srv-01 --reason r",
            "kubectl-wardring release update",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn an_abort_without_a_reason_is_refused() {
        let error = Args::try_parse_from(["kubectl-wardring", "abort", "2026-11"]).err().unwrap();
        assert!(error.to_string().contains("--reason"), "{error}");
    }
}
