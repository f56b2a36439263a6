//! Replays over a link of a known rate, from a log that takes its time.

use std::pin::Pin;
use std::task::ready;

use tokio::time::{Instant, Sleep, sleep_until};

use super::*;

/// Bytes that the link carries in a millisecond.
const BYTES_PER_MS: u64 = 4_000;

/// A link that carries one record after the other.
struct Link {
    records: mpsc::UnboundedReceiver<Bytes>,
    frames: mpsc::UnboundedSender<v1::Frame>,
    free: Pin<Box<Sleep>>,
    busy: bool,
}

impl Transport for Link {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        self.records.poll_recv(cx).map(received)
    }

    fn takes(&self) -> Lanes {
        if self.is_busy() { Lanes::NONE } else { Lanes::ALL }
    }

    fn is_busy(&self) -> bool {
        self.busy
    }

    fn send(&mut self, _: usize, next: &mut Source<'_>) -> usize {
        if self.busy {
            return 0;
        }
        let Some(output) = next(Lanes::ALL) else { return 0 };
        let bytes = output.record.len();
        self.busy = true;
        self.free.as_mut().reset(Instant::now() + Duration::from_micros(bytes as u64 * 1_000 / BYTES_PER_MS));
        for frame in frames_of(output.record) {
            let _ = self.frames.send(frame);
        }
        bytes
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        ready!(self.free.as_mut().poll(cx));
        self.busy = false;
        Poll::Ready(Ok(()))
    }

    fn start_close(&mut self, _: Code) {}
}

#[tokio::test(start_paused = true)]
async fn replays_share_a_link_by_weight_though_the_log_takes_longer_than_an_event() {
    // LC-LANE-007
    const COUNT: usize = 60;
    let peer = Peer::open().await;
    let keep = Retention { events_max: 1_000, age_ms_max: u64::MAX };
    let envelope = v1::Envelope { r#type: "t".into(), key: "x".repeat(60_000), ..Default::default() };
    let tail = codec::event_tail(v1::Sender::default(), START_MS, 0, envelope.encode_to_vec().into());
    for lane in [DurableLane::Normal, DurableLane::Bulk] {
        let item = |_| Append {
            lane,
            origin: Origin::Unmarked,
            time_ms: START_MS,
            expires_at_ms: 0,
            event_type: "t".into(),
            tail: tail.clone(),
        };
        peer.engine.inner.append("r", keep, (0..COUNT).map(item).collect()).await;
    }
    // A page has two of the events, each of which takes the link 15 ms.
    peer.engine.dials.delay_ms.store(35, Relaxed);
    let (packets, records) = mpsc::unbounded_channel();
    let (sent, mut frames) = mpsc::unbounded_channel();
    let link = Link { records, frames: sent, free: Box::pin(sleep_until(Instant::now())), busy: false };
    let labels = (labels::Transport::WebSocket, labels::Encoding::Binary);
    let connection = Connection::new(Arc::clone(&peer.node), link, labels, ([127, 0, 0, 1], 0).into());
    drop(tokio::spawn(Box::new(connection).run()));
    let peer = Peer { packets, ..peer };
    peer.hello("ann", "");
    peer.subscribe(2, "r", Some(v1::start::At::Beginning(v1::StartBeginning {})));
    peer.pass(10_000).await;
    let frames = std::iter::from_fn(|| frames.try_recv().ok());
    let events = frames.filter_map(|frame| if let Some(Body::Event(event)) = frame.body { Some(event) } else { None });
    let last = |event: &v1::Event| event.lane() == v1::Lane::Normal && event.seq == COUNT as u64;
    let bulk = events.take_while(|event| !last(event)).filter(|event| event.lane() == v1::Lane::Bulk).count();
    assert!((COUNT / 5..=COUNT / 3).contains(&bulk), "{bulk} of lane bulk beside {COUNT} normal ones");
}
