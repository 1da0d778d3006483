//! Every failure as one sentence with the next step.

use kube::core::Status;

/// One sentence for a person who has to go on.
pub fn sentence(error: &anyhow::Error) -> String {
    let api = error.chain().find_map(|cause| match cause.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status),
        _ => None,
    });
    if let Some(status) = api {
        return refused(status);
    }
    let unreachable = error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<kube::Error>(),
            Some(kube::Error::HyperError(_) | kube::Error::Service(_))
        )
    });
    if unreachable {
        return format!(
            "cannot reach the API server: {}; is the cluster running, and is this the right context (`kubectl config current-context`)?",
            deepest(error)
        );
    }
    // The chain says each thing once: context first, cause last.
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        // A parser draws the place of its complaint below it.
        let text = cause.to_string().lines().next().unwrap_or_default().to_owned();
        let repeats = parts.last().is_some_and(|last| last.contains(&text));
        if !repeats {
            parts.retain(|part| !text.contains(part.as_str()));
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn refused(status: &Status) -> String {
    let detail = status.details.as_ref();
    let named = detail.is_some_and(|detail| !detail.name.is_empty());
    match status.code {
        // Without a name in the answer it is the resource that does not exist.
        404 if !named => "this cluster does not know Wardring's objects; install the chart (its CRDs come with it): helm install wardring charts/wardring -n wardring-system --create-namespace".to_owned(),
        404 => match detail.and_then(|detail| whereabouts(&detail.kind)) {
            Some(hint) => format!("{}; {hint}", status.message),
            None => status.message.clone(),
        },
        401 => "the API server does not accept these credentials; log in again, or choose another user with --user or --context".to_owned(),
        403 => format!("you may not do that: {}; ask for the role, or use --as", status.message),
        409 => format!("{}; look at it and try again", status.message),
        _ => status.message.clone(),
    }
}

/// Where to look for an object of this kind, which an answer names in the plural.
fn whereabouts(kind: &str) -> Option<&'static str> {
    match kind {
        "patchrollouts" => Some("`kubectl wardring status -A` shows every rollout"),
        "devices" => Some("`kubectl get wdev -A` shows every device"),
        "devicegroups" => Some("`kubectl get dgroup -A` shows every group"),
        "emergencystops" => Some("`kubectl get estop` shows every emergency stop"),
        "namespaces" => Some("`kubectl get namespaces` shows every namespace"),
        _ => None,
    }
}

/// The innermost cause: the outer ones only say that there is an inner one.
fn deepest(error: &anyhow::Error) -> String {
    let mut cause = error.root_cause();
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn answer(code: u16, message: &str, name: &str) -> anyhow::Error {
        let kind = message.split('.').next().unwrap_or_default();
        let details = serde_json::json!({ "name": name, "kind": kind });
        let status = serde_json::json!({
            "status": "Failure", "code": code, "message": message, "details": details,
        });
        kube::Error::Api(serde_json::from_value(status).unwrap()).into()
    }

    #[test]
    fn missing_crds_and_a_missing_rollout_are_told_apart() {
        let no_crds =
            sentence(&answer(404, "the server could not find the requested resource", ""));
        let no_rollout = sentence(&answer(404, "patchrollouts.wardring.dev \"x\" not found", "x"));

        assert!(no_crds.contains("install the chart"), "{no_crds}");
        assert!(no_rollout.contains("\"x\" not found"), "{no_rollout}");
    }

    #[test]
    fn what_is_missing_decides_where_to_look_for_it() {
        let of = |message| sentence(&answer(404, message, "x"));

        let rollout = of("patchrollouts.wardring.dev \"x\" not found");
        assert!(rollout.ends_with("`kubectl wardring status -A` shows every rollout"), "{rollout}");
        let device = of("devices.wardring.dev \"x\" not found");
        assert!(device.ends_with("`kubectl get wdev -A` shows every device"), "{device}");
        let other = "patchjobs.wardring.dev \"x\" not found";
        assert_eq!(of(other), other);
    }

    #[test]
    fn a_chain_is_told_once() {
        let error =
            anyhow::anyhow!("no such file").context("cannot read `a`").context("cannot read `a`");
        assert_eq!(sentence(&error), "cannot read `a`: no such file");
        let error = Err::<(), _>(std::io::Error::other("boom")).context("cannot read").unwrap_err();
        assert_eq!(sentence(&error), "cannot read: boom");
        let error = anyhow::anyhow!("unclosed bracket at 1:4\n1 | a: [\n  |    ^");
        assert_eq!(sentence(&error), "unclosed bracket at 1:4");
    }
}
