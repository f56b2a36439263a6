//! Streams and datagrams of QUIC and WebTransport.

use std::time::Duration;

use serde_json::{Value, json};

use super::case;
use crate::client::{Lane, Place, StreamEnd, header_record, short};
use crate::clients::trial::QUIET;
use crate::clients::{Case, QUIC, STREAMS, Trial, WEBTRANSPORT};
use crate::peer::{Settings, UdpRelay, event, gap};
use crate::schema::{self, v1};
use crate::verdict::{Outcome, check};

const PROTOCOL: u16 = 4001;
/// How long a client may take to notice that a path leads nowhere, and to be back.
const PATH: Duration = Duration::from_secs(8);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-QUIC-001"] "unknown-kind-stopped", "A stream of an unknown kind is stopped, and nothing else happens.", STREAMS, [],
            unknown_kind),
        case!(["LC-QUIC-001"] "frame-before-header", "A stream that begins with a frame closes with PROTOCOL.", STREAMS, [],
            frame_before_header),
        case!(["LC-QUIC-001"] "second-header", "A second header closes with PROTOCOL.", STREAMS, [], second_header),
        case!(["LC-QUIC-001"] "misfit-kind", "A kind that does not fit its lane closes with PROTOCOL.", STREAMS, [], misfit_kind),
        case!(["LC-QUIC-002"] "one-control-stream", "One bidirectional stream is opened, and Hello is on it.", QUIC, [],
            one_control_stream),
        case!(["LC-QUIC-003"] "wrong-lane", "A frame on the stream of another lane closes with PROTOCOL.", STREAMS, [], wrong_lane),
        case!(["LC-QUIC-003"] "event-in-datagram", "An event in a datagram closes with PROTOCOL.", STREAMS, [], event_in_datagram),
        case!(["LC-QUIC-005"] "urgent-as-it-arrives", "Urgent seqs are handed over as they arrive, a gap covers the others.", QUIC, [],
            urgent_as_it_arrives),
        case!(["LC-QUIC-009"] "small-signal", "A small signal is a datagram, a large one a stream.", STREAMS, ["signals"], signals_by_size),
        case!(["LC-QUIC-009"] "superseded-signal", "The stream of a superseded signal is reset.", STREAMS, ["signals"],
            superseded_signal),
        case!(["LC-QUIC-010"] "early-event", "An event that overtakes Subscribed is held.", STREAMS, [], early_event),
        case!(["LC-QUIC-010"] "held-too-long", "After 2 s what was held is dropped and the room subscribed again.", STREAMS, [],
            held_too_long),
        case!(["LC-QUIC-010"] "ended-handle", "Events of an ended subscription are ignored.", STREAMS, [], ended_handle),
        case!(["LC-QUIC-011"] "no-early-data", "After a reconnect nothing is sent as early data.", QUIC, [], no_early_data),
        case!(["LC-QUIC-012"] "path-without-answer", "A path without an answer is given up for a new connection.", QUIC, [],
            path_without_answer),
        case!(["LC-QUIC-013"] "cut-record", "A stream that ends within a record closes with PROTOCOL.", STREAMS, [], cut_record),
        case!(["LC-QUIC-013"] "second-frame", "A second frame on a stream for one closes with PROTOCOL.", STREAMS, [], second_frame),
        case!(["LC-QUIC-013"] "reset-forgotten", "A reset stream is forgotten with what was cut.", STREAMS, [], reset_forgotten),
        case!(["LC-WT-002"] "one-urgent-stream", "Urgent frames share one ordered stream.", WEBTRANSPORT, [], one_urgent_stream),
        case!(["LC-WT-004"] "code-of-error", "The code of the last Error stands for the close code.", WEBTRANSPORT, [],
            code_of_error),
    ]
}

fn header(kind: i32, lane: &str) -> Outcome<Vec<u8>> {
    let header = schema::encode("StreamHeader", &json!({"kind": kind, "lane": lane}))?;
    Ok([&[0x12, header.len() as u8], header.as_slice()].concat())
}

fn record(frame: &Value) -> Outcome<Vec<u8>> {
    Ok(schema::frame_record(frame)?)
}

