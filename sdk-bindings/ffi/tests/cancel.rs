//! Calls that end at any moment: nothing is lost, nothing comes twice, and nothing stays behind.
//!
//! One test, because it counts what is alive in the process.

#![allow(clippy::unwrap_used)]

mod support;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lanecast_ffi::{Batch, Body, Cancellation, ErrorKind, FfiError, Item, Live, Start, Subscription, live};

use self::support::{Node, fill, soon, subscribe};

const EVENTS: u64 = 20_000;
/// Batches of this size have a call end in the middle of most of them.
const BATCH: u32 = 7;

/// What a call has come to after so many turns of the other tasks; `None`: it still waits.
async fn after_turns<T>(mut call: Pin<&mut impl Future<Output = T>>, turns: u64) -> Option<T> {
    for _ in 0..turns {
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Asks for a batch and goes away after some turns: by dropping the call, as Kotlin does it, or by cancelling it, as Swift
/// does it. `None`: it was cut short.
async fn ask(subscription: &Subscription, after: u64, turns: u64, drops: bool) -> Option<Result<Batch, FfiError>> {
    let cancellation = Cancellation::new();
    let mut call = pin!(subscription.next_batch(after, BATCH, Some(cancellation.clone())));
    let early = after_turns(call.as_mut(), turns).await;
    if early.is_some() || drops {
        return early;
    }
    cancellation.cancel();
    match call.await {
        Err(FfiError::Failed { kind: ErrorKind::Cancelled, .. }) => None,
        batch => Some(batch),
    }
}

/// Reads the numbers of a room up to the last one, with calls of which most end early. Returns how many did.
async fn read(subscription: &Subscription) -> u64 {
    let (mut after, mut last, mut calls, mut cut) = (0, 0, 0_u64, 0);
    while last < EVENTS {
        calls += 1;
        let Some(batch) = ask(subscription, after, calls % 17, calls % 2 == 0).await else {
            cut += 1;
            continue;
        };
        let batch = batch.unwrap();
        assert_eq!(batch.number, after + 1);
        for item in &batch.items {
            let Item::Event { event } = item else { panic!("{item:?}") };
            last += 1;
            assert_eq!((event.seq, &event.body), (last, &Body::Text { text: last.to_string() }));
        }
        assert!(batch.position.unwrap().ends_with(&format!("-0-{last}-0")));
        after = batch.number;
    }
    cut
}

/// A moment after the last handle was given back nothing is alive.
async fn nothing_lives() {
    let empty = Live { objects: 0, calls: 0 };
    soon(async {
        while live() != empty {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ends_early_loses_nothing_and_leaves_nothing() {
    let node = Node::start().await;
    let client = node.client("ann").await;
    let room = client.room("chat.cancel".into());
    fill(&room, EVENTS).await;

    let subscription = subscribe(&room, Start::Beginning).await;
    let cut = read(&subscription).await;
    assert!(cut > 1000, "only {cut} calls ended early");

    let wrong = subscription.next_batch(u64::MAX, 1, None).await;
    assert!(matches!(wrong, Err(FfiError::Failed { kind: ErrorKind::Invalid, .. })));
    subscription.cancel();
    assert!(subscription.position().is_some());
    drop(subscription);

    for round in 0..200 {
        let room = client.room(format!("chat.round.{}", round % 3));
        let subscription = subscribe(&room, Start::Beginning).await;
        let waiting = tokio::spawn({
            let subscription: Arc<Subscription> = subscription.clone();
            async move { subscription.next_batch(0, 10, None).await }
        });
        if round % 2 == 0 {
            subscription.cancel();
            assert!(soon(waiting).await.unwrap().unwrap().items.is_empty());
        } else {
            waiting.abort();
        }
    }
    soon(client.shutdown()).await.unwrap();
    drop((client, room));
    nothing_lives().await;
}
