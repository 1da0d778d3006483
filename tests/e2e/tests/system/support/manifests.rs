//! Devices and rollouts of the tests: one product, one update that needs a restart.

use serde_json::{Value, json};

/// The update that all rollouts here bring.
pub const KB: &str = "KB5068787";
/// The product it is for.
pub const PRODUCT: &str = "Windows Server 2022";
/// `build.UBR` before and after.
pub const BUILDS: [&str; 2] = ["20348.4294", "20348.4405"];

/// A scripted Windows whose update goes well.
pub fn world() -> Value {
    world_with(json!({}))
}

/// A scripted Windows whose update has these effects.
pub fn world_with(effects: Value) -> Value {
    json!({
        "product": PRODUCT,
        "build": BUILDS[0],
        "services": { "MSSQLSERVER": "Running", "W32Time": "Running" },
        "updates": [{
            "kb": KB,
            "targetBuild": BUILDS[1],
            "installMs": 200,
            "effects": effects,
        }],
        "rebootMs": 400,
    })
}

/// Which devices a test has.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Group, device and world.
    pub devices: Vec<(String, String, Value)>,
}

impl Plan {
    /// Adds `<group>-1`, `<group>-2`, … with this world.
    pub fn group(mut self, group: &str, devices: usize, world: &Value) -> Plan {
        let before = self.names(group).len();
        for number in before + 1..=before + devices {
            self.devices.push((group.to_owned(), format!("{group}-{number}"), world.clone()));
        }
        self
    }

    /// Names of the devices of a group.
    pub fn names(&self, group: &str) -> Vec<String> {
        let members = self.devices.iter().filter(|(of, ..)| of == group);
        members.map(|(_, name, _)| name.clone()).collect()
    }

    /// The groups, in the order in which they were added.
    pub fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = self.devices.iter().map(|(of, ..)| of.clone()).collect();
        groups.dedup();
        groups
    }
}

/// A stage of the group with the same name, two devices at a time.
pub fn stage(name: &str) -> Value {
    json!({ "name": name, "group": name, "maxConcurrency": 2, "soak": "500ms" })
}

/// A rollout named `november` with these stages; `more` is merged into its spec.
pub fn rollout(stages: &[Value], more: Value) -> Value {
    let mut spec = json!({
        "updates": { "kbs": [KB] },
        "stages": stages,
        "health": {
            "services": ["MSSQLSERVER"],
            "settle": "200ms",
            "sampleInterval": "100ms",
            "restartAttempts": 1,
        },
        "reboot": { "countdown": "200ms" },
    });
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    json!({ "metadata": { "name": "november" }, "spec": spec })
}

/// `base` with the fields of `more`.
pub fn with(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}