/// Sends bytes on a stream; the client has to close with PROTOCOL.
async fn broken(t: &mut Trial, bytes: &[u8], end: StreamEnd) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send_on("own", bytes, end).await?;
    conn.closed_with(PROTOCOL).await
}

async fn unknown_kind(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send_on("own", &header(99, "LANE_NORMAL")?, StreamEnd::Open).await?;
    check(conn.stopped("own").await?, || "the stream is read on".to_owned())?;
    conn.send(&event(1, "normal", 1)).await?;
    t.items(&["1"]).await
}

async fn frame_before_header(t: &mut Trial) -> Outcome {
    broken(t, &record(&event(1, "normal", 1))?, StreamEnd::Open).await
}

async fn second_header(t: &mut Trial) -> Outcome {
    let header = header_record(v1::StreamKind::Lane, Lane::Normal.to_wire());
    broken(t, &header.repeat(2), StreamEnd::Open).await
}

async fn misfit_kind(t: &mut Trial) -> Outcome {
    broken(t, &header_record(v1::StreamKind::Message, Lane::Bulk.to_wire()), StreamEnd::Open).await
}

async fn one_control_stream(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    for lane in ["urgent", "normal", "bulk"] {
        t.publish(json!({"lane": lane})).await?;
        conn.frame("publish").await?;
    }
    let kind = v1::StreamKind::Control as i32;
    let control =
        conn.streams.iter().filter(|place| matches!(place, Place::Stream { kind: found, .. } if *found == kind));
    check(control.count() == 1, || format!("control streams: {:?}", conn.streams))
}

async fn wrong_lane(t: &mut Trial) -> Outcome {
    let mut bytes = header_record(v1::StreamKind::Lane, Lane::Bulk.to_wire());
    bytes.extend(record(&event(1, "normal", 1))?);
    broken(t, &bytes, StreamEnd::Open).await?;
    t.no_item().await
}

async fn event_in_datagram(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send_datagram(&record(&event(1, "normal", 1))?);
    conn.closed_with(PROTOCOL).await?;
    t.no_item().await
}

async fn urgent_as_it_arrives(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send(&event(1, "urgent", 3)).await?;
    t.items(&["urgent 3"]).await?;
    conn.send(&event(1, "urgent", 1)).await?;
    t.items(&["urgent 1"]).await?;
    conn.send(&gap(1, "urgent", 7, 2, 4, "trimmed")).await?;
    t.items(&["urgent 2-2 trimmed", "urgent 4-4 trimmed"]).await
}

async fn send_signal(t: &mut Trial, text: &str) -> Outcome {
    t.done(json!({"signal": {"room": "r", "type": "cursor", "key": "k", "body": {"text": text}}})).await?;
    Ok(())
}

async fn signals_by_size(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    send_signal(t, "small").await?;
    let small = conn.frame("signal").await?;
    check(small.place == Place::Datagram, || format!("a small signal on {:?}", small.place))?;
    send_signal(t, &"x".repeat(3_000)).await?;
    let large = conn.frame("signal").await?;
    let kind = v1::StreamKind::Signal as i32;
    check(matches!(large.place, Place::Stream { kind: found, .. } if found == kind), || {
        format!("a large one on {:?}", large.place)
    })
}

async fn superseded_signal(t: &mut Trial) -> Outcome {
    t.settings = Settings { stream_window: 4_096, ..Settings::default() };
    let mut conn = t.live_room().await?;
    conn.set_reading(false);
    send_signal(t, &"a".repeat(20_000)).await?;
    conn.listen(QUIET * 2).await?;
    send_signal(t, &"b".repeat(20_000)).await?;
    conn.listen(QUIET * 2).await?;
    conn.set_reading(true);
    let signal = conn.frame("signal").await?;
    let text = signal.body["envelope"]["text"].as_str().unwrap_or("");
    check(text.starts_with('b'), || "the superseded signal was sent to the end".to_owned())?;
    conn.listen(QUIET).await?;
    check(!conn.reset.is_empty(), || "no stream was reset".to_owned())
}

async fn early_event(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    t.ask_subscribe(json!({})).await?;
    let subscribe = conn.frame("subscribe").await?;
    conn.send(&event(1, "normal", 1)).await?;
    conn.listen(QUIET).await?;
    conn.subscribed(subscribe.id, "r", 1, "7-0-0-0", json!({})).await?;
    t.items(&["1"]).await
}

