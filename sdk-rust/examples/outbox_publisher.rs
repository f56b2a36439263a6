//! Publishes numbered events from an outbox file. Kill it at any moment: the next run sends what was not acknowledged, and
//! each event is stored once.
//!
//! Start a node with `cargo run --release`, then
//! `cargo run -p lanecast --example outbox_publisher -- ws://127.0.0.1:8080 /tmp/outbox chat.lobby 1 10`.

use std::error::Error;

use lanecast::{Client, Lane};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [url, file, room, from, count] = &args[..] else {
        return Err("usage: outbox_publisher URL FILE ROOM FROM COUNT".into());
    };
    let (from, count): (u64, u64) = (from.parse()?, count.parse()?);

    // README begins: outbox
    let client = Client::builder(url).token("dev:alice").outbox_file(file).connect()?;
    // What an earlier run left is sent first. Nothing waits for it any more, so this is where its end is told.
    if let Some(mut outcomes) = client.outbox().outcomes() {
        tokio::spawn(async move {
            while let Some(outcome) = outcomes.next().await {
                let text = outcome.body.as_text().unwrap_or_default();
                match outcome.result {
                    Ok(published) => eprintln!("{text}: stored as {} {}", published.lane, published.seq),
                    Err(error) => eprintln!("{text}: {error}"),
                }
            }
        });
    }
    let room = client.room(room);
    for number in from..from + count {
        let lane = Lane::ALL[number as usize % Lane::ALL.len()];
        // Queued: in the file, and sent whatever happens to this process from here on.
        room.publish("line", number.to_string()).lane(lane).send().await?;
        println!("queued {number}");
    }
    client.flush().await?;
    // README ends
    println!("settled");
    client.close().await;
    Ok(())
}
