//! A connection without log and ledger, for numbers of them.

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use v1::frame::Body;

use crate::client::{self, Arrival, Lane, Open, Place, Transport, WireLog};
use crate::schema::{self, v1};
use crate::target::{Target, TokenWish};
use crate::verdict::{Outcome, Stop};

/// A joined connection.
pub(super) struct Link {
    link: client::Link,
}

/// Frames of a packet.
pub(crate) fn frames(packet: &Bytes) -> Outcome<Vec<v1::Frame>> {
    let records = schema::split_records(packet).map_err(|error| Stop::fail(error.0))?;
    records.into_iter().map(|record| v1::Frame::decode(record).map_err(Stop::harness)).collect()
}

/// The record of a frame.
pub(super) fn record(id: u32, body: Body) -> Vec<u8> {
    schema::record(&v1::Frame { id, body: Some(body) }.encode_to_vec())
}

impl Link {
    /// Opens a connection, says Hello with these rooms, and waits until all are subscribed.
    pub(super) async fn join(target: &Target, transport: Transport, name: &str, rooms: &[String]) -> Outcome<Self> {
        let subscribe = |room: &String| v1::Subscribe { room: room.clone(), ..v1::Subscribe::default() };
        let subscriptions = rooms.iter().map(subscribe).collect();
        let (link, _) = Self::join_with(target, transport, name, subscriptions, &[]).await?;
        Ok(link)
    }

    /// As [`join`](Self::join), with a transport that takes only so many bytes before they are read.
    pub(super) async fn join_slow(
        target: &Target,
        transport: Transport,
        name: &str,
        room: &str,
        receive_buffer: u32,
    ) -> Outcome<Self> {
        let open = Open { receive_buffer: Some(receive_buffer), ..Open::plain(name, transport) };
        let subscription = v1::Subscribe { room: room.to_owned(), ..v1::Subscribe::default() };
        let (link, _) = Self::begin(target, open, vec![subscription], &[]).await?;
        Ok(link)
    }

    /// As [`join`](Self::join), with any subscriptions and capabilities. Returns the frames that came until all were
    /// answered.
    pub(super) async fn join_with(
        target: &Target,
        transport: Transport,
        name: &str,
        subscriptions: Vec<v1::Subscribe>,
        capabilities: &[v1::Capability],
    ) -> Outcome<(Self, Vec<v1::Frame>)> {
        Self::begin(target, Open::plain(name, transport), subscriptions, capabilities).await
    }

    async fn begin(
        target: &Target,
        open: Open,
        subscriptions: Vec<v1::Subscribe>,
        capabilities: &[v1::Capability],
    ) -> Outcome<(Self, Vec<v1::Frame>)> {
        let wish = TokenWish { user: open.name.clone(), ..TokenWish::default() };
        let token = target.token(&wish).await?;
        let opened = client::Link::open(target, &open, &WireLog::default()).await?;
        let (link, _) = opened.map_err(|refused| Stop::fail(format!("refused with {}", refused.status)))?;
        let mut waiting = subscriptions.len() + 1;
        let hello = v1::Hello {
            version_min: 1,
            version_max: 1,
            token,
            instance: open.name,
            subscriptions,
            capabilities: capabilities.iter().map(|capability| *capability as i32).collect(),
            ..Default::default()
        };
        let mut link = Self { link };
        link.send(Lane::Control, record(1, Body::Hello(hello))).await;
        let mut came = Vec::new();
        while waiting > 0 {
            for frame in link.next().await? {
                match &frame.body {
                    Some(Body::Welcome(_) | Body::Subscribed(_)) => waiting -= 1,
                    Some(Body::Error(error)) => return Err(Stop::fail(format!("refused: {error:?}"))),
                    _ => {}
                }
                came.push(frame);
            }
        }
        Ok((link, came))
    }

    /// Sends records of one lane. Whether the server is gone shows at reading.
    pub(super) async fn send(&mut self, lane: Lane, records: Vec<u8>) {
        self.link.send(lane, records.into()).await;
    }

    /// The frames of the next packet.
    pub(super) async fn next(&mut self) -> Outcome<Vec<v1::Frame>> {
        loop {
            if let Some((packet, _)) = self.packet(Instant::now() + std::time::Duration::from_secs(60)).await? {
                return frames(&packet);
            }
        }
    }

    /// The next packet and where it stood; `None`: nothing until the deadline.
    pub(super) async fn packet(&mut self, deadline: Instant) -> Outcome<Option<(Bytes, Place)>> {
        loop {
            match self.link.next(deadline).await {
                None => return Ok(None),
                Some(Arrival::Packet(bytes, place)) => return Ok(Some((bytes, place))),
                Some(Arrival::Closed(code)) => {
                    return Err(Stop::fail(format!("the connection was closed with {code}")));
                }
                Some(Arrival::Broken(rule, text)) => return Err(Stop::fail(format!("{rule}: {text}"))),
                Some(Arrival::Text(_) | Arrival::Nothing) => {}
            }
        }
    }
}
