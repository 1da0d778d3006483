//! `enroll`: makes an EnrollmentToken and prints the line for the device, once.
//!
//! The seed is made here and goes nowhere but to the terminal: the object holds its public half. The text
//! of a token is the one thing of Wardring's signatures that the plugin knows
//! (`docs/decisions/0020-the-plugin-makes-tokens.md`).

use anyhow::{Context, Result, bail};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, PostParams};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::json;
use wardring_api::{
    DeviceMode, EnrollmentToken, EnrollmentTokenSpec,
    conditions::whole_seconds,
    names::{PLUGIN_MANAGER, ROOTS_CONFIGMAP},
};

use crate::{
    args::{Enroll, Format, Mode},
    cluster::Cluster,
    output,
};

/// Stands in the line for the address that nobody named.
const PLACEHOLDER: &str = "https://GATEWAY:8443";

/// Expiry is written by our clock and judged by others.
const SKEW_BORNE: SignedDuration = SignedDuration::from_secs(60);

/// A fresh token's text and the public half of its seed.
struct Fresh {
    text: String,
    public_key: String,
}

/// `enroll`.
pub async fn run(cluster: &Cluster, args: &Enroll) -> Result<()> {
    let root = root_fingerprint(cluster, &args.system_namespace).await?;
    let random = SystemRandom::new();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => random_name(&random)?,
    };
    let fresh = generate(&cluster.namespace, &name, &root, &random)?;
    let spec = EnrollmentTokenSpec {
        public_key: fresh.public_key,
        expires_at: whole_seconds(Timestamp::now() + args.ttl.duration()),
        max_uses: args.max_uses,
        labels: args.labels.iter().cloned().collect(),
        mode: match args.mode {
            Mode::Observe => DeviceMode::Observe,
            Mode::Manage => DeviceMode::Manage,
        },
        may_replace: args.may_replace,
    };
    let params =
        PostParams { field_manager: Some(PLUGIN_MANAGER.to_owned()), ..PostParams::default() };
    let token = EnrollmentToken::new(&name, spec);
    let token = cluster.here::<EnrollmentToken>().create(&params, &token).await?;
    if let Some(skew) = skew(&token, Timestamp::now()) {
        let lost = cluster.here::<EnrollmentToken>().delete(&name, &DeleteParams::default()).await;
        let rest = if lost.is_ok() { "no token was left" } else { "delete the token it made" };
        bail!(
            "this computer's clock is {skew:#} off the API server's, so the token would not live as long as it says; set the clock and try again ({rest})"
        );
    }
    let gateway = args.gateway.as_deref().unwrap_or(PLACEHOLDER);
    let command = format!("wardring-agent install --gateway {gateway} --token {}", fresh.text);
    if args.gateway.is_none() {
        eprintln!("Replace GATEWAY by the address of your gateways; --gateway does it here.");
    }
    match args.output {
        Some(Format::Json | Format::Yaml) => {
            let answer = json!({
                "name": name,
                "namespace": cluster.namespace,
                "token": fresh.text,
                "command": command,
                "expiresAt": token.spec.expires_at,
            });
            print!("{}", output::document(&answer, args.output)?);
        }
        Some(Format::Name) => {
            eprintln!("{command}");
            println!("{}", output::resource_name(&token));
        }
        Some(Format::Wide) | None => {
            eprintln!("{} created: {}", output::resource_name(&token), sentence(args));
            eprintln!("Run this on a device; the token is shown only now:");
            println!("{command}");
        }
    }
    Ok(())
}

/// How far our clock is off the API server's, by when it says that it made the token.
fn skew(token: &EnrollmentToken, now: Timestamp) -> Option<SignedDuration> {
    let made = token.metadata.creation_timestamp.as_ref()?.0;
    let skew = now.duration_since(made).abs();
    (skew > SKEW_BORNE).then(|| SignedDuration::from_secs(skew.as_secs()))
}

/// What the new token is good for.
fn sentence(args: &Enroll) -> String {
    let devices =
        if args.max_uses == 1 { "1 device" } else { &format!("{} devices", args.max_uses) };
    let mode = match args.mode {
        Mode::Observe => "they are only observed until a person sets spec.mode to Manage",
        Mode::Manage => "they carry out jobs at once",
    };
    let replace =
        if args.may_replace { "; it may replace the key of an enrolled device" } else { "" };
    format!("admits {devices} within {}; {mode}{replace}.", args.ttl)
}

async fn root_fingerprint(cluster: &Cluster, system: &str) -> Result<String> {
    let roots = cluster.within::<ConfigMap>(system).get_opt(ROOTS_CONFIGMAP).await?;
    let fingerprint =
        roots.and_then(|roots| roots.data).and_then(|mut data| data.remove("rootSha256"));
    let Some(fingerprint) = fingerprint else {
        bail!(
            "namespace {system} has no ConfigMap {ROOTS_CONFIGMAP} with the root certificate yet; is the controller running there? (--system-namespace names another place)"
        );
    };
    Ok(fingerprint.trim().to_owned())
}

fn generate(namespace: &str, name: &str, root: &str, random: &dyn SecureRandom) -> Result<Fresh> {
    let mut seed = [0; 32];
    random.fill(&mut seed).ok().context("the operating system gave no random bytes")?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
        .expect("any 32 bytes are an Ed25519 seed, and these are 32");
    Ok(Fresh {
        text: format!("{namespace}/{name}.{}.{root}", URL_SAFE_NO_PAD.encode(seed)),
        public_key: STANDARD.encode(pair.public_key()),
    })
}

fn random_name(random: &dyn SecureRandom) -> Result<String> {
    let mut bytes = [0; 4];
    random.fill(&mut bytes).ok().context("the operating system gave no random bytes")?;
    Ok(format!("token-{:08x}", u32::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use wardring_seal::Token;

    use super::*;

    #[test]
    fn a_clock_that_is_off_is_noticed() {
        let token: EnrollmentToken = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "EnrollmentToken",
            "metadata": { "name": "t", "creationTimestamp": "2026-11-21T07:00:00Z" },
            "spec": { "publicKey": "", "expiresAt": "2026-11-21T03:00:00Z", "maxUses": 1 },
        }))
        .unwrap();
        let at = |text: &str| skew(&token, text.parse().unwrap());
        assert_eq!(at("2026-11-21T07:00:20Z"), None);
        assert_eq!(at("2026-11-21T01:59:59.7Z"), Some(SignedDuration::from_hours(5)));
        assert_eq!(at("2026-11-21T12:00:00Z"), Some(SignedDuration::from_hours(5)));
    }

    #[test]
    fn a_token_made_here_is_the_one_that_agents_and_the_signer_read() {
        let root = "ab".repeat(32);

        let fresh = generate("patching", "servers.2026", &root, &SystemRandom::new()).unwrap();

        let token = Token::parse(&fresh.text).unwrap();
        assert_eq!((token.namespace(), token.name()), ("patching", "servers.2026"));
        assert_eq!(token.root().to_string(), root);
        assert_eq!(token.public_key(), fresh.public_key);
    }
}
