//! Updates that a rollout brings itself, by the address of their package.

use wardring_api::{PackageSource, ResolvedUpdate, UpdateKind, UpdatePackage, UpdateSelection};

/// What the schema's rules refuse about a selection, for clusters whose CRDs are older.
pub(crate) fn complaint(updates: &UpdateSelection) -> Option<String> {
    let given = [updates.select.is_some(), !updates.kbs.is_empty(), !updates.packages.is_empty()];
    if given.into_iter().filter(|given| *given).count() != 1 {
        let message = "spec.updates needs exactly one of `select`, `kbs` and `packages`.";
        return Some(message.to_owned());
    }
    updates.packages.iter().enumerate().find_map(|(position, package)| {
        let kb = &package.kb;
        let is_same = |other: &UpdatePackage| other.kb == *kb && other.product == package.product;
        if updates.packages[..position].iter().any(is_same) {
            return Some(format!("spec.updates.packages has two for {kb} on {}.", package.product));
        }
        // One file that goes by two KBs would be installed twice, and proven by either.
        let is_same_file = |other: &&UpdatePackage| {
            other.product == package.product && other.sha256 == package.sha256
        };
        if let Some(other) = updates.packages[..position].iter().find(is_same_file) {
            let (first, product) = (&other.kb, &package.product);
            return Some(format!("The packages of {first} and {kb} on {product} are one file."));
        }
        let is_address = package.url.starts_with("https://")
            || package.allow_http && package.url.starts_with("http://");
        if !is_address || package.url.contains(['@', '?', '#']) {
            return Some(format!(
                "The address of {kb}'s package must begin with https:// (or http:// with \
                 `allowHttp`), without user, query and fragment."
            ));
        }
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_digest = package.sha256.len() == 64 && package.sha256.bytes().all(is_digit);
        (!is_digest).then(|| format!("The sha256 of {kb}'s package is not a SHA-256."))
    })
}

/// The updates of a rollout's own packages: by product, each product's in the order given.
pub(crate) fn resolved(packages: &[UpdatePackage]) -> Vec<ResolvedUpdate> {
    let mut updates: Vec<ResolvedUpdate> = packages.iter().map(update).collect();
    updates.sort_by(|a, b| a.product.cmp(&b.product));
    updates
}

fn update(package: &UpdatePackage) -> ResolvedUpdate {
    ResolvedUpdate {
        product: package.product.clone(),
        kb: package.kb.clone(),
        // What changes the build is cumulative, and the build proves it; anything else is proven by
        // its own package.
        kind: match package.target_build {
            Some(_) => UpdateKind::Quality,
            None => UpdateKind::Other,
        },
        title: None,
        target_build: package.target_build.clone(),
        identities: Vec::new(),
        package: Some(PackageSource { url: package.url.clone(), sha256: package.sha256.clone() }),
    }
}
