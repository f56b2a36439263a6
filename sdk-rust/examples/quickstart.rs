//! Subscribes to a room, publishes to it, and prints what comes.
//!
//! Start a node with `cargo run --release`, then `cargo run -p lanecast --example quickstart`.

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:8080".into());
    // README begins: quickstart
    let client = lanecast::Client::builder(url).token("dev:alice").connect()?;
    let room = client.room("chat.lobby");
    let mut subscription = room.subscribe().from_count(10).await?;

    // Resolves when the node has stored it; sent again by itself if the connection breaks.
    let published = room.publish("msg", "hello").await?;
    println!("stored as {} {}", published.lane, published.seq);

    // Each event once and in order, or a gap that says what will not come.
    while let Some(item) = subscription.next().await {
        match item {
            Ok(event) => println!("{}: {}", event.from, event.text().unwrap_or_default()),
            Err(gap) => println!("missing: {gap}"),
        }
    }
    // README ends
    Ok(())
}
