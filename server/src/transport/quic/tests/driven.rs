//! What the node's end of a connection does, step by step, over a path that may lose packets.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use lanecast_pacing::quic::Meter;
use lanecast_protocol::binding::Purpose;
use lanecast_protocol::codec;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::outbox::{Output, Route};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;

use super::{Peer, SOON, accept, dial_at, publish, start};
use crate::testing::Running;
use crate::transport::Transport;
use crate::transport::quic;
use crate::transport::quic::link::Link;
use crate::transport::quic::streams::StreamsTransport;

/// A path whose packets the test may lose.
struct Path {
    address: SocketAddr,
    /// Packets to the client that are lost next.
    lost: Arc<AtomicUsize>,
    /// Whether nothing of the client arrives.
    is_mute: Arc<AtomicBool>,
}

async fn path(node: SocketAddr) -> Path {
    let bind = || async { tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap() };
    let (front, back) = (bind().await, bind().await);
    back.connect(node).await.unwrap();
    let (lost, is_mute) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let path = Path { address: front.local_addr().unwrap(), lost: Arc::clone(&lost), is_mute: Arc::clone(&is_mute) };
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 2_048], [0; 2_048]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((bytes, from)) = front.recv_from(&mut up) => {
                    client = Some(from);
                    if !is_mute.load(Ordering::Relaxed) {
                        let _ = back.send(&up[..bytes]).await;
                    }
                }
                Ok(bytes) = back.recv(&mut down) => {
                    let is_lost = lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lost| lost.checked_sub(1)).is_ok();
                    if let (Some(client), false) = (client, is_lost) {
                        let _ = front.send_to(&down[..bytes], client).await;
                    }
                }
            }
        }
    });
    path
}

/// A connection whose end at the node the test drives itself.
struct Driven {
    transport: StreamsTransport,
    node: quinn::Connection,
    client: quinn::Connection,
    _kept: (quinn::Endpoint, SendStream, RecvStream),
}

fn endpoint(running: &Running) -> quinn::Endpoint {
    let config = quic::server_config(&running.node).unwrap();
    quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
}

/// `address`: where the client finds the endpoint.
async fn driven(running: &Running, endpoint: quinn::Endpoint, address: SocketAddr) -> Driven {
    let (client, node) =
        tokio::join!(dial_at(running, address, quic::RAW), async { endpoint.accept().await.unwrap().await.unwrap() });
    let (mut control, reads) = client.open_bi().await.unwrap();
    control.write_chunk(Purpose::Control.header()).await.unwrap();
    let mut link = Link::quic(node.clone());
    let accepted = link.accept_control().await.unwrap();
    let transport = StreamsTransport::new(Arc::clone(&running.node), link, accepted);
    Driven { transport, node, client, _kept: (endpoint, control, reads) }
}

#[tokio::test]
async fn a_full_lane_leaves_room_for_those_above() {
    // LC-LANE-005
    let running = start(|_| {}).await;
    let endpoint = endpoint(&running);
    let address = endpoint.local_addr().unwrap();
    let mut driven = driven(&running, endpoint, address).await;
    let transport = &mut driven.transport;
    // From here on the connection has no turn, so that nothing is sent and nothing acknowledged.
    let mut cx = Context::from_waker(Waker::noop());
    let mut fill = |transport: &mut StreamsTransport, lane: Lane, route: Route| {
        let (mut bytes, record) = (0, codec::encode_body(1, publish("r", v1::Lane::Bulk, 1, &"x".repeat(4_000))));
        while transport.takes().contains(lane) && bytes < 1_000_000 {
            bytes += transport.send(4_096, &mut |lanes| {
                lanes.contains(lane).then(|| Output { route, lane, record: record.clone(), waited_ms: 0 })
            });
            let _ = transport.poll_flush(&mut cx);
        }
        bytes as u64
    };
    let window = transport.window().unwrap();
    let bulk = fill(transport, Lane::Bulk, Route::Stream(Lane::Bulk));
    assert!((window..2 * window).contains(&bulk), "{bulk} of {window}");
    assert!(transport.is_busy() && transport.poll_flush(&mut Context::from_waker(Waker::noop())).is_pending());
    let normal = fill(transport, Lane::Normal, Route::Stream(Lane::Normal));
    assert!(normal < 10_000, "{normal}");
    let urgent = fill(transport, Lane::Urgent, Route::Stream(Lane::Urgent));
    assert!(urgent > 64 * 1024, "{urgent}");
    assert!(transport.takes().contains(Lane::Control));
    transport.set_paced(false);
    assert!(matches!(transport.poll_flush(&mut Context::from_waker(Waker::noop())), Poll::Pending), "all room is used");
}

