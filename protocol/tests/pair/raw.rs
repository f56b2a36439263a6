//! A bare connection: one server session, frames in and frames out, no client.

use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lanes;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::session::Now;
use lanecast_protocol::session::server::{Accepted, Opened, Request, Session};
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::{codec, v1};

use crate::support::Node;
use crate::support::node::config;

pub struct Raw {
    pub session: Session,
    pub now: Now,
    /// Whether Authenticate is answered.
    pub authenticates: bool,
    /// Whether Subscribe is answered.
    pub opens: bool,
    /// Requests that were not answered.
    pub requests: Vec<Request>,
}

impl Raw {
    pub fn new() -> Self {
        let now = Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let session = Session::new(Node::new().config.clone(), now);
        Self { session, now, authenticates: true, opens: true, requests: Vec::new() }
    }

    /// One that was welcomed.
    pub fn open() -> Self {
        Self::new().welcomed(&[])
    }

    /// Sends Hello with these capabilities, and takes Welcome.
    pub fn welcomed(mut self, capabilities: &[v1::Capability]) -> Self {
        let hello = v1::Hello {
            version_min: 1,
            version_max: 1,
            token: "t".into(),
            instance: "i".into(),
            capabilities: capabilities.iter().map(|&capability| capability.into()).collect(),
            ..Default::default()
        };
        self.send(1, Body::Hello(hello));
        assert!(matches!(&self.received()[..], [v1::Frame { id: 1, body: Some(Body::Welcome(_)) }]));
        self
    }

    /// Queues a large event.
    pub fn deliver_large(&mut self, lane: DurableLane) {
        let event =
            v1::Event { lane: v1::Lane::from(lane).into(), envelope: vec![0; 50_000].into(), ..Default::default() };
        self.session.send(lane.into(), 1, codec::encode_body(0, Body::Event(event)), None);
    }

    pub fn send(&mut self, id: u32, body: Body) {
        self.send_frame(v1::Frame { id, body: Some(body) });
    }

    pub fn send_frame(&mut self, frame: v1::Frame) {
        self.send_bytes(codec::encode(&frame).to_vec());
    }

    pub fn send_bytes(&mut self, packet: Vec<u8>) {
        for record in codec::records(packet.into(), config().limits.record_bytes as usize) {
            match record {
                Ok(record) => drop(self.session.handle_record(self.now, None, record)),
                Err(fault) => self.session.handle_fault(fault),
            }
        }
        self.handle_requests();
    }

    pub fn handle_requests(&mut self) {
        while let Some(request) = self.session.poll_request() {
            self.answer(request);
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Authenticate(hello) if self.authenticates => {
                let accepted = Accepted { connection_id: "c".into(), user: hello.token.clone(), ..Accepted::default() };
                self.session.accept(self.now, accepted);
            }
            Request::Subscribe { asked, subscribe } if self.opens => {
                let opened = self.opened(&subscribe.room);
                self.session.subscribed(asked.id(), opened, v1::SubscribedCause::Unspecified);
            }
            Request::Signal { id, .. } => self.session.done(id),
            other => self.requests.push(other),
        }
    }

    pub fn opened(&self, room: &str) -> Opened {
        let position = lanecast_protocol::position::Position { epoch: 7, ..Default::default() };
        Opened {
            room: room.into(),
            handle: 1 + room.len() as u64,
            position,
            head: position,
            head_order: 0,
            recovered: false,
            rolled_back: Vec::new(),
            missed_transients: None,
            transients: None,
            degraded: false,
        }
    }

    pub fn advance(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms;
        if self.session.poll_timeout().is_some_and(|due| due <= self.now.monotonic_ms) {
            self.session.handle_timeout(self.now);
        }
    }

    pub fn received(&mut self) -> Vec<v1::Frame> {
        let mut frames = Vec::new();
        while let Some(output) = self.session.poll_output(self.now, Lanes::ALL) {
            for record in codec::records(output.record, usize::MAX) {
                frames.push(codec::decode(record.unwrap()).unwrap());
            }
        }
        frames
    }

    pub fn closed(&self) -> Option<Code> {
        self.session.closing()
    }

    /// The code of the only Error among the answers.
    pub fn refused(&mut self) -> Option<Code> {
        let frames = self.received();
        let codes: Vec<_> = frames
            .iter()
            .filter_map(|frame| match &frame.body {
                Some(Body::Error(error)) => Code::from_number(error.code),
                _ => None,
            })
            .collect();
        assert!(codes.len() <= 1, "{codes:?}");
        codes.first().copied()
    }
}
