//! Reads the certificate by which a load's connections say who they are.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::LoadError;
use crate::fs::read_plain;

/// The longest file with a certificate or a key, in bytes.
const LONGEST: u64 = 1 << 20;

/// A certificate with its chain, and its private key.
#[derive(Debug)]
pub struct ClientCertificate {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl ClientCertificate {
    /// Reads PEM files (RFC 7468). Both may be the same file, as HAProxy's `crt` has it.
    ///
    /// # Errors
    /// [`LoadError::ClientCertificate`], a sentence with the file.
    pub fn read(certificate: &Path, key: &Path) -> Result<ClientCertificate, LoadError> {
        let text = read(certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| unusable(certificate, error))?;
        if chain.is_empty() {
            return Err(unusable(certificate, "there is no certificate (PEM) in it"));
        }
        let key_text = read(key)?;
        let no_key = |error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => unusable(key, "there is no private key (PEM) in it"),
            error => unusable(key, error),
        };
        let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(no_key)?;
        Ok(ClientCertificate { chain, key })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_plain(path, LONGEST).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> LoadError {
    LoadError::ClientCertificate(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn unusable_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.pem");
        let why = || ClientCertificate::read(&path, &path).unwrap_err().to_string();
        assert!(why().contains("No such file"), "{}", why());
        fs::write(&path, "text").unwrap();
        assert!(why().contains("no certificate"), "{}", why());
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(why().ends_with("client.pem: there is no private key (PEM) in it"), "{}", why());
    }
}
