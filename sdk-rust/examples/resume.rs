//! Reads a room from where the last run stopped, and keeps the place in a file.
//!
//! `cargo run -p lanecast --example resume`; stop it, publish something, start it again.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:8080".into());
    let client = lanecast::Client::builder(url).token("dev:alice").connect()?;
    let file = "chat.lobby.position";
    // README begins: resume
    let room = client.room("chat.lobby");
    let mut subscription = match fs::read_to_string(file) {
        Ok(text) => room.subscribe().from_position(text.parse()?).await?,
        Err(error) if error.kind() == ErrorKind::NotFound => room.subscribe().from_beginning().await?,
        Err(error) => return Err(error.into()),
    };
    loop {
        let batch = subscription.next_batch(100).await;
        if batch.is_empty() {
            break; // The subscription is over: `subscription.state()` says why.
        }
        for item in batch {
            match item {
                Ok(event) => println!("{} {}: {}", event.seq, event.from, event.text().unwrap_or_default()),
                Err(gap) => println!("missing: {gap}"),
            }
        }
        // Handled, so the position moves; what is stored is where the next run goes on.
        subscription.acknowledge();
        if let Some(position) = subscription.position() {
            fs::write(file, position.to_string())?;
        }
    }
    // README ends
    Ok(())
}
