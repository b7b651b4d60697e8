//! TLS without any check of the certificate: what is proven is that a connection is served, not by whom.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use socket2::Socket;

use super::LoadError;
use super::outcome::{Failure, TlsTrouble};

/// How TLS is spoken: versions 1.2 and 1.3, a full handshake each time, whatever certificate the server shows.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// The host's name is sent as SNI; an IP address is not (RFC 6066, section 3). `http` offers `http/1.1` by ALPN.
    ///
    /// # Errors
    /// Where `host` is neither a name nor an address.
    pub fn new(host: &str, http: bool) -> Result<Tls, LoadError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| LoadError::NoHostName(host.to_owned()))?;
        let provider = Arc::new(ring::default_provider());
        let any = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| LoadError::Unavailable(io::Error::other(error)))?
            .dangerous()
            .with_custom_certificate_verifier(any)
            .with_no_client_auth();
        // New clients have no session to resume.
        config.resumption = Resumption::disabled();
        if http {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(Tls { config: Arc::new(config), name })
    }

    pub(super) fn session(&self) -> Result<Session, Failure> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        connection.map(|connection| Session { connection, heard: false }).map_err(|error| failure(&error))
    }
}

/// One connection's state.
pub(super) struct Session {
    connection: ClientConnection,
    heard: bool,
}

/// Why it cannot go on.
pub(super) enum Trouble {
    Io(io::Error),
    Tls(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl Session {
    /// Goes on with the handshake; true when it is done.
    pub(super) fn shake_hands(&mut self, socket: &Socket) -> Result<bool, Trouble> {
        loop {
            self.flush(socket)?;
            if !self.connection.is_handshaking() {
                return Ok(true);
            }
            if self.take_in(socket)? == 0 {
                return Err(Trouble::Tls(if self.heard { Failure::CutShort } else { Failure::Empty }));
            }
        }
    }

    /// All of it, or nothing: a request fits into an empty buffer.
    pub(super) fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<(), Trouble> {
        self.connection.writer().write_all(bytes)?;
        Ok(self.flush(socket)?)
    }

    /// 0 at the end.
    pub(super) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> Result<usize, Trouble> {
        loop {
            match self.connection.reader().read(buffer) {
                // The connection was closed without a close_notify: the reply itself tells whether it is whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                Ok(count) => return Ok(count),
                Err(_) => self.take_in(socket)?,
            };
        }
    }

    pub(super) fn say_goodbye(&mut self, socket: &Socket) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush(socket)
    }

    fn take_in(&mut self, socket: &Socket) -> Result<usize, Trouble> {
        let count = self.connection.read_tls(&mut &*socket)?;
        self.heard |= count > 0;
        if let Err(error) = self.connection.process_new_packets() {
            // The alert that says why; who does not want it is told nothing.
            let _ = self.flush(socket);
            return Err(Trouble::Tls(failure(&error)));
        }
        Ok(count)
    }

    fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut &*socket)?;
        }
        Ok(())
    }
}

fn failure(error: &Error) -> Failure {
    Failure::Tls(match error {
        Error::AlertReceived(alert) => TlsTrouble::Alert((*alert).into()),
        Error::InvalidMessage(_) => TlsTrouble::NotTls,
        Error::PeerIncompatible(_) => TlsTrouble::Incompatible,
        _ => TlsTrouble::Other,
    })
}

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
