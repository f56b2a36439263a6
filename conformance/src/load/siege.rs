//! What healthy clients notice of peers that never finish: latency from publish to delivery, in turns with and without
//! handshakes that do not go on and connections that say nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use v1::frame::Body;

use super::fanout::envelope;
use super::link::{Link, record};
use super::{quantile, table};
use crate::client::socket::reach;
use crate::client::{Lane, Transport};
use crate::schema::v1;
use crate::target::{Endpoint, Target};
use crate::verdict::{Outcome, Stop, check};

/// Pairs of healthy clients, and the time between two events of one.
const PAIRS: usize = 8;
const BETWEEN: Duration = Duration::from_millis(20);
/// Time for besiegers to come, and to be gone.
const CHANGE: Duration = Duration::from_secs(2);
/// An event that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much the siege may add to the 99th percentile.
const RATIO_MAX: f64 = 2.0;
/// Between two attempts of a besieger that was refused.
const ATTEMPT: Duration = Duration::from_millis(100);

/// Who besieges, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub handshakes: usize,
    pub idle: usize,
    pub turns: usize,
    pub seconds: u64,
}

pub(super) async fn run(target: Arc<Target>, transport: Transport, plan: Plan) -> Outcome<String> {
    let mut pairs = JoinSet::new();
    let clock = Arc::new(Clock { phase: AtomicU64::new(IDLE), over: AtomicBool::new(false) });
    for number in 0..PAIRS {
        pairs.spawn(pair(target.clone(), transport, number, clock.clone()));
    }
    let quic = target.stream_endpoint(Transport::Quic).ok();
    let mut held = 0;
    for _ in 0..plan.turns {
        tokio::time::sleep(CHANGE).await;
        clock.measure(QUIET, plan.seconds).await;
        let siege = Siege::begin(&target.endpoint, quic.as_ref(), plan).await?;
        tokio::time::sleep(CHANGE).await;
        clock.measure(BESIEGED, plan.seconds).await;
        held = held.max(siege.open.load(Ordering::Relaxed));
        drop(siege);
    }
    clock.over.store(true, Ordering::Relaxed);
    let (mut quiet, mut besieged) = (Vec::new(), Vec::new());
    while let Some(latencies) = pairs.join_next().await {
        let (without, with) = latencies.map_err(Stop::harness)??;
        quiet.extend(without);
        besieged.extend(with);
    }
    quiet.sort_unstable();
    besieged.sort_unstable();
    let ms = |sorted: &[u64], part| format!("{:.3} ms", quantile(sorted, part) as f64 / 1e3);
    let ratio = |part| quantile(&besieged, part) as f64 / quantile(&quiet, part).max(1) as f64;
    let text = table(&[
        ("transport", transport.name().to_owned()),
        ("handshakes that never finish", plan.handshakes.to_string()),
        ("of them over QUIC", if quic.is_some() { (plan.handshakes / 2).to_string() } else { "0".into() }),
        ("idle half-open connections", format!("{}, at once {held}", plan.idle)),
        ("turns of each", format!("{} of {} s", plan.turns, plan.seconds)),
        ("events without, with", format!("{}, {}", quiet.len(), besieged.len())),
        ("publish to delivery p50 without, with", format!("{}, {}", ms(&quiet, 0.5), ms(&besieged, 0.5))),
        ("publish to delivery p99 without, with", format!("{}, {}", ms(&quiet, 0.99), ms(&besieged, 0.99))),
        ("ratio of p50, p99", format!("{:.2}, {:.2}", ratio(0.5), ratio(0.99))),
    ]);
    check(ratio(0.99) < RATIO_MAX, || format!("{text}\nthe siege adds too much to p99"))?;
    Ok(text)
}

/// What the healthy clients measure now.
const IDLE: u64 = 0;
const QUIET: u64 = 1;
const BESIEGED: u64 = 2;

struct Clock {
    phase: AtomicU64,
    over: AtomicBool,
}

