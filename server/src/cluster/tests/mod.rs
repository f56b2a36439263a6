//! Several nodes in one process.

mod bus;
mod redis;
mod revocations;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::log::Start;
use lanecast_protocol::v1;

use super::message::{self, Body, Deed};
use super::*;
use crate::auth::rights::TypeFilter;
use crate::clock::Clock;
use crate::hub::Interest;
use crate::session::{Command, Entry, Owner};
use bus::Bus;

/// Three nodes on one bus.
async fn three() -> (Arc<Bus>, [Arc<Node>; 3], Clock) {
    let (bus, clock) = (Arc::new(Bus::default()), Clock::manual(1_800_000_000_000));
    let nodes = [bus.node(&clock).await, bus.node(&clock).await, bus.node(&clock).await];
    (bus, nodes, clock)
}

fn connect(node: &Node, user: &str, device: &str) -> Arc<Entry> {
    let entry = node.registry.add(([127, 0, 0, 1], 7).into(), node.clock.now_ms());
    node.registry.welcome(&entry, Owner { user: user.into(), device: device.into(), instance: "i".into() });
    entry
}

async fn subscribe(node: &Node, entry: &Entry, room: &str) {
    let interest =
        Interest { start: Start::Live, transients: None, signals: false, types: TypeFilter::All, live: false };
    node.hub.subscribe(room, interest, &entry.mailbox).await.unwrap();
}

fn disconnect(user: &str, device: &str) -> message::Command {
    Deed::Disconnect(v1::DisconnectRequest { user: user.into(), device: device.into(), ..Default::default() }).into()
}

