//! Publishes: numbers, order, times to live, what a client may say of them.

use std::time::Duration;

use serde_json::{Value, json};

use super::case;
use crate::client::short;
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, Trial};
use crate::peer::{Conn, Frame};
use crate::verdict::{Outcome, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-PUB-015"] "ttl-is-what-is-left", "ttl_ms is what is left when a publish is sent.", ALL, [], ttl_left),
        case!(["LC-PUB-015"] "expired-is-not-sent", "A publish whose time ran out is not sent and ends with an error.", ALL, [],
            expired_not_sent),
        case!(["LC-PUB-026"] "numbers", "Durable publishes are numbered per room and lane, transient ones are not.", ALL, [], numbers),
        case!(["LC-PUB-026"] "numbers-go-on", "After a reconnect the numbers go on.", ALL, [], numbers_go_on),
        case!(["LC-PUB-026"] "after", "after names the highest earlier number that is not settled.", ALL, [], after),
        case!(["LC-PUB-027"] "again-after-reconnect", "Unanswered publishes are sent again in order, before newer ones.", ALL, [],
            again_after_reconnect),
        case!(["LC-PUB-027"] "again-after-out-of-order", "After OUT_OF_ORDER publishes are sent again in order.", ALL, [],
            again_after_out_of_order),
        case!(["LC-PUB-028"] "stored-after-published", "A publish is stored only after Published.", ALL, [], stored_after_published),
        case!(["LC-PUB-028"] "duplicate-without-seq", "A duplicate with seq 0 proves only that the number was used.", ALL, [],
            duplicate_without_seq),
        case!(["LC-SDK-010"] "kept-while-away", "Durable publishes are kept without a connection, as long as they live.", ALL, [],
            kept_while_away),
        case!(["LC-SDK-011"] "full-outbox", "A full outbox refuses and drops nothing.", ALL, [], full_outbox),
        case!(["LC-SDK-012"] "transient-not-kept", "A transient publish is not sent again after a reconnect.", ALL, ["transient"],
            transient_not_kept),
    ]
}

async fn ttl_left(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.accept().await?;
    conn.take_hello().await?;
    t.publish(json!({"ttlMs": 10_000})).await?;
    conn.listen(Duration::from_millis(600)).await?;
    conn.welcome(json!({})).await?;
    let publish = conn.frame("publish").await?;
    let ttl = publish.body["ttlMs"].as_u64().unwrap_or(0);
    // What is sent in the flight of Hello left at once, with all of its time.
    let early = publish.at < conn.opened + Duration::from_millis(300);
    check(ttl > 0 && ttl <= if early { 10_000 } else { 9_500 }, || format!("ttl_ms {ttl} after 600 ms of 10,000"))
}

async fn expired_not_sent(t: &mut Trial) -> Outcome {
    let conn = t.live().await?;
    conn.cut();
    let mut conn = t.accept().await?;
    conn.take_hello().await?;
    let command = t.publish(json!({"ttlMs": 200})).await?;
    let early = conn.find("publish", Duration::from_millis(600)).await?;
    if early.is_none() {
        t.ends(command, "failed").await?;
        conn.welcome(json!({})).await?;
        conn.none("publish", QUIET).await?;
    }
    Ok(())
}

fn number(frame: &Frame) -> (u64, u64) {
    (frame.body["number"].as_u64().unwrap_or(0), frame.body["after"].as_u64().unwrap_or(0))
}

/// Publishes, and takes the frame that it leads to.
async fn publish(t: &mut Trial, conn: &mut Conn, over: Value) -> Outcome<(u32, Frame)> {
    let command = t.publish(over).await?;
    Ok((command, conn.frame("publish").await?))
}

async fn numbers(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let wanted = [
        ("r", "normal", 1),
        ("r", "normal", 2),
        ("r", "bulk", 1),
        ("s", "normal", 1),
        ("r", "urgent", 1),
        ("r", "normal", 3),
    ];
    for (room, lane, expected) in wanted {
        let (_, frame) = publish(t, &mut conn, json!({"room": room, "lane": lane})).await?;
        check(number(&frame).0 == expected, || format!("{room} {lane}: {} instead of {expected}", number(&frame).0))?;
    }
    let (_, transient) = publish(t, &mut conn, json!({"transient": true})).await?;
    check(number(&transient) == (0, 0), || format!("a transient publish has a number: {}", short(&transient.body)))
}

async fn numbers_go_on(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let (command, first) = publish(t, &mut conn, json!({})).await?;
    conn.published(&first, 1).await?;
    t.ends(command, "stored").await?;
    conn.cut();
    let mut conn = t.welcomed(json!({})).await?;
    let (_, second) = publish(t, &mut conn, json!({})).await?;
    check(number(&second) == (2, 0), || format!("{:?} on the next connection", number(&second)))
}

