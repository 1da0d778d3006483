//! Authenticode signatures with the user's own key, by `osslsigncode`.
//!
//! The key is named by its path or by its place in a token. It is read by the signing program alone,
//! never by this one, and nothing of it is kept.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::shell::step;

/// What a place in a token begins with (RFC 7512).
const TOKEN: &str = "pkcs11:";

/// Who signs.
#[derive(clap::Args)]
pub struct Signing {
    /// Certificate to sign with, and those between it and its root: a PEM file, or `pkcs11:…`
    #[arg(long, value_name = "CERT", requires = "sign_key")]
    sign_cert: Option<String>,
    /// Its private key: a PEM file, or `pkcs11:…`
    #[arg(long, value_name = "KEY", requires = "sign_cert")]
    sign_key: Option<String>,
    /// File with the password of the key, or the PIN of the token
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    sign_pass_file: Option<PathBuf>,
    /// Driver of the token
    #[arg(long, value_name = "LIBRARY", requires = "sign_key")]
    sign_pkcs11_module: Option<PathBuf>,
    /// OpenSSL's engine for tokens, where OpenSSL does not find it by itself
    #[arg(long, value_name = "LIBRARY", requires = "sign_pkcs11_module")]
    sign_pkcs11_engine: Option<PathBuf>,
    /// Address of a time-stamp service (RFC 3161), so that signatures outlive the certificate
    #[arg(long, value_name = "URL", requires = "sign_key")]
    sign_timestamp: Option<String>,
}

/// Signs files.
pub struct Signer {
    /// Everything about key and certificate, as `osslsigncode` takes it.
    arguments: Vec<String>,
    is_stamped: bool,
}

impl Signing {
    /// The signer that was asked for.
    pub fn signer(&self) -> Result<Option<Signer>> {
        let (Some(cert), Some(key)) = (&self.sign_cert, &self.sign_key) else { return Ok(None) };
        let is_token = key.starts_with(TOKEN);
        ensure!(
            is_token == self.sign_pkcs11_module.is_some(),
            "a key in a token needs both --sign-key pkcs11:… and --sign-pkcs11-module"
        );
        ensure!(
            is_token || !cert.starts_with(TOKEN),
            "a certificate in a token needs its key in the token, too"
        );
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |name: &str, value: &str| arguments.extend([name.into(), value.into()]);
        for (name, path) in [
            ("-pkcs11engine", &self.sign_pkcs11_engine),
            ("-pkcs11module", &self.sign_pkcs11_module),
            ("-readpass", &self.sign_pass_file),
        ] {
            if let Some(path) = path {
                add(name, file(path)?);
            }
        }
        if cert.starts_with(TOKEN) {
            add("-pkcs11cert", cert);
        } else {
            add("-certs", file(Path::new(cert))?);
        }
        add("-key", if is_token { key } else { file(Path::new(key))? });
        if let Some(url) = &self.sign_timestamp {
            add("-ts", url);
        }
        Ok(Some(Signer { arguments, is_stamped: self.sign_timestamp.is_some() }))
    }
}

/// A file that is there, as a word of a command line.
fn file(path: &Path) -> Result<&str> {
    ensure!(path.is_file(), "{} is not a file", path.display());
    match path.to_str() {
        Some(path) => Ok(path),
        None => bail!("{} is not UTF-8", path.display()),
    }
}

impl Signer {
    /// Signs a program or an installer in its place.
    pub fn sign(&self, path: &Path) -> Result<()> {
        if !self.is_stamped {
            eprintln!(
                "   without --sign-timestamp the signature counts as long as the certificate"
            );
        }
        let signed = path.with_extension("signed");
        let mut sign = Command::new("osslsigncode");
        sign.args(["sign", "-h", "sha256", "-n", "Wardring agent"]).args(&self.arguments);
        sign.arg("-in").arg(path).arg("-out").arg(&signed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        step(&format!("signature of {name}"), &mut sign)?;
        fs::rename(&signed, path).context("failed to put the signed file in its place")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Signing,
    }

    fn signer(line: &[&str]) -> Result<Option<Signer>, String> {
        let line = Line::try_parse_from([&["package"], line].concat());
        line.map_err(|error| error.to_string())?.args.signer().map_err(|error| error.to_string())
    }

    #[test]
    fn half_of_what_signs_is_refused_and_nothing_signs_nothing() {
        assert!(signer(&[]).unwrap().is_none());
        for (line, why) in [
            (&["--sign-cert", "c.pem"][..], "--sign-key"),
            (&["--sign-key", "k.pem"], "--sign-cert"),
            (&["--sign-timestamp", "http://t"], "--sign-key"),
            (&["--sign-cert", "c", "--sign-key", "pkcs11:id=%01"], "--sign-pkcs11-module"),
            (&["--sign-cert", "/no/cert", "--sign-key", "k"], "/no/cert is not a file"),
        ] {
            let refused = signer(line).err().unwrap();
            assert!(refused.contains(why), "{line:?}: {refused}");
        }
    }

    #[test]
    fn a_key_in_a_token_is_named_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let [module, cert] = ["module.so", "chain.pem"].map(|name| {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            path.to_str().unwrap().to_owned()
        });
        let key = "pkcs11:token=signing;object=agent";
        let token = ["--sign-key", key, "--sign-pkcs11-module", &module];

        let with_file = signer(&[&token[..], &["--sign-cert", &cert]].concat()).unwrap().unwrap();
        let expected = ["-pkcs11module", &module, "-certs", &cert, "-key", key];
        assert_eq!(with_file.arguments, expected);

        let all_inside = signer(&[&token[..], &["--sign-cert", key]].concat()).unwrap().unwrap();
        let expected = ["-pkcs11module", &module, "-pkcs11cert", key, "-key", key];
        assert_eq!(all_inside.arguments, expected);
    }
}