/// Sends while it waits.
async fn meanwhile<T>(transport: &mut StreamsTransport, awaited: impl Future<Output = T>) -> T {
    let sending = async {
        loop {
            poll_fn(|cx| transport.poll_flush(cx)).await.unwrap();
        }
    };
    tokio::select! {
        done = awaited => done,
        () = sending => unreachable!("sending never ends"),
        () = tokio::time::sleep(SOON) => panic!("nothing came"),
    }
}

fn urgent(transport: &mut StreamsTransport, seq: u64) {
    urgent_until(transport, seq, 0);
}

/// `expires_at_ms`: by the node's clock; 0: never.
fn urgent_until(transport: &mut StreamsTransport, seq: u64, expires_at_ms: u64) {
    let lane = v1::Lane::Urgent.into();
    let event = v1::Event { handle: 1, lane, seq, order: seq, expires_at_ms, ..Default::default() };
    let record = codec::encode_body(0, Body::Event(event));
    let mut output = Some(Output { route: Route::Message, lane: Lane::Urgent, record, waited_ms: 0 });
    transport.send(1, &mut |_| output.take());
    assert!(output.is_none(), "lane urgent is full");
}

#[tokio::test]
async fn what_may_be_lost_goes_again_beside_it() {
    // LC-QUIC-014
    let running = start(|_| {}).await;
    let endpoint = endpoint(&running);
    let path = path(endpoint.local_addr().unwrap()).await;
    let Driven { transport, node, client, .. } = &mut driven(&running, endpoint, path.address).await;
    let (send, mut came) = mpsc::unbounded_channel();
    tokio::spawn(accept(Arc::new(Peer { connection: client.clone(), session: None, held: None }), send));
    let mut next = async || {
        let (purpose, stream, frame) = came.recv().await.unwrap();
        assert_eq!(purpose, Some(Purpose::Message));
        let Some(Body::Event(event)) = frame.body else { panic!("not an event") };
        (event.seq, stream)
    };

    let meter = Meter::of(node).unwrap();
    let mut seq = 0;
    while !meter.read(node).is_unreliable {
        seq += 1;
        assert!(seq < 100, "no loss was found");
        // Probes of the path's packet size are lost in silence.
        path.lost.store(1, Ordering::Relaxed);
        urgent(transport, seq);
        while meanwhile(transport, next()).await.0 != seq {}
    }
    path.lost.store(0, Ordering::Relaxed);

    // Nothing is acknowledged any more, so everything may be lost.
    path.is_mute.store(true, Ordering::Relaxed);
    let (late, last) = (seq + 2, seq + 3);
    urgent(transport, seq + 1);
    urgent(transport, 0);
    urgent_until(transport, late, 1);
    urgent_until(transport, last, u64::MAX);
    let mut streams: Vec<(u64, u64)> = Vec::new();
    let times = |streams: &[(u64, u64)], seq| streams.iter().filter(|(other, _)| *other == seq).count();
    while [seq + 1, last].iter().any(|seq| times(&streams, *seq) < 2) {
        let (came, stream) = meanwhile(transport, next()).await;
        if came == 0 || came > seq {
            streams.push((came, stream));
        }
    }
    assert_eq!(times(&streams, 0), 1, "a client knows an event by its seq");
    assert_eq!(times(&streams, late), 1, "L8");
    assert!(running.node.metrics.urgent_copies.get() >= 2);
    let numbers: std::collections::BTreeSet<_> = streams.iter().map(|(_, stream)| stream).collect();
    assert_eq!(numbers.len(), streams.len(), "each on a stream of its own");
}
