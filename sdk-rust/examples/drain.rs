//! Reads a room from its beginning in batches and prints how many events a second that took: what SDKs of other languages
//! are measured against.
//!
//! `drain URL ROOM EVENTS fill` publishes the events, `drain URL ROOM EVENTS` reads them.

use std::error::Error;
use std::time::Instant;

use lanecast::{Client, Room};

/// Items that are asked for at a time, as the other SDKs do.
const BATCH_MAX: usize = 1024;
/// Bytes of an event's payload: a chat message.
const BODY_BYTES: usize = 200;
/// Publishes that are handed over before the outbox is waited for, which holds 10,000.
const UNSETTLED_MAX: usize = 5_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, room, events, rest @ ..] = arguments.as_slice() else {
        return Err("drain URL ROOM EVENTS [fill]".into());
    };
    let client = Client::builder(url).token("dev:rust").connect()?;
    client.connected().await?;
    let (room, events) = (client.room(room), events.parse()?);
    match rest {
        [] => println!("{:.0}", read(&room, events).await?),
        _ => fill(&client, &room, events).await?,
    }
    client.close().await;
    Ok(())
}

async fn fill(client: &Client, room: &Room, events: usize) -> Result<(), Box<dyn Error>> {
    let body = "x".repeat(BODY_BYTES);
    for number in 1..=events {
        // The answer is waited for by `flush`.
        drop(room.publish("msg", body.as_str()).send().await?);
        if number % UNSETTLED_MAX == 0 {
            client.flush().await?;
        }
    }
    client.flush().await?;
    Ok(())
}

/// Events a second.
async fn read(room: &Room, events: usize) -> Result<f64, Box<dyn Error>> {
    let begin = Instant::now();
    let mut subscription = room.subscribe().from_beginning().await?;
    let (mut count, mut bytes) = (0, 0);
    while count < events {
        let batch = subscription.next_batch(BATCH_MAX).await;
        if batch.is_empty() {
            return Err(format!("the subscription ended: {:?}", *subscription.state().borrow()).into());
        }
        count += batch.len();
        bytes += batch.iter().flatten().map(|event| event.bytes().len()).sum::<usize>();
    }
    assert_eq!(bytes, events * BODY_BYTES, "every event came, and once");
    Ok(events as f64 / begin.elapsed().as_secs_f64())
}
