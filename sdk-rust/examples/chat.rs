//! A chat in the terminal: lines go to the room, `!` in front makes them urgent, and who types is shown.
//!
//! `cargo run -p lanecast --example chat -- alice`, and in another terminal with another name.

use std::error::Error;
use std::time::Duration;

use lanecast::codec::Json;
use lanecast::{Client, ClientState, Lane, Signal, SignalChange};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

/// What is said in the room.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "alice".into());
    let url = arguments.next().unwrap_or_else(|| "ws://127.0.0.1:8080".into());
    // README begins: token
    let client = Client::builder(url)
        .token_provider(move |request| {
            let name = name.clone();
            async move {
                if let Some(code) = request.refused {
                    eprintln!("the token was refused with {code}");
                }
                // Ask your own backend for a token here.
                Ok::<_, std::io::Error>(format!("dev:{name}"))
            }
        })
        .app("terminal chat", "1.0")
        .connect()?;
    client.connected().await?;
    // README ends

    // README begins: typed
    let room = client.room("chat.terminal");
    let lines = room.typed(Json::<Line>::new());
    let mut said = lines.read(room.subscribe().from_count(20).with_signals().await?);
    let mut typing = room.signals().await?;
    // README ends

    let mut state = client.state();
    let mut input = BufReader::new(stdin()).lines();
    loop {
        tokio::select! {
            line = input.next_line() => {
                let Some(text) = line? else { break };
                // README begins: publish
                let (lane, text) = match text.strip_prefix('!') {
                    Some(text) => (Lane::Urgent, text.to_owned()),
                    None => (Lane::Normal, text),
                };
                room.signal("typing", "terminal", "").ttl(Duration::from_secs(3)).await?;
                let receipt = lines.publish("line", &Line { text })?.lane(lane).send().await?;
                // README ends
                // Without a connection it waits in the outbox, and the chat goes on.
                tokio::spawn(async move {
                    if let Err(error) = receipt.await {
                        eprintln!("not sent: {error}");
                    }
                });
            }
            item = said.next() => match item {
                Some(Ok(line)) => match line.value {
                    Ok(value) => println!("{} [{}] {}", line.event.from, line.event.lane, value.text),
                    Err(error) => println!("{} said something else: {error}", line.event.from),
                },
                Some(Err(gap)) => println!("-- missing: {gap}"),
                None => break,
            },
            change = typing.next() => match change {
                Some(SignalChange::Live(Signal { from, .. })) => println!("-- {from} types"),
                Some(SignalChange::Gone { .. }) => {}
                None => break,
            },
            Ok(()) = state.changed() => match &*state.borrow_and_update() {
                ClientState::Suspended(cause) => println!("-- offline: {cause}"),
                ClientState::Connected => println!("-- online"),
                _ => {}
            },
        }
    }
    client.flush().await?;
    client.close().await;
    Ok(())
}
