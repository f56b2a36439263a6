//! Publishes numbers to a room and reads the room, from files that outlive the process. Kill it at any moment: the next run goes
//! on, each number is stored once, and at most the batch comes again that was not acknowledged.
//!
//! Start a node with `cargo run --release`, then
//! `cargo run -p lanecast --example phone -- ws://127.0.0.1:8080 /tmp/phone chat.lobby 1 10`; the folder has to be there.
//! It prints `queued N` for what it published and `batch N N …` for what it handled, and ends when nothing is left to send
//! and its last number has come back.

use std::error::Error;
use std::path::Path;

use lanecast::{Client, Subscription};

/// Events that are handled at a time.
const BATCH: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [url, folder, room, from, count] = &args[..] else {
        return Err("usage: phone URL FOLDER ROOM FROM COUNT".into());
    };
    let (folder, from, count): (_, u64, u64) = (Path::new(folder), from.parse()?, count.parse()?);

    // README begins: phone
    let client = Client::builder(url)
        .token("dev:alice")
        .outbox_file(folder.join("outbox"))
        .positions_file(folder.join("positions"))
        .connect()?;
    // Without a start it goes on where the last run stopped; the first run begins live.
    let room = client.room(room);
    let mut subscription = room.subscribe().await?;
    subscription.ready().await?;
    // README ends
    let reader = tokio::spawn(async move { read(&mut subscription, from + count - 1).await });
    for number in from..from + count {
        room.publish("line", number.to_string()).send().await?;
        println!("queued {number}");
    }
    client.flush().await?;
    reader.await?;
    client.close().await;
    Ok(())
}

/// Handles batches up to the one with the last number.
async fn read(subscription: &mut Subscription, last: u64) {
    loop {
        let batch = subscription.next_batch(BATCH).await;
        let texts: Vec<_> = batch
            .iter()
            .map(|item| match item {
                Ok(event) => event.text().unwrap_or_default().to_owned(),
                Err(gap) => format!("[{gap}]"),
            })
            .collect();
        println!("batch {}", texts.join(" "));
        if batch.is_empty() || texts.contains(&last.to_string()) {
            subscription.acknowledge();
            return;
        }
    }
}
