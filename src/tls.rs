//! The listener with TLS, and with it client certificates. Handshakes run beside one another, so that one that hangs
//! holds up nobody, and at most so many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use farebox_core::auth::certificate::Fingerprint;
use farebox_core::config;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const HANDSHAKES_AT_ONCE: usize = 256;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    address: SocketAddr,
    certificate: Option<Fingerprint>,
}

/// Connections whose handshake is done.
pub struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    pub async fn bind(config: &config::Tls, stop: CancellationToken) -> anyhow::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(config)?));
        let listener =
            TcpListener::bind(config.listen).await.with_context(|| format!("{} (http.tls.listen) cannot be listened on", config.listen))?;
        let address = listener.local_addr()?;
        let (done, ready) = mpsc::channel(64);
        tokio::spawn(accept(listener, acceptor, done, stop));
        Ok(Self { ready, address })
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    done: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, say: other connections will end.
                tracing::warn!("a connection was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, done) = (acceptor.clone(), done.clone());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await;
            drop(slot);
            match handshake {
                Ok(Ok(stream)) => drop(done.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, "a TLS handshake failed: {error}"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}

fn server_config(config: &config::Tls) -> anyhow::Result<ServerConfig> {
    let certificates = certificates(&config.certificate_file, "http.tls.certificate_file")?;
    let key = PrivateKeyDer::from_pem_file(&config.key_file)
        .with_context(|| format!("http.tls.key_file {} has no private key in PEM", config.key_file.display()))?;
    let builder = ServerConfig::builder();
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in self::certificates(file, "http.tls.client_ca_file")? {
                roots
                    .add(authority)
                    .with_context(|| format!("http.tls.client_ca_file {} has a certificate that is no authority", file.display()))?;
            }
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?)
        }
    };
    let mut server = builder.with_single_cert(certificates, key).context("http.tls: the key does not belong to the certificate")?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}

fn certificates(file: &std::path::Path, what: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let unreadable = || format!("{what} {} has no certificates in PEM", file.display());
    let found = CertificateDer::pem_file_iter(file).with_context(unreadable)?.collect::<Result<Vec<_>, _>>().with_context(unreadable)?;
    anyhow::ensure!(!found.is_empty(), unreadable());
    Ok(found)
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // Accepting has stopped, and so will the server.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let (_, session) = stream.io().get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        Self { address: *stream.remote_addr(), certificate: certificate.map(|c| Fingerprint(Sha256::digest(c.as_ref()).into())) }
    }
}

/// Puts what is known of the peer where the routes look for it, as the listener without TLS does.
pub async fn introduce(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(ConnectInfo(peer.address));
    if let Some(fingerprint) = peer.certificate {
        request.extensions_mut().insert(fingerprint);
    }
    next.run(request).await
}