fn closed_with(entry: &Entry) -> Option<Code> {
    match entry.take_commands().as_slice() {
        [Command::Close(refusal)] => Some(refusal.code),
        [] => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_is_disconnected_on_all_nodes_and_nobody_else_is() {
    let (_, nodes, _) = three().await;
    let of_ann: Vec<_> = nodes.iter().map(|node| connect(node, "ann", "phone")).collect();
    let tablet = connect(&nodes[2], "ann", "tablet");
    let bob = connect(&nodes[1], "bob", "phone");
    let began = tokio::time::Instant::now();
    let gathered = ask(&nodes[0], None, disconnect("ann", "phone")).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!((gathered.connections(), gathered.answers.len(), gathered.complete), (3, 3, true));
    assert!(gathered.missing.is_empty());
    assert!(of_ann.iter().all(|entry| closed_with(entry) == Some(Code::Disconnected)));
    assert_eq!((closed_with(&tablet), closed_with(&bob)), (None, None));

    // Once more: nothing is left to do, and the connections are not told twice.
    let again = ask(&nodes[1], None, disconnect("ann", "phone")).await.unwrap();
    assert_eq!((again.connections(), again.complete), (0, true));
    let rest = ask(&nodes[1], None, disconnect("ann", "")).await.unwrap();
    assert_eq!((rest.connections(), closed_with(&tablet)), (1, Some(Code::Disconnected)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_can_be_told_to_come_back() {
    let (_, nodes, _) = three().await;
    let entry = connect(&nodes[2], "ann", "");
    let asked = v1::DisconnectRequest { connection: entry.id.to_string(), reconnect: true, ..Default::default() };
    let gathered = ask(&nodes[0], None, Deed::Disconnect(asked).into()).await.unwrap();
    assert_eq!((gathered.connections(), closed_with(&entry)), (1, Some(Code::GoingAway)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_is_named_within_a_second() {
    let (bus, nodes, _) = three().await;
    bus.make_deaf(&nodes[2]);
    let entries: Vec<_> = nodes.iter().map(|node| connect(node, "ann", "")).collect();
    let began = tokio::time::Instant::now();
    let gathered = ask(&nodes[0], None, disconnect("ann", "")).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), ANSWER_WITHIN.as_secs());
    assert_eq!((gathered.connections(), gathered.answers.len(), gathered.complete), (2, 2, false));
    assert_eq!(gathered.missing, [nodes[2].id.to_string()]);
    assert_eq!(closed_with(&entries[2]), None);
    assert_eq!(nodes[0].cluster.pending.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_repeated_and_counted_once() {
    // The command to all is lost; or it comes, and the answers of both others are lost.
    for passed in [0, 1] {
        let (bus, nodes, _) = three().await;
        let entries: Vec<_> = nodes.iter().map(|node| connect(node, "ann", "")).collect();
        bus.lose_after(passed, if passed == 0 { 1 } else { 2 });
        let gathered = ask(&nodes[0], None, disconnect("ann", "")).await.unwrap();
        assert_eq!((gathered.connections(), gathered.complete), (3, true), "{passed}");
        assert!(entries.iter().all(|entry| closed_with(entry) == Some(Code::Disconnected)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_twice_is_missing() {
    let (bus, nodes, _) = three().await;
    connect(&nodes[1], "ann", "");
    bus.lose_after(0, 2);
    let gathered = ask(&nodes[0], None, disconnect("ann", "")).await.unwrap();
    assert_eq!((gathered.connections(), gathered.missing.len(), gathered.complete), (0, 2, false));
}

#[tokio::test(start_paused = true)]
async fn without_the_store_a_node_does_its_own_part_and_says_that_it_was_only_that() {
    let (bus, nodes, _) = three().await;
    let entries: Vec<_> = nodes.iter().map(|node| connect(node, "ann", "")).collect();
    bus.set_away(true);
    let gathered = ask(&nodes[0], None, disconnect("ann", "")).await.unwrap();
    assert_eq!((gathered.connections(), gathered.complete), (1, false));
    assert_eq!(closed_with(&entries[0]), Some(Code::Disconnected));
    let elsewhere = ask(&nodes[0], Some(&nodes[1].id), disconnect("ann", "")).await.unwrap_err();
    assert_eq!(elsewhere.code, Code::Unavailable);
    assert!(!super::nodes(&nodes[0]).await.1);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_ends_where_there_is_one() {
    let (_, nodes, _) = three().await;
    let entries: Vec<_> = nodes.iter().map(|node| connect(node, "ann", "")).collect();
    for at in [0, 2] {
        subscribe(&nodes[at], &entries[at], "chat").await;
    }
    subscribe(&nodes[1], &entries[1], "other").await;
    let asked = v1::EndSubscriptionRequest { user: "ann".into(), room: "chat".into(), ..Default::default() };
    let gathered = ask(&nodes[1], None, Deed::EndSubscription(asked).into()).await.unwrap();
    assert_eq!((gathered.connections(), gathered.complete), (2, true));
    for (entry, subscribed) in entries.iter().zip([true, false, true]) {
        let commands = entry.take_commands();
        assert_eq!(commands.len(), usize::from(subscribed), "{commands:?}");
        assert!(commands.iter().all(|told| matches!(told, Command::Unsubscribe(room) if **room == *"chat")));
    }
}

fn listing(change: impl FnOnce(&mut v1::ListConnectionsRequest)) -> message::Command {
    let mut asked = v1::ListConnectionsRequest::default();
    change(&mut asked);
    Deed::List(asked).into()
}

fn listed(gathered: &Gathered) -> Vec<&str> {
    let mut ids: Vec<_> =
        gathered.answers.iter().flat_map(|(_, answer)| &answer.listed).map(|info| info.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(start_paused = true)]
async fn connections_are_listed_by_user_room_and_node() {
    let (_, nodes, _) = three().await;
    let ann: Vec<_> = nodes.iter().map(|node| connect(node, "ann", "phone")).collect();
    let bob = connect(&nodes[0], "bob", "tv");
    let _stranger = nodes[0].registry.add(([127, 0, 0, 1], 7).into(), 0);
    subscribe(&nodes[0], &bob, "chat").await;
    subscribe(&nodes[1], &ann[1], "chat").await;
    let all = ask(&nodes[2], None, listing(|_| {})).await.unwrap();
    assert_eq!(listed(&all).len(), 4);
    let of_ann = ask(&nodes[2], None, listing(|asked| asked.user = "ann".into())).await.unwrap();
    let mut ids: Vec<&str> = ann.iter().map(|entry| &*entry.id).collect();
    ids.sort_unstable();
    assert_eq!(listed(&of_ann), ids);
    let in_chat = ask(&nodes[2], None, listing(|asked| asked.room = "chat".into())).await.unwrap();
    let mut ids = [&*bob.id, &*ann[1].id];
    ids.sort_unstable();
    assert_eq!(listed(&in_chat), ids);
    let bob_in_chat = listing(|asked| (asked.user, asked.room) = ("bob".into(), "chat".into()));
    let gathered = ask(&nodes[2], None, bob_in_chat).await.unwrap();
    assert_eq!(listed(&gathered), [&*bob.id]);
    let node = nodes[0].id.to_string();
    let there = ask(&nodes[2], Some(&nodes[0].id), listing(|asked| asked.node = node)).await.unwrap();
    assert_eq!((listed(&there).len(), there.complete), (2, true));
    let info = &there.answers[0].1.listed[0];
    assert_eq!((info.node.as_str(), info.since_ms), (&*nodes[0].id, nodes[0].clock.now_ms()));
    let tv = listing(|asked| (asked.user, asked.device) = ("ann".into(), "tv".into()));
    assert!(listed(&ask(&nodes[2], None, tv).await.unwrap()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_listing_fits_into_a_message() {
    let (_, nodes, _) = three().await;
    let device = "d".repeat(255);
    let users: Vec<String> = (0..600).map(|n| format!("{n}{}", "u".repeat(190))).collect();
    users.iter().for_each(|user| drop(connect(&nodes[1], user, &device)));
    let (mut found, mut cursor, mut pages) = (0, String::new(), 0);
    loop {
        let gathered = ask(&nodes[0], None, listing(|asked| (asked.limit, asked.cursor) = (10_000, cursor.clone())))
            .await
            .unwrap();
        let (_, answer) = gathered.answers.iter().find(|(node, _)| **node == *nodes[1].id).unwrap();
        assert!(answer.encoded_len() < crate::engine::NODE_MESSAGE_BYTES_MAX / 2, "{}", answer.encoded_len());
        (found, pages) = (found + answer.listed.len(), pages + 1);
        cursor = answer.listed.last().unwrap().id.clone();
        if !answer.more {
            break;
        }
    }
    assert_eq!(found, users.len());
    assert!(pages > 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_does_not_understand_it_ignores() {
    let (bus, nodes, _) = three().await;
    let entry = connect(&nodes[1], "ann", "");
    let known = message::encode("n-far", 9, Body::Command(disconnect("ann", "")));
    let mut later = NodeMessage::decode(known.clone()).unwrap();
    later.format = FORMAT + 1;
    let unknown = message::encode("n-far", 9, Body::Command(message::Command { deed: None }));
    for message in [Bytes::from_static(b"\xff\xff"), Bytes::new(), later.encode_to_vec().into(), unknown] {
        bus.tell(None, &message);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(closed_with(&entry), None);
    assert_eq!(nodes[1].metrics.node_messages.of(labels::NodeMessage::Unknown).get(), 4);
    bus.tell(None, &known);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(closed_with(&entry), Some(Code::Disconnected));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_was_lost_is_counted_if_it_answers() {
    let (bus, nodes, _) = three().await;
    let entry = connect(&nodes[1], "ann", "");
    bus.forget(&nodes[1]);
    bus.make_deaf(&nodes[2]);
    let gathered = ask(&nodes[0], None, disconnect("ann", "")).await.unwrap();
    assert_eq!((gathered.connections(), gathered.answers.len()), (1, 2));
    assert_eq!(closed_with(&entry), Some(Code::Disconnected));
}

#[tokio::test(start_paused = true)]
async fn too_many_commands_at_once_are_refused() {
    let (bus, nodes, _) = three().await;
    bus.make_deaf(&nodes[1]);
    let asking: Vec<_> = (0..65)
        .map(|_| {
            let node = Arc::clone(&nodes[0]);
            tokio::spawn(async move { ask(&node, None, disconnect("ann", "")).await.map(drop) })
        })
        .collect();
    let mut refused = 0;
    for asked in asking {
        refused += usize::from(asked.await.unwrap().is_err_and(|refusal| refusal.code == Code::RateLimited));
    }
    assert_eq!(refused, 1);
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_tell_the_load_and_end() {
    let (bus, nodes, clock) = three().await;
    let _ann = connect(&nodes[1], "ann", "");
    clock.advance(Duration::from_secs(12));
    tokio::time::sleep(Duration::from_secs(12)).await;
    let (leases, complete) = super::nodes(&nodes[0]).await;
    assert_eq!((leases.len(), complete), (3, true));
    let lease = leases.iter().find(|lease| *lease.node == *nodes[1].id).unwrap();
    assert_eq!((lease.connections, lease.draining), (1, false));
    assert_eq!(clock.now_ms() - lease.started_ms, 12_000);
    retire(&nodes[1]).await;
    assert_eq!(super::nodes(&nodes[0]).await.0.len(), 2);
    assert_eq!(bus.leases().len(), 2);
}

/// Moves the node's clock with the paused time of the runtime.
async fn pass(clock: &Clock, by: Duration) {
    clock.advance(by);
    tokio::time::sleep(by).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_everyone_away_at_a_bounded_rate() {
    // LC-LIFE-020, LC-LIFE-021
    let (bus, nodes, clock) = three().await;
    let entries: Vec<_> = (0..10_000).map(|n| connect(&nodes[1], &format!("u{n}"), "")).collect();
    let late = nodes[1].registry.add(([127, 0, 0, 1], 7).into(), 0);
    let drain = Deed::Drain(v1::DrainNodeRequest { node: nodes[1].id.to_string() });
    let gathered = ask(&nodes[0], Some(&nodes[1].id), drain.clone().into()).await.unwrap();
    assert_eq!((gathered.connections(), gathered.complete), (10_000, true));
    assert!(nodes[1].shutdown.is_draining() && !nodes[0].shutdown.is_draining());

    let options = &nodes[1].config.drain;
    let (mut told, mut per_second, mut passed_ms) = (0, Vec::new(), 0);
    let mut comes_back = vec![0_u32; 64];
    while passed_ms < options.deadline_ms {
        let mut this_second = 0;
        for _ in 0..10 {
            pass(&clock, Duration::from_millis(100)).await;
            passed_ms += 100;
            for entry in &entries {
                let Some(Command::GoAway(away)) = entry.take_commands().pop() else { continue };
                this_second += 1;
                comes_back[(passed_ms + u64::from(away.retry_after_ms)) as usize / 1_000] += 1;
                assert!(u64::from(away.closes_in_ms) <= options.deadline_ms - passed_ms + 200);
                assert!(away.closes_in_ms > away.retry_after_ms, "it can come back before it is closed");
            }
        }
        if passed_ms == 3_000 {
            nodes[1].registry.welcome(&late, Owner { user: "late".into(), device: "".into(), instance: "".into() });
        }
        told += this_second;
        per_second.push(this_second);
    }
    assert_eq!(told, 10_000);
    let rate = options.rate_per_second;
    assert!(per_second.iter().all(|told| *told <= rate as usize + 100), "{per_second:?}");
    assert!(comes_back.iter().all(|back| *back <= rate + rate / 5), "{comes_back:?}");
    assert!(matches!(late.take_commands().as_slice(), [Command::GoAway(_)]), "who was being welcomed is told too");
    assert!(bus.leases().iter().any(|lease| lease.draining && *lease.node == *nodes[1].id));

    // Once more changes nothing.
    let again = ask(&nodes[0], Some(&nodes[1].id), drain.into()).await.unwrap();
    assert_eq!((again.connections(), again.complete), (0, true));
    pass(&clock, Duration::from_secs(1)).await;
    assert!(entries.iter().all(|entry| entry.take_commands().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_there_cannot_be_drained() {
    let (_, nodes, _) = three().await;
    let drain = Deed::Drain(v1::DrainNodeRequest { node: "n-none".into() });
    let refusal = ask(&nodes[0], Some("n-none"), drain.into()).await.unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
}
