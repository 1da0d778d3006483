//! The devices of the demo: three groups, four products, and what this month's updates do to them.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use wardring_e2e::{Fleet, FleetFile, Tenant, TokenOptions};

/// The groups in the order of the stages.
pub const GROUPS: [&str; 3] = ["test-servers", "workstations", "production"];

/// What is wrong with this month's updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The update for Windows Server 2022 stops SQL Server for good.
    SqlServer,
    /// Two workstations do not come back from their restart.
    TwoSilent,
}

/// A product with the build before and after this month's update.
struct Product {
    name: &'static str,
    before: &'static str,
    after: &'static str,
    kbs: &'static [&'static str],
    services: &'static [&'static str],
}

const SERVER_2022: Product = Product {
    name: "Windows Server 2022",
    before: "20348.4294",
    after: "20348.4405",
    kbs: &["KB5068787", "KB5066139"],
    services: &["MSSQLSERVER", "Spooler", "W32Time"],
};
const SERVER_2025: Product = Product {
    name: "Windows Server 2025",
    before: "26100.6899",
    after: "26100.7171",
    kbs: &["KB5068861"],
    services: &["MSSQLSERVER", "Spooler", "W32Time"],
};
const WINDOWS_24H2: Product = Product {
    name: "Windows 11 24H2",
    before: "26100.6899",
    after: "26100.7178",
    kbs: &["KB5068865"],
    services: &["Spooler", "LanmanWorkstation"],
};
const WINDOWS_25H2: Product = Product {
    name: "Windows 11 25H2",
    before: "26200.6899",
    after: "26200.7178",
    kbs: &["KB5068781"],
    services: &["Spooler", "LanmanWorkstation"],
};

/// One device as it was planned.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its group.
    pub group: &'static str,
    /// `build.UBR` before.
    pub before: &'static str,
    /// `build.UBR` once this month's update is in force.
    pub after: &'static str,
    world: String,
}

/// The devices by name.
pub type Members = BTreeMap<String, Member>;

/// Divides `devices` among the groups: a sixth test servers, a third production, the rest workstations.
pub fn members(devices: usize, trouble: Trouble) -> Members {
    let test = (devices / 6).max(4);
    let production = devices / 3;
    let sizes = [test, devices - test - production, production];
    let mut members = Members::new();
    for ((group, short), size) in GROUPS.into_iter().zip(["test", "ws", "prod"]).zip(sizes) {
        for number in 0..size {
            let product = match (group, number % 2) {
                ("workstations", 0) => WINDOWS_24H2,
                ("workstations", _) => WINDOWS_25H2,
                (_, 0) => SERVER_2022,
                (_, _) => SERVER_2025,
            };
            let is_silent = trouble == Trouble::TwoSilent && short == "ws" && number < 2;
            let world = format!("{}{}", product.name, if is_silent { ", silent" } else { "" });
            let member = Member { group, before: product.before, after: product.after, world };
            members.insert(format!("{short}-{:03}", number + 1), member);
        }
    }
    members
}

/// Enrols the devices with one token per group, as an operator would, and starts their agents.
pub async fn start(tenant: &Tenant<'_>, members: &Members, trouble: Trouble) -> Result<Fleet> {
    let mut tokens = BTreeMap::new();
    for group in GROUPS {
        let max_uses = members.values().filter(|member| member.group == group).count();
        let label = format!("group={group}");
        let options = TokenOptions { name: group, labels: &[&label], max_uses, may_replace: false };
        tokens.insert(group, tenant.token(&options).await?);
    }
    let mut file = FleetFile::default();
    for product in [SERVER_2022, SERVER_2025, WINDOWS_24H2, WINDOWS_25H2] {
        let breaks_sql = trouble == Trouble::SqlServer && product.name == SERVER_2022.name;
        let effects = if breaks_sql {
            json!({ "afterReboot": [{ "stopService": "MSSQLSERVER", "refusesRestart": true }] })
        } else {
            json!({})
        };
        file.world(product.name, world(&product, effects));
        let silent = format!("{}, silent", product.name);
        file.world(&silent, world(&product, json!({ "neverReturn": true })));
    }
    for (name, member) in members {
        file.device(name, &member.world, &tokens[member.group]);
    }
    tenant.fleet(&file).await
}

/// A scripted Windows whose cumulative update has `effects`.
fn world(product: &Product, effects: Value) -> Value {
    let services: BTreeMap<_, _> =
        product.services.iter().map(|service| (*service, "Running")).collect();
    let updates = product.kbs.iter().enumerate().map(|(index, kb)| {
        let is_cumulative = index == 0;
        json!({
            "kb": kb,
            "title": format!("2026-11 update for {}", product.name),
            "targetBuild": is_cumulative.then_some(product.after),
            "rebootRequired": is_cumulative,
            "installMs": 400,
            "effects": if is_cumulative { effects.clone() } else { json!({}) },
        })
    });
    json!({
        "product": product.name,
        "build": product.before,
        "services": services,
        "updates": updates.collect::<Vec<_>>(),
        "rebootMs": 800,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_devices_of_two_products_however_small_the_fleet() {
        for devices in [12, 13, 60, 1_000] {
            let members = members(devices, Trouble::TwoSilent);
            assert_eq!(members.len(), devices);
            for group in GROUPS {
                let builds: std::collections::BTreeSet<_> = members
                    .values()
                    .filter(|member| member.group == group)
                    .map(|member| member.after)
                    .collect();
                assert_eq!(builds.len(), 2, "{group} of {devices}");
            }
            let silent = members.values().filter(|member| member.world.ends_with("silent"));
            assert_eq!(silent.count(), 2);
        }
    }
}