async fn after(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let (_, first) = publish(t, &mut conn, json!({})).await?;
    let (_, second) = publish(t, &mut conn, json!({})).await?;
    check(number(&first) == (1, 0) && number(&second) == (2, 1), || {
        format!("{:?} {:?}", number(&first), number(&second))
    })?;
    conn.published(&first, 1).await?;
    conn.published(&second, 2).await?;
    t.report("stored").await?;
    t.report("stored").await?;
    let (refused, third) = publish(t, &mut conn, json!({})).await?;
    check(number(&third) == (3, 0), || format!("{:?} after all were settled", number(&third)))?;
    conn.error(third.id, 4302, 0).await?;
    t.ends(refused, "failed").await?;
    let (_, fourth) = publish(t, &mut conn, json!({})).await?;
    check(number(&fourth) == (4, 0), || format!("{:?} after a refusal for good", number(&fourth)))?;
    // A refusal for now settles nothing.
    conn.error(fourth.id, 4400, 60_000).await?;
    conn.listen(QUIET).await?;
    t.publish(json!({})).await?;
    match conn.find("publish", QUIET).await? {
        None => Ok(()),
        Some(fifth) => check(number(&fifth) == (5, 4), || format!("{:?} after a refusal for now", number(&fifth))),
    }
}

async fn again_after_reconnect(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let mut commands = Vec::new();
    for _ in 0..3 {
        commands.push(publish(t, &mut conn, json!({})).await?.0);
    }
    conn.cut();
    commands.push(t.publish(json!({})).await?);
    let mut conn = t.welcomed(json!({})).await?;
    for expected in 1..=4 {
        let again = conn.frame("publish").await?;
        check(number(&again).0 == expected, || format!("number {} instead of {expected}", number(&again).0))?;
        conn.published(&again, expected).await?;
    }
    for command in commands {
        t.ends(command, "stored").await?;
    }
    Ok(())
}

async fn again_after_out_of_order(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let mut frames = Vec::new();
    for _ in 0..3 {
        frames.push(publish(t, &mut conn, json!({})).await?.1);
    }
    conn.published(&frames[0], 1).await?;
    conn.error(frames[1].id, 4402, 50).await?;
    conn.error(frames[2].id, 4402, 50).await?;
    for expected in 2..=3 {
        let again = conn.frame("publish").await?;
        check(number(&again).0 == expected, || format!("number {} instead of {expected}", number(&again).0))?;
        conn.published(&again, expected).await?;
    }
    Ok(())
}

async fn stored_after_published(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let (command, frame) = publish(t, &mut conn, json!({})).await?;
    t.undecided(command).await?;
    conn.published(&frame, 5).await?;
    let stored = t.ends(command, "stored").await?;
    check(stored["seq"] == 5 && stored["epoch"] == 7 && stored["order"] == 5, || short(&stored))
}

async fn duplicate_without_seq(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let (command, frame) = publish(t, &mut conn, json!({})).await?;
    conn.send(&json!({"id": frame.id, "published": {"epoch": 7, "lane": "LANE_NORMAL", "duplicate": true}})).await?;
    let stored = t.ends(command, "stored").await?;
    check(stored["duplicate"] == true && stored["seq"] == 0, || format!("not told as it is: {}", short(&stored)))
}

async fn kept_while_away(t: &mut Trial) -> Outcome {
    t.connect(json!({"outboxTtlMs": 1_500})).await?;
    let conn = t.welcomed(json!({})).await?;
    conn.cut();
    let mut conn = t.accept().await?;
    conn.take_hello().await?;
    let kept = t.publish(json!({})).await?;
    let early = conn.find("publish", QUIET).await?;
    conn.welcome(json!({})).await?;
    let publish = match early {
        Some(publish) => publish,
        None => conn.frame("publish").await?,
    };
    conn.published(&publish, 1).await?;
    t.ends(kept, "stored").await?;
    conn.cut();
    let mut conn = t.accept().await?;
    conn.take_hello().await?;
    let given_up = t.publish(json!({})).await?;
    if conn.find("publish", Duration::from_millis(1_800)).await?.is_some() {
        // Sent in the flight of Hello, while it lived.
        return Ok(());
    }
    let failed = t.ends(given_up, "failed").await?;
    check(failed["code"] == 0, || format!("given up with {}", short(&failed)))?;
    conn.welcome(json!({})).await?;
    conn.none("publish", QUIET).await
}

async fn full_outbox(t: &mut Trial) -> Outcome {
    t.connect(json!({"outboxItemsMax": 2})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    let (first, first_frame) = publish(t, &mut conn, json!({})).await?;
    let (second, second_frame) = publish(t, &mut conn, json!({})).await?;
    let third = t.publish(json!({})).await?;
    let failed = t.ends(third, "failed").await?;
    check(failed["retryable"] == true && failed["code"] == 0, || short(&failed))?;
    conn.none("publish", QUIET).await?;
    conn.published(&first_frame, 1).await?;
    conn.published(&second_frame, 2).await?;
    t.ends(first, "stored").await?;
    t.ends(second, "stored").await?;
    let (_, fourth) = publish(t, &mut conn, json!({})).await?;
    check(number(&fourth).0 == 3, || format!("number {} after a refusal that was never numbered", number(&fourth).0))
}

async fn transient_not_kept(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let (command, _) = publish(t, &mut conn, json!({"transient": true})).await?;
    conn.cut();
    let mut conn = t.welcomed(json!({})).await?;
    conn.none("publish", QUIET).await?;
    t.ends(command, "failed").await?;
    Ok(())
}
