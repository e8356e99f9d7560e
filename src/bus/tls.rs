//! Whom a connection with TLS trusts, and how it says who it is.
//!
//! Without a CA of one's own, Mozilla's roots and the system's count; with one, only that one does. The files are read at
//! each connection, so a renewed certificate serves without a restart. Up: the settings `broker.tls_…`. Down:
//! [`super::rabbitmq`].

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// Files in PEM; none of them for roots that are publicly trusted and no certificate of one's own.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authorities that may have signed the broker's certificate, and the only ones.
    pub ca: Option<PathBuf>,
    /// The certificate that we show the broker, followed by those that lead to its authority.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
}

/// Why no connection with TLS can even be tried.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{setting}: cannot read {}: {}", path.display(), words(reason))]
    File { setting: &'static str, path: PathBuf, reason: pem::Error },
    #[error("{setting}: {} holds no certificate in PEM", path.display())]
    Empty { setting: &'static str, path: PathBuf },
    #[error("{setting}: {} holds a certificate that cannot be used: {reason}", path.display())]
    Certificate { setting: &'static str, path: PathBuf, reason: rustls::Error },
    #[error("broker.tls_certificate_pem and broker.tls_key_pem are only of use together")]
    Alone,
}

impl Tls {
    /// As rustls wants it. Reads files.
    pub(super) fn client(&self) -> Result<ClientConfig, Unusable> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .with_root_certificates(self.roots()?);
        let (path, key) = match (&self.certificate, &self.key) {
            (None, None) => return Ok(builder.with_no_client_auth()),
            (Some(certificate), Some(key)) => (certificate, key),
            _ => return Err(Unusable::Alone),
        };
        let chain = certificates("broker.tls_certificate_pem", path)?;
        let unreadable = |reason| Unusable::File { setting: "broker.tls_key_pem", path: key.clone(), reason };
        let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
        let unusable =
            |reason| Unusable::Certificate { setting: "broker.tls_certificate_pem", path: path.clone(), reason };
        builder.with_client_auth_cert(chain, key).map_err(unusable)
    }

    fn roots(&self) -> Result<RootCertStore, Unusable> {
        let Some(path) = &self.ca else {
            let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            // A system without any is no error: Mozilla's are here.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates("broker.tls_ca_pem", path)? {
            roots.add(certificate).map_err(|reason| Unusable::Certificate {
                setting: "broker.tls_ca_pem",
                path: path.clone(),
                reason,
            })?;
        }
        Ok(roots)
    }
}

fn certificates(setting: &'static str, path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let unreadable = |reason| Unusable::File { setting, path: path.clone(), reason };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    match found.map_err(unreadable)? {
        empty if empty.is_empty() => Err(Unusable::Empty { setting, path: path.clone() }),
        found => Ok(found),
    }
}

fn words(reason: &pem::Error) -> String {
    match reason {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is nothing of that kind in it".to_owned(),
        other => format!("it is no PEM: {other}"),
    }
}
