//! TLS with PostgreSQL: what the URL asks for is checked before it is tried, and what fails is said in words.
//!
//! sqlx reads a file only where it needs it, and verifies nothing unless `sslmode` says so. Up: [`super`]. Down: the files
//! that the URL names, and rustls' errors.

use std::{fs, io};

use percent_encoding::percent_decode_str;
use rustls::{
    CertificateError,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgSslMode};

/// The names that sqlx has for each file in a URL.
const AUTHORITY: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
const CERTIFICATE: [&str; 2] = ["sslcert", "ssl-cert"];
const KEY: [&str; 2] = ["sslkey", "ssl-key"];

/// What of the URL cannot be meant so.
pub(super) fn refuse(url: &str, options: &PgConnectOptions) -> Result<(), String> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let file = |names: &[&str]| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, path) = pairs.rfind(|(name, _)| names.contains(name))?;
        Some(percent_decode_str(path).decode_utf8_lossy().into_owned())
    };
    // Where the certificate itself takes the place of a path, sqlx reads it.
    let is_path = |file: &String| !file.trim_start().starts_with("-----BEGIN");
    let (authority, certificate, key) = (file(&AUTHORITY), file(&CERTIFICATE), file(&KEY));
    if authority.is_some() && !matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        return Err("sslrootcert is only looked at with sslmode=verify-full (or verify-ca)".to_owned());
    }
    if certificate.is_some() != key.is_some() {
        return Err("sslcert and sslkey are only of use together".to_owned());
    }
    for (name, file) in [("sslrootcert", authority), ("sslcert", certificate)] {
        if let Some(path) = file.filter(is_path) {
            let found = fs::read(&path).map_err(|error| format!("{name}: cannot read {path}: {error}"))?;
            if !CertificateDer::pem_slice_iter(&found).any(|certificate| certificate.is_ok()) {
                return Err(format!("{name}: {path} holds no certificate in PEM"));
            }
        }
    }
    if let Some(path) = key.filter(is_path) {
        PrivateKeyDer::from_pem_file(&path)
            .map_err(|error| format!("sslkey: cannot read {path}: {}", reason(&error)))?;
    }
    Ok(())
}

fn reason(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        _ => "there is no key without a password in it".to_owned(),
    }
}

/// Why a handshake failed, where that is why.
pub(super) fn words(error: &io::Error) -> Option<String> {
    use CertificateError as Bad;
    use rustls::Error as Tls;
    let words = match error.get_ref()?.downcast_ref::<Tls>()? {
        Tls::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate is signed by no authority that we know; name its own in sslrootcert"
        }
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "its certificate has expired",
        Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name than the host of database.url"
        }
        Tls::InvalidMessage(_) => "what answers there speaks no TLS",
        Tls::AlertReceived(_) => "it does not accept the certificate that sslcert names, or wants one",
        other => return Some(other.to_string()),
    };
    Some(words.to_owned())
}