async fn held_too_long(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    t.ask_subscribe(json!({})).await?;
    conn.frame("subscribe").await?;
    conn.send(&event(1, "normal", 1)).await?;
    let again = conn.frame("subscribe").await?;
    conn.subscribed(again.id, "r", 1, "7-0-0-0", json!({})).await?;
    t.no_item().await?;
    conn.send(&event(1, "normal", 1)).await?;
    t.items(&["1"]).await
}

async fn ended_handle(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send(&event(1, "normal", 1)).await?;
    t.items(&["1"]).await?;
    t.done(json!({"unsubscribe": {"room": "r"}})).await?;
    let unsubscribe = conn.frame("unsubscribe").await?;
    conn.send(&json!({"id": unsubscribe.id, "unsubscribed": {"room": "r"}})).await?;
    conn.send(&event(1, "normal", 2)).await?;
    t.no_item().await?;
    t.publish(json!({})).await?;
    conn.frame("publish").await?;
    Ok(())
}

async fn no_early_data(t: &mut Trial) -> Outcome {
    t.settings = Settings { early_data: true, ..Settings::default() };
    let conn = t.live_room().await?;
    check(!conn.early, || "the first connection sent early data".to_owned())?;
    t.publish(json!({})).await?;
    conn.cut();
    let mut conn = t.welcomed(json!({})).await?;
    conn.frame("publish").await?;
    check(!conn.early, || "early data was sent".to_owned())
}

async fn path_without_answer(t: &mut Trial) -> Outcome {
    let relay = UdpRelay::start(t.peer().await?.quic_port).await?;
    t.url = Some(format!("quic://127.0.0.1:{}", relay.port));
    let mut conn = t.live_room().await?;
    conn.send(&event(1, "normal", 1)).await?;
    t.items(&["1"]).await?;
    relay.cut();
    t.done(json!({"networkChanged": {}})).await?;
    let mut next = t.accept_within(PATH).await?;
    let hello = next.take_hello().await?;
    let at = &hello["subscriptions"][0]["start"]["position"];
    check(at["normal"] == 1, || format!("not resumed at normal 1: {}", short(&hello)))
}

async fn cut_record(t: &mut Trial) -> Outcome {
    let mut bytes = header_record(v1::StreamKind::Lane, Lane::Normal.to_wire());
    bytes.extend(record(&event(1, "normal", 1))?);
    bytes.truncate(bytes.len() - 3);
    broken(t, &bytes, StreamEnd::Finished).await
}

async fn second_frame(t: &mut Trial) -> Outcome {
    let mut bytes = header_record(v1::StreamKind::Message, Lane::Urgent.to_wire());
    bytes.extend(record(&event(1, "urgent", 1))?);
    bytes.extend(record(&event(1, "urgent", 2))?);
    broken(t, &bytes, StreamEnd::Finished).await
}

async fn reset_forgotten(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    let mut bytes = header_record(v1::StreamKind::Message, Lane::Urgent.to_wire());
    bytes.extend(record(&event(1, "urgent", 1))?);
    conn.send_on("own", &bytes[..bytes.len() - 3], StreamEnd::Open).await?;
    conn.listen(QUIET).await?;
    conn.send_on("own", &[], StreamEnd::Reset).await?;
    conn.listen(QUIET).await?;
    conn.send(&event(1, "urgent", 1)).await?;
    t.items(&["urgent 1"]).await
}

async fn one_urgent_stream(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let mut places = Vec::new();
    for number in 1..=5 {
        t.publish(json!({"lane": "urgent"})).await?;
        let publish = conn.frame("publish").await?;
        conn.published(&publish, number).await?;
        places.push(publish.place);
    }
    let kind = v1::StreamKind::Lane as i32;
    let ordered = matches!(places[0], Place::Stream { kind: found, .. } if found == kind);
    check(ordered && places.iter().all(|place| *place == places[0]), || format!("urgent frames on {places:?}"))
}

async fn code_of_error(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    conn.send(&json!({"error": {"code": 4009, "closing": true}})).await?;
    conn.listen(QUIET).await?;
    conn.close(0).await;
    let state = t.state("closed").await?;
    check(state["code"] == 4009, || format!("closed with {} instead of 4009", state["code"]))
}
