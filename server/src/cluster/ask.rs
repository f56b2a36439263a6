//! Asking all nodes, or one, to do something, and saying honestly who did.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lanecast_protocol::codes::Code;
use lanecast_protocol::session::Refusal;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::execute;
use super::message::{self, Answer, Body, Command};
use crate::engine::{EngineError, Lease};
use crate::node::Node;

/// Nodes have this long to answer, from when the command came.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Of that, the engine has this long to say which nodes there are.
const NODES_WITHIN: Duration = Duration::from_millis(400);
/// Whoever has not answered by then is asked once more.
const REPEAT_AFTER: Duration = Duration::from_millis(350);
/// Commands of this node under way at once; one more is refused with RATE_LIMITED.
const PENDING_MAX: usize = 64;
/// Answers that wait to be read for one command; more can only be repeats.
const ANSWERS_MAX: usize = 1_024;

/// What came back.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The answers, with the node that gave each.
    pub answers: Vec<(String, Answer)>,
    /// Nodes that are known and did not answer in time.
    pub missing: Vec<String>,
    /// Whether every node that is known answered, and it is known which nodes there are.
    pub complete: bool,
}

impl Gathered {
    /// Connections that all nodes together reached.
    pub fn connections(&self) -> u32 {
        self.answers.iter().map(|(_, answer)| answer.connections).sum()
    }
}

/// Commands that wait for answers.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<HashMap<u64, mpsc::Sender<(String, Answer)>>>);

impl Pending {
    /// Hands an answer to whoever waits for it; nobody waits for one that comes too late.
    pub(super) fn answer(&self, request: u64, from: String, answer: Answer) {
        if let Some(waiting) = self.0.lock().get(&request) {
            // Full of repeats.
            let _ = waiting.try_send((from, answer));
        }
    }
}

#[cfg(test)]
impl Pending {
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// A place in the table, left when it is dropped.
struct Waiting<'a> {
    pending: &'a Pending,
    request: u64,
    answers: mpsc::Receiver<(String, Answer)>,
}

impl<'a> Waiting<'a> {
    fn enter(pending: &'a Pending) -> Result<Self, Refusal> {
        let mut table = pending.0.lock();
        if table.len() >= PENDING_MAX {
            return Err(Refusal::new(Code::RateLimited, "too many commands are under way").retry_after(1_000));
        }
        let request = rand::random();
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        table.insert(request, sender);
        Ok(Self { pending, request, answers })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.0.lock().remove(&self.request);
    }
}

/// The nodes that are alive, this one with what it knows of itself now; false: only this one could be asked.
pub async fn nodes(node: &Node) -> (Vec<Lease>, bool) {
    let own = super::lease(node);
    let listed = tokio::time::timeout(NODES_WITHIN, node.hub.engine().nodes()).await;
    let (mut leases, complete) = match listed {
        Ok(Ok(leases)) => (leases, true),
        _ => (Vec::new(), false),
    };
    leases.retain(|lease| lease.node != own.node);
    leases.push(own);
    leases.sort_by(|a, b| a.node.cmp(&b.node));
    (leases, complete)
}

/// Has a command carried out on all nodes, or on the one named, this one included. Cancel safety: if the future is
/// dropped the command may be carried out all the same.
///
/// # Errors
/// NOT_FOUND for a node that is not there, UNAVAILABLE if one is named and it is not known which there are,
/// RATE_LIMITED for too many commands at once; nothing was done then.
pub async fn ask(node: &Arc<Node>, to: Option<&str>, command: Command) -> Result<Gathered, Refusal> {
    let mut deadline = pin!(tokio::time::sleep(ANSWER_WITHIN));
    let mut waiting = Waiting::enter(&node.cluster.pending)?;
    let mut gathered = Gathered::default();
    if to.is_none_or(|to| *to == *node.id) {
        let answer = execute::execute(node, &command).unwrap_or_default();
        gathered.answers.push((node.id.to_string(), answer));
        if to.is_some() {
            return Ok(Gathered { complete: true, ..gathered });
        }
    }
    let (leases, known) = nodes(node).await;
    let mut missing: BTreeSet<String> = leases.into_iter().map(|lease| lease.node).collect();
    missing.remove(&*node.id);
    if let Some(to) = to {
        if !known {
            let refusal = Refusal::new(Code::Unavailable, "it is not known which nodes there are");
            return Err(refusal.retry_after(1_000));
        }
        missing.retain(|node| node == to);
        if missing.is_empty() {
            return Err(Refusal::new(Code::NotFound, "there is no node with this id"));
        }
    }
    let message = message::encode(&node.id, waiting.request, Body::Command(command));
    let mut repeat = pin!(tokio::time::sleep(REPEAT_AFTER));
    let mut repeated = false;
    if !missing.is_empty() {
        bounded(deadline.as_mut(), node.hub.engine().tell(to, message.clone())).await;
    }
    while !missing.is_empty() {
        tokio::select! {
            biased;
            Some((from, answer)) = waiting.answers.recv() => {
                // A node whose lease ran out may be there all the same; what it did counts. A repeat does not.
                if missing.remove(&from) || gathered.answers.iter().all(|(node, _)| *node != from) {
                    gathered.answers.push((from, answer));
                }
            }
            () = &mut deadline => break,
            () = &mut repeat, if !repeated => {
                repeated = true;
                // To all: whoever answered knows that it did, and answers the same.
                bounded(deadline.as_mut(), node.hub.engine().tell(to, message.clone())).await;
            }
        }
    }
    gathered.complete = known && missing.is_empty();
    gathered.missing = missing.into_iter().collect();
    Ok(gathered)
}

/// Tells, but not longer than the deadline. Who was not reached will be missing.
async fn bounded(deadline: impl Future<Output = ()>, tell: impl Future<Output = Result<(), EngineError>>) {
    tokio::select! {
        told = tell => {
            if let Err(error) = told {
                tracing::debug!(%error, "a command was not sent");
            }
        }
        () = deadline => {}
    }
}
