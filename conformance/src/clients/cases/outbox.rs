//! Outboxes that outlive the process.

use std::time::Duration;

use serde_json::{Value, json};

use super::case;
use crate::client::short;
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, Trial};
use crate::peer::Conn;
use crate::verdict::{Outcome, Stop, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-SDK-016"] "killed-between", "What was queued is sent again after kill -9, under its instance and number.", ALL,
            ["outbox_file"], killed_between),
        case!(["LC-SDK-016"] "settled-stays-settled", "What was refused is not sent again after kill -9.", ALL, ["outbox_file"],
            settled_stays_settled),
        case!(["LC-SDK-017"] "another-user", "The publishes of one user are not sent as another.", ALL, ["outbox_file"], another_user),
        case!(["LC-SDK-018"] "damaged", "A damaged outbox is told, and no number is used twice.", ALL, ["outbox_file"], damaged),
        case!(["LC-SDK-018"] "unknown-format", "An outbox of an unknown format is left as it is.", ALL, ["outbox_file"], unknown_format),
    ]
}

/// A client with an outbox file that published three times and got no answer.
async fn with_three(t: &mut Trial, file: &str) -> Outcome<Conn> {
    t.connect(json!({"outboxFile": file})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    for number in 1..=3 {
        t.publish(json!({"body": {"text": number.to_string()}})).await?;
        conn.frame("publish").await?;
    }
    Ok(conn)
}

async fn killed_between(t: &mut Trial) -> Outcome {
    let file = t.file("outbox")?;
    let conn = with_three(t, &file).await?;
    let instance = conn.hello["instance"].clone();
    t.kill_and_start().await?;
    conn.cut();
    t.connect(json!({"outboxFile": file})).await?;
    t.publish(json!({"body": {"text": "4"}})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    check(conn.hello["instance"] == instance, || "another instance".to_owned())?;
    for expected in 1..=4_u64 {
        let again = conn.frame("publish").await?;
        let (number, text) = (again.body["number"].as_u64().unwrap_or(0), &again.body["envelope"]["text"]);
        // A new one may leave out numbers that the killed process could have used.
        let fits = if expected < 4 { number == expected } else { number > 3 };
        let fits = fits && text.as_str() == Some(expected.to_string().as_str());
        check(fits, || format!("number {number} says {text}, not {expected}"))?;
        conn.published(&again, expected).await?;
    }
    for _ in 0..3 {
        t.report("outcome").await?;
    }
    Ok(())
}

async fn settled_stays_settled(t: &mut Trial) -> Outcome {
    let file = t.file("outbox")?;
    t.connect(json!({"outboxFile": file})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    let command = t.publish(json!({})).await?;
    let publish = conn.frame("publish").await?;
    conn.error(publish.id, 4302, 0).await?;
    t.ends(command, "failed").await?;
    t.publish(json!({"body": {"text": "second"}})).await?;
    conn.frame("publish").await?;
    t.kill_and_start().await?;
    t.connect(json!({"outboxFile": file})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    let again = conn.frame("publish").await?;
    check(again.body["envelope"]["text"] == "second", || format!("number {} is sent again", again.body["number"]))
}

async fn another_user(t: &mut Trial) -> Outcome {
    let file = t.file("outbox")?;
    let conn = with_three(t, &file).await?;
    t.kill_and_start().await?;
    conn.cut();
    t.connect(json!({"outboxFile": file})).await?;
    let mut conn = t.accept().await?;
    conn.take_hello().await?;
    conn.welcome(json!({"user": "mallory"})).await?;
    conn.none("publish", QUIET * 2).await
}

async fn damaged(t: &mut Trial) -> Outcome {
    let file = t.file("outbox")?;
    with_three(t, &file).await?;
    t.kill_and_start().await?;
    let mut bytes = std::fs::read(&file).map_err(Stop::harness)?;
    let end = bytes.len();
    // The last record, whatever it is made of.
    bytes[end - 12..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&file, &bytes).map_err(Stop::harness)?;
    let command = t.connecting(json!({"outboxFile": file})).await?;
    let id = t.tell(command.clone()).await?;
    let told = t.answer(id).await?;
    check(told.get("failed").is_some(), || format!("damage is not told: {}", short(&told)))?;
    t.done(command).await?;
    t.publish(json!({"body": {"text": "new"}})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    let mut numbers = Vec::new();
    while let Some(publish) = conn.find("publish", Duration::from_millis(500)).await? {
        let number = publish.body["number"].as_u64().unwrap_or(0);
        let own = publish.body["envelope"]["text"] == number.to_string().as_str();
        let is_new = publish.body["envelope"]["text"] == "new";
        check(own && number <= 3 || is_new && number > 3, || format!("number {number} says {}", short(&publish.body)))?;
        conn.published(&publish, number).await?;
        numbers.push(number);
    }
    check(numbers.first() == Some(&1) && numbers.len() >= 3, || {
        format!("intact publishes are gone: {numbers:?} were sent")
    })
}

async fn unknown_format(t: &mut Trial) -> Outcome {
    let file = t.file("outbox")?;
    let foreign: Vec<u8> = b"OUTBOX OF TOMORROW, version 9000\n".repeat(40);
    std::fs::write(&file, &foreign).map_err(Stop::harness)?;
    let command = t.connecting(json!({"outboxFile": file})).await?;
    let id = t.tell(command).await?;
    let told = t.answer(id).await?;
    check(told.get("failed").is_some(), || format!("an unknown format is not told: {}", short(&told)))?;
    let now: Value = std::fs::read(&file).map_err(Stop::harness)?.into();
    check(now == Value::from(foreign), || "the file was changed".to_owned())
}
