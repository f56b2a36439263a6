//! The owner with a transport that says what a test wants.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::task::{Context, Poll};

use lanecast_protocol::lane::Lanes;
use lanecast_protocol::publisher::Bounds;
use lanecast_protocol::v1::frame::Body;

use super::*;
use crate::transport::{Source, Tls, Trust};

const REFUSED_MS: u32 = 50;
const WRITE: Duration = Duration::from_millis(60);

/// A node that refuses the first publish for now, behind a transport that needs longer for a write than the refusal holds.
#[derive(Default)]
struct Slow {
    said: VecDeque<Bytes>,
    publishes: usize,
}

impl Slow {
    fn answer(&mut self, id: u32, body: Body) {
        self.said.push_back(codec::encode_body(id, body));
    }

    fn hear(&mut self, v1::Frame { id, body }: v1::Frame) {
        match body.unwrap() {
            Body::Hello(_) => {
                let limits = v1::Limits { record_bytes: 1 << 16, publishes_in_flight: 8, ..Default::default() };
                self.answer(id, Body::Welcome(v1::Welcome { version: 1, limits: Some(limits), ..Default::default() }));
            }
            Body::Publish(publish) => {
                self.publishes += 1;
                let code = Code::RateLimited.number().into();
                let refused = v1::Error { code, retry_after_ms: REFUSED_MS, ..Default::default() };
                let stored = v1::Published { lane: publish.lane, epoch: 1, seq: 1, order: 1, ..Default::default() };
                self.answer(id, if self.publishes == 1 { Body::Error(refused) } else { Body::Published(stored) });
            }
            _ => {}
        }
    }
}

impl Transport for Slow {
    fn ordered(&self) -> bool {
        true
    }

    fn write(&mut self, next: &mut Source<'_>, _: Option<usize>) {
        while let Some(output) = next(Lanes::ALL) {
            for record in codec::records(output.record, RECORD_BYTES_MAX) {
                self.hear(codec::decode(record.unwrap()).unwrap());
            }
        }
        std::thread::sleep(WRITE);
    }

    fn poll_turn(&mut self, _: &mut Context<'_>) -> Poll<Turn> {
        self.said.pop_front().map_or(Poll::Pending, |packet| Poll::Ready(Turn::Packet(None, packet)))
    }

    fn set_paced(&mut self, _: bool) {}

    fn path(&self) -> Option<Path> {
        None
    }

    fn close(self: Box<Self>, _: Option<Code>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

#[tokio::test]
async fn what_becomes_due_while_it_is_written_is_not_forgotten() {
    let (commands, receiver) = mpsc::channel(1);
    let seams = Seams {
        commands: receiver,
        wake: Arc::default(),
        state: watch::channel(ClientState::Idle).0,
        clock_offset_ms: Arc::default(),
        pending: watch::channel(0).0,
    };
    let options = session::Options {
        instance: "i".into(),
        info: v1::ClientInfo::default(),
        device: String::new(),
        outbox: Bounds { items_max: 1, bytes_max: 1024 },
        outbox_ttl_ms: 3_600_000,
        renews_tokens: false,
        seed: 1,
    };
    let dialer = Dialer::new(Tls::new(Trust::default()), None, 0, false);
    let to = (Target::parse("ws://127.0.0.1:1/").unwrap(), dialer);
    let (outcomes, _) = mpsc::unbounded_channel();
    let mut owner = Owner::new(options, to, TokenSource::Fixed("t".into()), seams, (None, None), outcomes);
    owner.session.connect(owner.clock.now());
    owner.drain();
    owner.opening = None;
    owner.session.opened(owner.clock.now(), "t".into(), true);
    owner.link = Some(Box::new(Slow::default()));
    owner.drain();

    let publication = Publication {
        room: "r".into(),
        lane: crate::Lane::Normal,
        transient: false,
        ttl_ms: 0,
        keep_ms: None,
        ack: v1::AckLevel::Unspecified,
        envelope: Bytes::new(),
    };
    let (reply, mut settled) = oneshot::channel();
    let replies = Replies { settled: reply, queued: None };
    commands.send(Command::Publish { publication, replies }).await.unwrap();
    let stored = async {
        loop {
            let input = owner.input().await;
            owner.handle(input);
            owner.drain();
            if let Ok(stored) = settled.try_recv() {
                break stored;
            }
        }
    };
    let stored = tokio::time::timeout(Duration::from_secs(10), stored).await;
    assert_eq!(stored.expect("it was forgotten").unwrap().seq, 1);
}
