//! TLS for the load's connections. Certificates are not verified: a load proves that a connection is served, not by whom.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use socket2::Socket;

use super::client_certificate::ClientCertificate;
use super::error::LoadError;
use super::outcome::{Failure, TlsFailure};

/// The client's side of TLS: versions 1.2 and 1.3, a full handshake for each connection, and any certificate.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Sends `host` as SNI, unless it is an IP address (RFC 6066, section 3). With `http` the client offers `http/1.1` by
    /// ALPN.
    ///
    /// # Errors
    /// [`LoadError::InvalidHostName`] where `host` is neither a host name nor an address.
    pub fn new(host: &str, http: bool) -> Result<Tls, LoadError> {
        Tls::with_certificate(host, http, None)
    }

    /// Does the same, and shows the server a certificate if it asks for one.
    ///
    /// # Errors
    /// Those of [`Tls::new`], and [`LoadError::ClientCertificate`] where the certificate and the key do not fit.
    pub fn with_certificate(host: &str, http: bool, client: Option<ClientCertificate>) -> Result<Tls, LoadError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| LoadError::InvalidHostName(host.to_owned()))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| LoadError::Unavailable(io::Error::other(error)))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(ClientCertificate { chain, key }) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| LoadError::ClientCertificate(format!("the client's certificate and key: {error}")))?,
        };
        // Each connection stands for a new client, which has no session to resume.
        config.resumption = Resumption::disabled();
        if http {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(Tls { config: Arc::new(config), name })
    }

    pub(super) fn session(&self) -> Result<TlsSession, Failure> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        connection.map(|connection| TlsSession { connection, has_received: false }).map_err(|error| failure(&error))
    }
}

/// The TLS state of one connection.
pub(super) struct TlsSession {
    connection: ClientConnection,
    has_received: bool,
}

/// Why a stream cannot go on, or has to wait.
pub(super) enum StreamError {
    Io(io::Error),
    Tls(Failure),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> StreamError {
        StreamError::Io(error)
    }
}

impl TlsSession {
    /// Continues the handshake. True when it is complete.
    pub(super) fn handshake(&mut self, socket: &Socket) -> Result<bool, StreamError> {
        loop {
            self.flush(socket)?;
            if !self.connection.is_handshaking() {
                return Ok(true);
            }
            if self.receive(socket)? == 0 {
                return Err(StreamError::Tls(if self.has_received { Failure::CutShort } else { Failure::Empty }));
            }
        }
    }

    /// Encrypts all bytes, for [`TlsSession::flush`].
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(bytes)
    }

    /// Reads decrypted bytes. 0 is the end of the stream.
    pub(super) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> Result<usize, StreamError> {
        loop {
            match self.connection.reader().read(buffer) {
                // The server closed without a close_notify. The reply itself tells whether it is complete.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                Ok(count) => return Ok(count),
                Err(_) => self.receive(socket)?,
            };
        }
    }

    /// Makes the close_notify alert, for [`TlsSession::flush`].
    pub(super) fn write_close_notify(&mut self) {
        self.connection.send_close_notify();
    }

    /// Whether there are encrypted bytes that are not sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    fn receive(&mut self, socket: &Socket) -> Result<usize, StreamError> {
        let count = self.connection.read_tls(&mut &*socket)?;
        self.has_received |= count > 0;
        if let Err(error) = self.connection.process_new_packets() {
            // Sends the alert that says why. A server that no longer reads misses it.
            let _ = self.flush(socket);
            return Err(StreamError::Tls(failure(&error)));
        }
        Ok(count)
    }

    /// Sends all encrypted bytes.
    pub(super) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut &*socket)?;
        }
        Ok(())
    }
}

fn failure(error: &Error) -> Failure {
    Failure::Tls(match error {
        Error::AlertReceived(alert) => TlsFailure::Alert((*alert).into()),
        Error::InvalidMessage(_) => TlsFailure::NotTls,
        Error::PeerIncompatible(_) => TlsFailure::Incompatible,
        _ => TlsFailure::Other,
    })
}

/// Accepts every certificate and every signature.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
