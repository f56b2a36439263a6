//! Mutated packets by the thousand, with a healthy client beside them that must notice nothing (LC-SEC-006).
//!
//! Each packet begins as one that a client could send and is then damaged: bits, bytes, lengths, pieces of other
//! packets, random bytes. On transports with streams it goes on control, on any lane, on a stream of its own whose header
//! may be damaged, too, and which may end or be reset anywhere, or in a datagram. A connection that the server closes,
//! which it must do with a code of the table, is replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::case::{Ctx, Join};
use crate::client::{ABNORMAL, Conn, Encoding, Incoming, Lane, StreamEnd, Transport, header_record};
use crate::schema;
use crate::schema::v1::StreamKind;
use crate::target::Target;
use crate::verdict::{Outcome, check};

/// Packets on one connection before a new one is opened anyway.
const PER_CONNECTION: u64 = 50;
/// Streams of a hostile connection, below what servers let a client open.
const STREAMS: u32 = 16;
/// Hostile connections at a time.
const WORKERS: u64 = 8;
/// Between two events of the healthy client.
const BETWEEN_CHECKS: Duration = Duration::from_millis(100);

/// Sends `count` mutated packets on several connections at a time and returns a line about them.
pub async fn run(target: Arc<Target>, transport: Transport, count: u64, seed: u64) -> Outcome<String> {
    let started = Instant::now();
    let name = format!("fuzz{seed}-{:08x}", rand::random::<u32>());
    let mut ctx = Ctx::new(target.clone(), transport, Encoding::Binary, &name);
    let room = ctx.room();
    ctx.join_as("healthy").await?;
    let handle = ctx.subscribe("healthy", json!({"room": room})).await?["handle"].clone();
    let share = |worker: u64| count / WORKERS + u64::from(worker < count % WORKERS);
    let hostile = (0..WORKERS).map(|worker| hostile(target.clone(), transport, share(worker), seed, worker));
    let mut hostile = std::pin::pin!(futures_util::future::try_join_all(hostile));
    let (mut checks, mut slowest) = (0, Duration::ZERO);
    let closes = loop {
        let next: u64 = checks + 1;
        let check = async {
            let before = Instant::now();
            ctx.publish_one("healthy", &room, "still here").await?;
            ctx.events("healthy", &handle, "LANE_NORMAL", next, next).await?;
            let took = before.elapsed();
            tokio::time::sleep(BETWEEN_CHECKS).await;
            Outcome::Ok(took)
        };
        tokio::pin!(check);
        tokio::select! {
            took = &mut check => {
                slowest = slowest.max(took?);
                checks += 1;
            }
            closes = &mut hostile => {
                slowest = slowest.max(check.await?);
                checks += 1;
                break closes?;
            }
        }
    };
    let within = ctx.patience();
    ctx.conn("healthy")?.barrier(within).await?;
    ctx.none("healthy", &json!({"error": {}})).await?;
    ctx.check_ledgers()?;
    let mut sums: BTreeMap<u16, u64> = BTreeMap::new();
    for (code, count) in closes.into_iter().flatten() {
        *sums.entry(code).or_default() += count;
    }
    let closes: Vec<String> = sums.iter().map(|(code, count)| format!("{code}: {count}")).collect();
    Ok(format!(
        "{count} mutated packets, seed {seed}, {:.1} s; connections by close code (0: not closed): {}; the healthy \
         client: {checks} events published and received, slowest {:.1} ms",
        started.elapsed().as_secs_f64(),
        closes.join(", "),
        slowest.as_secs_f64() * 1e3
    ))
}

/// Sends mutated packets, one connection after the other. Returns how many ended with which code.
async fn hostile(
    target: Arc<Target>,
    transport: Transport,
    count: u64,
    seed: u64,
    worker: u64,
) -> Outcome<BTreeMap<u16, u64>> {
    let mut random = StdRng::seed_from_u64(seed << 8 | worker);
    let name = format!("fuzz{seed}-{worker}-{:08x}", rand::random::<u32>());
    let mut ctx = Ctx::new(target, transport, Encoding::Binary, &name);
    let room = ctx.room();
    let mut closes = BTreeMap::new();
    let mut sent = 0;
    while sent < count {
        // Some connections are hostile from their first byte on.
        if random.random_bool(0.2) {
            ctx.open_named("hostile").await?;
        } else {
            ctx.join(Join::named("hostile")).await?;
        }
        let mut conn = ctx.take("hostile")?;
        for _ in 0..PER_CONNECTION.min(count - sent) {
            let packet = mutated(&mut random, &room)?;
            if transport == Transport::Websocket {
                conn.send_bytes_quietly(Lane::Control, packet).await;
            } else {
                send_somewhere(&mut conn, &mut random, packet).await?;
            }
            sent += 1;
            // Reads what is there without waiting, so that a close is seen soon.
            let closed = matches!(conn.read_unjudged(tokio::time::Instant::now()).await, Incoming::Closed(_));
            // On streams the close comes a second after the Error.
            if closed || conn.ledger.closing().is_some() {
                break;
            }
        }
        let code = finish(&mut conn).await;
        *closes.entry(code).or_default() += 1;
        check(code != 4205, || format!("seed {seed}, worker {worker}, packet {sent}: the server answered INTERNAL"))?;
    }
    Ok(closes)
}

