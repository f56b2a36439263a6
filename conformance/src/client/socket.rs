//! A TCP connection, plain or under TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Trust;
use crate::target::Endpoint;

/// How TLS connections to an endpoint are made.
#[derive(Clone)]
pub struct Tls(Arc<rustls::ClientConfig>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Tls")
    }
}

impl Tls {
    /// Connections that speak HTTP/1.1 to servers that are trusted so.
    pub fn new(trust: &Trust) -> Result<Self, String> {
        trust.client_config(&[b"http/1.1"]).map(|config| Self(Arc::new(config)))
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// As it is.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects without TLS, whatever the endpoint says. A small receive buffer makes a client that reads slowly.
pub async fn reach(endpoint: &Endpoint, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let host = (endpoint.host.as_str(), endpoint.port);
    let address = tokio::net::lookup_host(host).await?.next();
    let address = address.ok_or_else(|| io::Error::other(format!("{} has no address", endpoint.host)))?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Socket {
    /// Connects to the endpoint without delay.
    pub async fn connect(endpoint: &Endpoint, receive_buffer: Option<u32>) -> io::Result<Self> {
        let tcp = reach(endpoint, receive_buffer).await?;
        let Some(Tls(config)) = &endpoint.tls else { return Ok(Self::Plain(tcp)) };
        let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config.clone()).connect(name, tcp).await?;
        Ok(Self::Tls(Box::new(stream)))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
