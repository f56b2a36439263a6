//! Networks between a client and a server: a TCP relay that cuts, and a UDP relay whose flows die.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::verdict::{Outcome, Stop};

const PACKET_BYTES_MAX: usize = 2048;
/// Flows that a relay keeps; packets of further ones are lost.
const FLOWS_MAX: usize = 256;

/// Carries TCP connections to a server, and cuts them all at once.
pub struct TcpRelay {
    /// Its port on the loopback address.
    pub port: u16,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl TcpRelay {
    /// Relays to that port of the loopback address. `named`: a UDP port that the server names in its descriptions, and the one
    /// that clients are told in its place.
    pub async fn start(to: u16, named: Option<(u16, u16)>) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Stop::harness)?;
        let port = listener.local_addr().map_err(Stop::harness)?.port();
        let cuts = watch::Sender::new(0);
        let task = tokio::spawn(relay_tcp(listener, to, named, cuts.clone()));
        Ok(Self { port, cuts, task })
    }

    /// Ends all connections that there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay_tcp(listener: TcpListener, to: u16, named: Option<(u16, u16)>, cuts: watch::Sender<u64>) {
    let mut flows = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while flows.try_join_next().is_some() {}
        let mut cut = cuts.subscribe();
        flows.spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
            tokio::select! {
                _ = carry(client, server, named) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Carries bytes both ways until an end is gone.
async fn carry(mut client: TcpStream, mut server: TcpStream, named: Option<(u16, u16)>) -> std::io::Result<()> {
    let Some((own, told)) = named else {
        return copy_bidirectional(&mut client, &mut server).await.map(|_| ());
    };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let down = async {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let read = from_server.read(&mut chunk).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            rename(&mut chunk[..read], own, told);
            to_client.write_all(&chunk[..read]).await?;
        }
    };
    tokio::try_join!(tokio::io::copy(&mut from_client, &mut to_server), down).map(|_| ())
}

/// Puts a port in the place of another one wherever a description names it. Ports that are given out have five digits.
fn rename(bytes: &mut [u8], own: u16, told: u16) {
    let (own, told) = (format!("\"port\":{own}"), format!("\"port\":{told}"));
    if own.len() != told.len() {
        return;
    }
    for at in 0..bytes.len().saturating_sub(own.len() - 1) {
        if bytes[at..].starts_with(own.as_bytes()) {
            bytes[at..at + told.len()].copy_from_slice(told.as_bytes());
        }
    }
}

/// Carries QUIC to a server. A flow begins with a handshake, as behind a balancer that hashes addresses: short packets from an
/// address without one lead nowhere.
pub struct UdpRelay {
    /// Its port on the loopback address.
    pub port: u16,
    age: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl UdpRelay {
    /// Relays to that port of the loopback address.
    pub async fn start(to: u16) -> Outcome<Self> {
        let down = UdpSocket::bind("127.0.0.1:0").await.map_err(Stop::harness)?;
        let port = down.local_addr().map_err(Stop::harness)?.port();
        let age = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(relay_udp(Arc::new(down), to, age.clone()));
        Ok(Self { port, age, task })
    }

    /// The flows that there are die in silence; new ones begin with a new handshake.
    pub fn cut(&self) {
        self.age.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client's address and what leads from it to the server.
struct Flow {
    up: Arc<UdpSocket>,
    age: u64,
}

async fn relay_udp(down: Arc<UdpSocket>, to: u16, age: Arc<AtomicU64>) {
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut pumps = JoinSet::new();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        let Ok((length, from)) = down.recv_from(&mut packet).await else { continue };
        let now = age.load(Ordering::Relaxed);
        let begins = packet[0] & 0x80 != 0;
        let known = flows.get(&from).filter(|flow| flow.age == now);
        let up = match known {
            Some(flow) => flow.up.clone(),
            None if !begins || flows.len() >= FLOWS_MAX => continue,
            None => {
                let Some(up) = connect(to).await else { continue };
                pumps.spawn(pump(up.clone(), down.clone(), from, (age.clone(), now)));
                flows.insert(from, Flow { up: up.clone(), age: now });
                up
            }
        };
        // UDP may lose what it likes.
        let _ = up.send(&packet[..length]).await;
    }
}

async fn connect(to: u16) -> Option<Arc<UdpSocket>> {
    let up = UdpSocket::bind("127.0.0.1:0").await.ok()?;
    up.connect(("127.0.0.1", to)).await.ok()?;
    Some(Arc::new(up))
}

async fn pump(up: Arc<UdpSocket>, down: Arc<UdpSocket>, client: SocketAddr, (age, born): (Arc<AtomicU64>, u64)) {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    while age.load(Ordering::Relaxed) == born {
        let Ok(length) = up.recv(&mut packet).await else { return };
        if age.load(Ordering::Relaxed) == born {
            let _ = down.send_to(&packet[..length], client).await;
        }
    }
}