/// Sends a packet where a client with streams could send one, and where it could not.
async fn send_somewhere(conn: &mut Conn, random: &mut StdRng, packet: Vec<u8>) -> Outcome {
    let lanes = [Lane::Urgent, Lane::Normal, Lane::Bulk, Lane::Signal];
    match random.random_range(0..8) {
        0 => conn.send_bytes_quietly(Lane::Control, packet).await,
        1 => conn.send_bytes_quietly(lanes[random.random_range(0..3)], packet).await,
        // Refused where it is larger than the path takes, which is as good.
        2 => drop(conn.send_datagram(&packet)),
        _ => {
            let kind = StreamKind::try_from(random.random_range(0..6)).unwrap_or_default();
            let mut bytes = header_record(kind, lanes[random.random_range(0..4)].to_wire());
            if random.random_bool(0.3) {
                damage(random, &mut bytes);
            }
            bytes.extend(packet);
            let stream = format!("s{}", random.random_range(0..STREAMS));
            let end = [StreamEnd::Open, StreamEnd::Finished, StreamEnd::Reset][random.random_range(0..3)];
            conn.send_stream_quietly(&stream, &bytes, end).await;
        }
    }
    Ok(())
}

/// Gives the server a moment to close, then closes. 0: it did not.
async fn finish(conn: &mut Conn) -> u16 {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(2);
    loop {
        match conn.read_unjudged(deadline).await {
            Incoming::Frames => {}
            Incoming::Closed(code) => return code,
            Incoming::Quiet => return said(conn),
        }
        if conn.closed() == Some(ABNORMAL) {
            return ABNORMAL;
        }
    }
}

/// The code of the Error that the connection ends with, or 0.
fn said(conn: &Conn) -> u16 {
    conn.ledger.closing().and_then(|code| u16::try_from(code).ok()).unwrap_or(0)
}

/// A packet that a client could send.
fn plausible(random: &mut StdRng, room: &str) -> Outcome<Vec<u8>> {
    let id: u32 = random.random_range(0..5);
    let number: u64 = random.random_range(0..4);
    let envelope = json!({"type": "t", "key": "k", "headers": {"a": "b"}, "text": "some text"});
    let frame = match random.random_range(0..10) {
        0 => json!({"id": id, "hello": {"versionMin": 1, "versionMax": 1, "token": "x", "instance": "i",
            "subscriptions": [{"room": room}]}}),
        1 => json!({"id": id, "ping": {"stamp": number}}),
        2 => json!({"id": id, "subscribe": {"room": room, "signals": true, "start":
            {"position": {"epoch": number, "urgent": 1, "normal": 2, "bulk": 3}}, "transients": {"source": 1}}}),
        3 => json!({"id": id, "unsubscribe": {"room": room}}),
        4 => json!({"id": id, "publish": {"room": room, "number": number, "lane": "LANE_URGENT", "ttlMs": 5,
            "envelope": envelope}}),
        5 => json!({"id": id, "publish": {"room": room, "delivery": "DELIVERY_TRANSIENT", "envelope": envelope}}),
        6 => json!({"id": id, "signal": {"room": room, "start": 1, "counter": number, "envelope": envelope}}),
        7 => json!({"id": id, "history": {"room": room, "cursor": {"epoch": number, "order": 5}, "lanes":
            ["LANE_BULK"]}}),
        8 => json!({"id": id, "credit": {"lane": "LANE_BULK", "consumed": number, "window": 9}}),
        _ => json!({"id": id, "fragment": {"transfer": 1, "lane": "LANE_BULK", "total": 99, "data": "AAAA"}}),
    };
    Ok(schema::frame_record(&frame)?)
}

/// A damaged packet.
fn mutated(random: &mut StdRng, room: &str) -> Outcome<Vec<u8>> {
    let mut packet = plausible(random, room)?;
    for _ in 0..random.random_range(1..4) {
        if random.random_range(0..8) == 0 {
            packet.extend(plausible(random, room)?);
        } else {
            damage(random, &mut packet);
        }
    }
    Ok(packet)
}

/// Damages bytes at one place.
fn damage(random: &mut StdRng, bytes: &mut Vec<u8>) {
    let place = random.random_range(0..bytes.len().max(1));
    match random.random_range(0..7) {
        _ if bytes.is_empty() => bytes.push(random.random()),
        0 => bytes[place] ^= 1 << random.random_range(0..8),
        1 => bytes[place] = random.random(),
        2 => bytes.truncate(place),
        3 => bytes.insert(place, random.random()),
        4 => {
            bytes.remove(place);
        }
        5 => bytes.splice(place..place, [0xff; 9]).for_each(drop),
        _ => {
            let length = random.random_range(0..64);
            bytes.extend((0..length).map(|_| random.random::<u8>()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything() {
        let packets = |seed| -> Vec<Vec<u8>> {
            let mut random = StdRng::seed_from_u64(seed);
            (0..50).map(|_| mutated(&mut random, "r").unwrap()).collect()
        };
        assert_eq!(packets(3), packets(3));
        assert_ne!(packets(3), packets(4));
    }
}
