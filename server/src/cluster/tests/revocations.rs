//! Revocations on several nodes.

use super::*;
use crate::auth::TokenMark;
use crate::cluster::revocations::{learn, to_wire};
use crate::engine::{Revocation, Subject};

fn connect_with(node: &Node, user: &str, device: &str, issued_at_ms: u64, token_id: &str) -> Arc<Entry> {
    let entry = connect(node, user, device);
    entry.set_mark(TokenMark { issued_at_ms, token_id: Some(token_id.into()) });
    entry
}

fn revocation(subject: Subject, clock: &Clock) -> Revocation {
    let now_ms = clock.now_ms();
    Revocation { subject, issued_through_ms: now_ms, until_ms: now_ms + 3_600_000, changed_ms: 0, lifted: false }
}

/// As the API does.
async fn revoke(node: &Arc<Node>, change: Revocation) -> Gathered {
    let kept = node.hub.engine().revoke(change).await.unwrap();
    ask(node, None, Deed::Revoke(to_wire(&kept)).into()).await.unwrap()
}

fn is_revoked(node: &Node, user: &str) -> bool {
    node.auth.is_revoked(&user.into(), "", &TokenMark::default())
}

#[tokio::test(start_paused = true)]
async fn a_revocation_closes_what_it_means_on_all_nodes_at_once() {
    // LC-AUTH-003, LC-API-057
    let (_, nodes, clock) = three().await;
    let (then, later) = (clock.now_ms(), clock.now_ms() + 1);
    let old: Vec<_> = nodes.iter().map(|node| connect_with(node, "ann", "phone", then, "t1")).collect();
    let new = connect_with(&nodes[1], "ann", "phone", later, "t2");
    let bob = connect_with(&nodes[2], "bob", "phone", then, "t3");
    let gathered = revoke(&nodes[0], revocation(Subject::User("ann".into()), &clock)).await;
    assert_eq!((gathered.connections(), gathered.complete), (3, true));
    assert!(old.iter().all(|entry| closed_with(entry) == Some(Code::TokenRevoked)));
    assert_eq!((closed_with(&new), closed_with(&bob)), (None, None));
    let gathered = revoke(&nodes[1], revocation(Subject::Token("t3".into()), &clock)).await;
    assert_eq!((gathered.connections(), closed_with(&bob)), (1, Some(Code::TokenRevoked)));
    let gathered = revoke(&nodes[1], revocation(Subject::Device("ann".into(), "tablet".into()), &clock)).await;
    assert_eq!((gathered.connections(), closed_with(&new)), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_not_told_learns_within_seconds() {
    // LC-AUTH-003
    let (bus, nodes, clock) = three().await;
    let entry = connect_with(&nodes[2], "ann", "", 1, "t1");
    bus.make_deaf(&nodes[2]);
    let gathered = revoke(&nodes[0], revocation(Subject::User("ann".into()), &clock)).await;
    assert_eq!((gathered.complete, closed_with(&entry)), (false, None));
    pass(&clock, Duration::from_secs(3)).await;
    assert_eq!(closed_with(&entry), Some(Code::TokenRevoked));
    let lift = Revocation { lifted: true, ..revocation(Subject::User("ann".into()), &clock) };
    revoke(&nodes[0], lift).await;
    assert!(!is_revoked(&nodes[0], "ann") && is_revoked(&nodes[2], "ann"));
    pass(&clock, Duration::from_secs(3)).await;
    assert!(!is_revoked(&nodes[2], "ann"), "lifts are learnt too");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_holds_while_the_store_is_away_and_is_handed_to_one_that_lost_it() {
    let (bus, nodes, clock) = three().await;
    revoke(&nodes[0], revocation(Subject::User("ann".into()), &clock)).await;
    pass(&clock, Duration::from_secs(3)).await;
    bus.set_away(true);
    assert!(nodes[0].hub.engine().revoke(revocation(Subject::User("bob".into()), &clock)).await.is_err());
    pass(&clock, Duration::from_secs(60)).await;
    assert!(nodes.iter().all(|node| is_revoked(node, "ann")));
    bus.lose_revocations();
    bus.set_away(false);
    pass(&clock, Duration::from_secs(3)).await;
    // A node that comes later finds it in the store, and so does one that starts again.
    let late = bus.node(&clock).await;
    pass(&clock, Duration::from_secs(3)).await;
    assert!(is_revoked(&late, "ann"));
    pass(&clock, Duration::from_secs(3_600)).await;
    assert!(nodes.iter().all(|node| !is_revoked(node, "ann")), "its tokens have expired");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_comes_twice_or_late_changes_nothing() {
    let (_, nodes, clock) = three().await;
    let entry = connect_with(&nodes[0], "ann", "", 1, "t1");
    let first = Revocation { changed_ms: 5, ..revocation(Subject::User("ann".into()), &clock) };
    let lift = Revocation { changed_ms: 6, lifted: true, ..first.clone() };
    assert_eq!(learn(&nodes[0], vec![lift, first.clone()]), 0);
    assert_eq!(closed_with(&entry), None);
    let again = Revocation { changed_ms: 7, ..first };
    assert_eq!((learn(&nodes[0], vec![again.clone()]), learn(&nodes[0], vec![again])), (1, 0));
}
