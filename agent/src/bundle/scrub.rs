//! Taking secrets out of a text that will be shown to others.

/// Characters of an enrolment token's seed: 32 bytes in base64url.
const SEED: usize = 43;
/// Characters of the fingerprint behind it: 32 bytes in hexadecimal.
const FINGERPRINT: usize = 64;
const BEGIN: &str = "-----BEGIN ";
const PRIVATE: &str = "PRIVATE KEY-----";

/// Takes out what looks like a secret (private keys, seeds of tokens, passwords in addresses) and
/// every one of `known`.
pub fn scrub(text: &str, known: &[String]) -> String {
    let mut text = without_seeds(&without_passwords(&without_keys(text)));
    for secret in known.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), "[secret removed]");
    }
    text
}

/// A key whose end is missing goes to the end of the text.
fn without_keys(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(begin);
        let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
        let is_private = block[BEGIN.len() + label.len()..].starts_with("-----")
            && format!("{label}-----").ends_with(PRIVATE);
        clean.push_str(before);
        if !is_private {
            clean.push_str(BEGIN);
            rest = &block[BEGIN.len()..];
            continue;
        }
        clean.push_str("[private key removed]");
        let end = format!("-----END {label}-----");
        rest = block.find(&end).map_or("", |at| &block[at + end.len()..]);
    }
    clean + rest
}

/// `scheme://user:password@host` without what stands before the `@`.
fn without_passwords(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let is_end = |char: char| char.is_whitespace() || "/?#\"'\\<>`,".contains(char);
        let authority = &after[..after.find(is_end).unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(at) => {
                clean.push_str("[removed]");
                &after[at..]
            }
            None => after,
        };
    }
    clean + rest
}

/// `….<seed>.<fingerprint>` without the seed.
fn without_seeds(text: &str) -> String {
    let is_seed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let bytes = text.as_bytes();
    let is_secret = |at: usize| {
        let seed = bytes.get(at + 1..at + 1 + SEED);
        let dot = bytes.get(at + 1 + SEED);
        let print = bytes.get(at + 2 + SEED..at + 2 + SEED + FINGERPRINT);
        seed.is_some_and(|seed| seed.iter().all(is_seed))
            && dot == Some(&b'.')
            && print.is_some_and(|print| print.iter().all(u8::is_ascii_hexdigit))
    };
    let mut clean = String::with_capacity(text.len());
    let mut from = 0;
    for (at, _) in text.match_indices('.') {
        if at >= from && is_secret(at) {
            clean.push_str(&text[from..=at]);
            clean.push_str("[seed removed]");
            from = at + 1 + SEED;
        }
    }
    clean + &text[from..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wardring_seal::{DeviceKey, Fingerprint, Token};

    use super::*;

    fn token() -> String {
        Token::generate("patching", "servers.2026", Fingerprint::of(b"root")).unwrap().reveal()
    }

    #[test]
    fn keys_seeds_and_passwords_go_and_the_rest_stays() {
        let key = DeviceKey::generate().unwrap().to_pem();
        let (token, escaped) = (token(), key.replace('\n', "\\n"));
        let seed = token.rsplit('.').nth(1).unwrap();
        let text = format!(
            "a {key} b {{\"key\":\"{escaped}\"}} c {token}. d https://me:pass@proxy:3128/x?y@z e \
             -----BEGIN CERTIFICATE-----abc-----END CERTIFICATE----- f tiny-secret g"
        );
        let clean = scrub(&text, &["tiny-secret".to_owned(), String::new()]);
        assert_eq!(
            clean,
            format!(
                "a [private key removed]\n b {{\"key\":\"[private key removed]\\n\"}} c {}. d \
                 https://[removed]@proxy:3128/x?y@z e -----BEGIN CERTIFICATE-----abc-----END \
                 CERTIFICATE----- f [secret removed] g",
                token.replace(seed, "[seed removed]")
            )
        );
    }

    #[test]
    fn half_a_key_is_a_key() {
        let key = DeviceKey::generate().unwrap().to_pem();
        let clean = scrub(&format!("log {}", &key[..80]), &[]);
        assert_eq!(clean, "log [private key removed]");
    }

    proptest! {
        #[test]
        fn no_text_around_a_token_saves_its_seed(before in ".{0,60}", after in ".{0,60}") {
            let token = token();
            let seed = token.rsplit('.').nth(1).unwrap();
            let clean = scrub(&format!("{before}{token}{after}"), &[]);
            prop_assert!(!clean.contains(seed), "{}", clean);
        }
    }
}
