//! What Welcome names and allows, and a client keeps to (LC-HS-020, LC-SDK-005).

use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lanes;
use lanecast_protocol::session::Now;
use lanecast_protocol::session::client::{Client, Event, Outgoing, RECORD_BYTES_MAX, SubscribeOptions};
use lanecast_protocol::v1;
use lanecast_protocol::v1::Capability;
use lanecast_protocol::v1::frame::Body;

use crate::support::options;

const NOW: Now = Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 };

/// What the client sends now.
fn sent(client: &mut Client) -> Vec<Body> {
    let mut bodies = Vec::new();
    while let Some(output) = client.poll_output(NOW, Lanes::ALL) {
        for record in codec::records(output.record, RECORD_BYTES_MAX) {
            bodies.extend(codec::decode(record.unwrap()).unwrap().body);
        }
    }
    bodies
}

/// Opens a connection, takes Hello, and sends Welcome.
fn welcome(client: &mut Client, capabilities: &[Capability], rooms: u32) -> v1::Hello {
    while client.poll_action().is_some() {}
    client.opened(NOW, "t".into(), true);
    let Some(Body::Hello(hello)) = sent(client).into_iter().next() else { panic!("no Hello") };
    let capabilities = capabilities.iter().map(|capability| (*capability).into()).collect();
    let limits = v1::Limits { rooms, publishes_in_flight: 9, signals_per_second: 9, ..v1::Limits::default() };
    let welcome = v1::Welcome { version: 1, capabilities, limits: Some(limits), ..v1::Welcome::default() };
    for record in codec::records(codec::encode_body(1, Body::Welcome(welcome)), RECORD_BYTES_MAX) {
        client.handle_record(NOW, None, record.unwrap());
    }
    hello
}

fn signal() -> Outgoing {
    let kind = ("cursor".to_owned(), "k".to_owned());
    Outgoing { room: "r".into(), kind, envelope: bytes::Bytes::new(), ttl_ms: 1_000, clear: false }
}

#[test]
fn history_and_signals_need_a_node_that_serves_them() {
    for served in [false, true] {
        let mut client = Client::new(options(1, "i"));
        client.connect(NOW);
        let all: &[Capability] = &[Capability::History, Capability::Signals];
        welcome(&mut client, if served { all } else { &[] }, 10);
        let ticket = client.history(v1::History { room: "r".into(), ..v1::History::default() }).unwrap();
        client.signal(NOW, signal());
        let bodies = sent(&mut client);
        assert_eq!(bodies.iter().any(|body| matches!(body, Body::History(_))), served);
        assert_eq!(bodies.iter().any(|body| matches!(body, Body::Signal(_))), served);
        let refused = |event: &Event| {
            let code = u32::from(Code::Unimplemented.number());
            matches!(event, Event::Page(of, Err(error)) if *of == ticket && error.code == code)
        };
        let events: Vec<Event> = std::iter::from_fn(|| client.poll_event()).collect();
        assert_eq!(events.iter().any(refused), !served);
    }
}

#[test]
fn hello_holds_as_many_rooms_as_the_node_allowed_and_the_others_follow() {
    let mut client = Client::new(options(1, "i"));
    client.connect(NOW);
    assert_eq!(welcome(&mut client, &[], 2).subscriptions.len(), 0);
    for room in ["a", "b", "c"] {
        client.subscribe(room, SubscribeOptions::default()).unwrap();
    }
    sent(&mut client);
    client.handle_closed(NOW, None);
    let later = Now { monotonic_ms: NOW.monotonic_ms + 100_000, ..NOW };
    client.handle_timeout(later);
    let hello = welcome(&mut client, &[], 3);
    assert_eq!(hello.subscriptions.len(), 2);
    let more = sent(&mut client).into_iter().filter(|body| matches!(body, Body::Subscribe(_))).count();
    assert_eq!(more, 1, "the third is asked for once the node was seen to allow it");
}
