//! A WebSocket from the ground up: addresses, TCP, a proxy, TLS.

use std::net::SocketAddr;

use lanecast_pacing::PacedTcp;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::websocket::WebSocket;
use super::{Path, Proxy, Target, Tls, Transport, resolve, tls};

/// Bytes that TLS holds of what the socket has not taken: what lies there can no longer be overtaken.
const TLS_BUFFER_BYTES: usize = 16 * 1024;

/// Opens a WebSocket to the target.
pub(super) async fn open(target: &Target, tls: &Tls, proxy: Option<&Proxy>) -> Result<Box<dyn Transport>, String> {
    let uri = target.websocket()?;
    let (mut stream, path) = match proxy {
        Some(proxy) => connect(&proxy.host, proxy.port).await.map_err(|error| format!("the proxy: {error}"))?,
        None => connect(&target.host, target.port).await?,
    };
    let pace = stream.pace();
    if let Some(proxy) = proxy {
        proxy.tunnel(&mut stream, &target.authority()).await?;
    }
    if !target.is_secret() {
        return Ok(Box::new(WebSocket::open(stream, pace, path, uri).await?));
    }
    let connector = TlsConnector::from(tls.http()?);
    let connecting = connector.connect_with(tls::server_name(&target.host)?, stream, |connection| {
        connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    });
    let stream = connecting.await.map_err(|error| format!("TLS: {error}"))?;
    Ok(Box::new(WebSocket::open(stream, pace, path, uri).await?))
}

async fn connect(host: &str, port: u16) -> Result<(PacedTcp, Option<Path>), String> {
    let addresses = resolve::lookup(host, port).await?;
    resolve::first_of(addresses, |address: SocketAddr| async move {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        let path = stream.local_addr().ok().and_then(|bound| Path::new(address, Some(bound)));
        Ok((PacedTcp::new(stream), path))
    })
    .await
}