impl Clock {
    async fn measure(&self, phase: u64, seconds: u64) {
        self.phase.store(phase, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.phase.store(IDLE, Ordering::Relaxed);
    }
}

/// A publisher and a subscriber. Returns latencies in µs, without and with besiegers.
async fn pair(
    target: Arc<Target>,
    transport: Transport,
    number: usize,
    clock: Arc<Clock>,
) -> Outcome<(Vec<u64>, Vec<u64>)> {
    let run = crate::target::now_ms();
    let room = format!("conform.load.{run}.{number}");
    let mut subscriber =
        Link::join(&target, transport, &format!("sub-{run}-{number}"), std::slice::from_ref(&room)).await?;
    let mut publisher = Link::join(&target, transport, &format!("pub-{run}-{number}"), &[]).await?;
    let (mut quiet, mut besieged) = (Vec::new(), Vec::new());
    for count in 1.. {
        if clock.over.load(Ordering::Relaxed) {
            break;
        }
        let publish = v1::Publish { room: room.clone(), number: count, envelope: envelope("x"), ..Default::default() };
        let began = Instant::now();
        publisher.send(Lane::Normal, record(count as u32 + 1, Body::Publish(publish))).await;
        timeout(PATIENCE, delivered(&mut subscriber)).await.map_err(|_| Stop::fail("an event did not come"))??;
        let micros = began.elapsed().as_micros() as u64;
        publisher.next().await?;
        match clock.phase.load(Ordering::Relaxed) {
            QUIET => quiet.push(micros),
            BESIEGED => besieged.push(micros),
            _ => {}
        }
        // Who only reads is idle.
        if count % 100 == 0 {
            subscriber.send(Lane::Control, record(0, Body::Ping(v1::Ping { stamp: 1 }))).await;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok((quiet, besieged))
}

async fn delivered(subscriber: &mut Link) -> Outcome {
    loop {
        let frames = subscriber.next().await?;
        if frames.iter().any(|frame| matches!(frame.body, Some(Body::Event(_)))) {
            return Ok(());
        }
    }
}

/// Besiegers, which are gone when this is dropped. Whoever is cut off comes again.
struct Siege {
    /// Idle connections that are open.
    open: Arc<AtomicU64>,
    _besiegers: JoinSet<()>,
}

impl Siege {
    async fn begin(endpoint: &Endpoint, quic: Option<&Endpoint>, plan: Plan) -> Outcome<Self> {
        let open = Arc::new(AtomicU64::new(0));
        let mut besiegers = JoinSet::new();
        for _ in 0..plan.idle {
            besiegers.spawn(silent(endpoint.clone(), open.clone()));
        }
        let over_quic = if quic.is_some() { plan.handshakes / 2 } else { 0 };
        for _ in over_quic..plan.handshakes {
            besiegers.spawn(slow(endpoint.clone()));
        }
        if let Some(quic) = quic {
            let relay = Relay::start(quic, &mut besiegers).await.map_err(Stop::harness)?;
            for _ in 0..over_quic {
                besiegers.spawn(half_shaken(relay));
            }
        }
        Ok(Self { open, _besiegers: besiegers })
    }
}

/// Connects and says nothing.
async fn silent(endpoint: Endpoint, open: Arc<AtomicU64>) {
    loop {
        if let Ok(mut stream) = reach(&endpoint, None).await {
            open.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read_u8().await;
            open.fetch_sub(1, Ordering::Relaxed);
        }
        tokio::time::sleep(ATTEMPT).await;
    }
}

/// Begins a request, or a TLS handshake, and never ends it.
async fn slow(endpoint: Endpoint) {
    // The head of a TLS record that announces more than ever comes.
    let begin: &[u8] =
        if endpoint.tls.is_some() { &[22, 3, 1, 2, 0, 1, 0] } else { b"GET /v1/connect HTTP/1.1\r\nHost: " };
    loop {
        if let Ok(mut stream) = reach(&endpoint, None).await
            && stream.write_all(begin).await.is_ok()
        {
            let _ = stream.read_u8().await;
        }
        tokio::time::sleep(ATTEMPT).await;
    }
}

/// Hands packets on to the server and none back, so that no handshake through it ends.
#[derive(Clone, Copy)]
struct Relay(SocketAddr);

impl Relay {
    async fn start(quic: &Endpoint, tasks: &mut JoinSet<()>) -> std::io::Result<Self> {
        let address = tokio::net::lookup_host((quic.host.as_str(), quic.port)).await?.next();
        let address = address.ok_or_else(|| std::io::Error::other("no address"))?;
        let any: SocketAddr =
            if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
        let (inside, outside) = (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind(any).await?);
        outside.connect(address).await?;
        let relay = Self(inside.local_addr()?);
        tasks.spawn(async move {
            let mut packet = [0; 2048];
            while let Ok((length, _)) = inside.recv_from(&mut packet).await {
                // What is lost here is as good as what is not.
                let _ = outside.send(&packet[..length]).await;
            }
        });
        Ok(relay)
    }
}

/// Begins QUIC handshakes whose answers never come, one after the other.
async fn half_shaken(Relay(address): Relay) {
    loop {
        if let Ok(endpoint) = quinn::Endpoint::client(([127, 0, 0, 1], 0).into())
            && let Ok(tls) = crate::client::Trust::Everyone.client_config(&[crate::client::ALPN_QUIC])
            && let Ok(crypto) = quinn::crypto::rustls::QuicClientConfig::try_from(tls)
        {
            let config = quinn::ClientConfig::new(Arc::new(crypto));
            if let Ok(connecting) = endpoint.connect_with(config, address, "localhost") {
                let _ = timeout(PATIENCE, connecting).await;
            }
        }
        tokio::time::sleep(ATTEMPT).await;
    }
}
