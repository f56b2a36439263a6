//! `lanecast nodes`, `connections`, `disconnect`, `unsubscribe` and `drain`: what operators do with a cluster. Each asks
//! one node, which asks the others; a command that not all nodes answered fails and names them.

use clap::Args;
use hyper::Method;
use lanecast_protocol::v1;
use prost::Message as _;

use super::Failure;
use super::api::{Api, quoted};
use crate::clock::Clock;

/// Connections in one request.
const PAGE: u32 = 500;

/// `lanecast nodes`.
#[derive(Debug, Args)]
pub(super) struct Nodes {
    #[command(flatten)]
    api: Api,
}

/// `lanecast connections`.
#[derive(Debug, Args)]
pub(super) struct Connections {
    /// Only those of this user.
    #[arg(long)]
    user: Option<String>,
    /// Only those of this device of the user.
    #[arg(long, requires = "user")]
    device: Option<String>,
    /// Only those subscribed to this room.
    #[arg(long)]
    room: Option<String>,
    /// Only those of this node.
    #[arg(long)]
    node: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    api: Api,
}

/// Whose connections are meant.
#[derive(Debug, Args)]
struct Meant {
    /// The user.
    #[arg(required_unless_present = "connection")]
    user: Option<String>,
    /// Only this device of the user.
    #[arg(long, requires = "user")]
    device: Option<String>,
    /// This connection, by its id, instead of a user's.
    #[arg(long, conflicts_with = "user", value_name = "ID")]
    connection: Option<String>,
}

/// `lanecast disconnect`.
#[derive(Debug, Args)]
pub(super) struct Disconnect {
    #[command(flatten)]
    meant: Meant,
    /// Let the clients come back by themselves; without it they stay away.
    #[arg(long)]
    reconnect: bool,
    #[command(flatten)]
    api: Api,
}

/// `lanecast unsubscribe`.
#[derive(Debug, Args)]
pub(super) struct Unsubscribe {
    /// The room.
    room: String,
    #[command(flatten)]
    meant: Meant,
    #[command(flatten)]
    api: Api,
}

/// `lanecast drain`.
#[derive(Debug, Args)]
pub(super) struct Drain {
    /// The node, by its id in `lanecast nodes`.
    node: String,
    #[command(flatten)]
    api: Api,
}

impl Nodes {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let answer: v1::ListNodesResponse = block_on(self.api.ask(Method::GET, "/v1/nodes", Vec::new()))?;
        let rows = answer.nodes.iter().map(|node| {
            let state = if node.draining { "draining" } else { "serving" };
            let (id, address, version) = (node.id.clone(), node.address.clone(), node.version.clone());
            let counts = [node.connections.to_string(), node.rooms.to_string()];
            let [connections, rooms] = counts;
            vec![id, address, version, span(node.age_ms), connections, rooms, state.to_owned()]
        });
        let head = ["NODE", "ADDRESS", "VERSION", "AGE", "CONNECTIONS", "ROOMS", "STATE"];
        self.api.print("ListNodesResponse", &answer, || print!("{}", table(&head, rows.collect())));
        if answer.complete {
            Ok(())
        } else {
            Err("the store of the leases cannot be reached: there may be more nodes".into())
        }
    }
}

impl Connections {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let answer = block_on(self.gather())?;
        let now_ms = Clock::system().now_ms();
        let rows = answer.connections.iter().map(|connection| {
            let v1::ConnectionInfo { id, node, user, device, instance, peer, since_ms, queued_bytes } =
                connection.clone();
            let age = span(now_ms.saturating_sub(since_ms));
            vec![id, user, device, instance, node, age, queued_bytes.to_string(), peer]
        });
        let head = ["CONNECTION", "USER", "DEVICE", "INSTANCE", "NODE", "AGE", "QUEUED", "PEER"];
        self.api.print("ListConnectionsResponse", &answer, || {
            print!("{}", table(&head, rows.collect()));
            if !answer.next.is_empty() {
                println!("there are more; --limit says how many to list");
            }
        });
        check_complete(answer.complete, &answer.missing)
    }

    async fn gather(&self) -> Result<v1::ListConnectionsResponse, Failure> {
        let mut all = v1::ListConnectionsResponse { complete: true, ..Default::default() };
        loop {
            let left = self.limit - all.connections.len() as u32;
            let mut path = format!("/v1/connections?limit={}&cursor={}", left.min(PAGE), quoted(&all.next));
            let filters = [("user", &self.user), ("device", &self.device), ("room", &self.room), ("node", &self.node)];
            for (name, value) in filters {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", quoted(value)));
                }
            }
            let page: v1::ListConnectionsResponse = self.api.ask(Method::GET, &path, Vec::new()).await?;
            all.connections.extend(page.connections);
            all.complete &= page.complete;
            all.missing.extend(page.missing);
            all.next = page.next;
            if all.next.is_empty() || all.connections.len() >= self.limit as usize {
                all.missing.sort_unstable();
                all.missing.dedup();
                return Ok(all);
            }
        }
    }
}

impl Disconnect {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Meant { user, device, connection } = self.meant;
        let asked = v1::DisconnectRequest {
            user: user.unwrap_or_default(),
            device: device.unwrap_or_default(),
            connection: connection.unwrap_or_default(),
            reconnect: self.reconnect,
        };
        command(&self.api, "/v1/disconnect", asked.encode_to_vec(), "disconnected")
    }
}

impl Unsubscribe {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Meant { user, device, connection } = self.meant;
        let asked = v1::EndSubscriptionRequest {
            user: user.unwrap_or_default(),
            device: device.unwrap_or_default(),
            connection: connection.unwrap_or_default(),
            room: self.room,
        };
        command(&self.api, "/v1/unsubscribe", asked.encode_to_vec(), "unsubscribed")
    }
}

impl Drain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = format!("/v1/nodes/{}/drain", quoted(&self.node));
        command(&self.api, &path, Vec::new(), "told to leave, a few at a time")
    }
}

fn command(api: &Api, path: &str, body: Vec<u8>, done: &str) -> Result<(), Failure> {
    let answer: v1::CommandResponse = block_on(api.ask(Method::POST, path, body))?;
    let s = |count: u32| if count == 1 { "" } else { "s" };
    api.print("CommandResponse", &answer, || {
        let (connections, nodes) = (answer.connections, answer.nodes);
        println!("{connections} connection{} {done}; {nodes} node{} answered", s(connections), s(nodes));
    });
    check_complete(answer.complete, &answer.missing)
}

/// Whether all nodes answered; a shell's script must not take a part for the whole.
fn check_complete(complete: bool, missing: &[String]) -> Result<(), Failure> {
    if complete {
        return Ok(());
    }
    Err(match missing {
        [] => "which other nodes there are is not known at present: only the asked node did it".into(),
        missing => format!("no answer from {}: ask again", missing.join(", ")).into(),
    })
}

pub(super) fn block_on<T>(asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asked)
}

/// A time in its two largest units.
pub(super) fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// Columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
    // A user's name is anything; a control character must not reach the terminal.
    let plain = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell.replace(char::is_control, "?") };
    lines.extend(rows.into_iter().map(|row| row.into_iter().map(plain).collect()));
    let widths: Vec<usize> = (0..head.len())
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_hold_no_control_characters() {
        let rows = vec![vec!["a\u{1b}[2J".to_owned(), "x".to_owned()], vec![String::new(), "ä".to_owned()]];
        assert_eq!(table(&["ID", "USER"], rows), "ID     USER\na?[2J  x\n-      ä\n");
    }

    #[test]
    fn times_have_two_units() {
        let spans = [999, 61_000, 3_600_000, 90_000_000].map(span);
        assert_eq!(spans, ["0s", "1m01s", "1h00m", "1d01h"]);
    }

    #[test]
    fn a_part_is_not_the_whole() {
        assert!(check_complete(true, &[]).is_ok());
        assert!(check_complete(false, &[]).unwrap_err().0.contains("not known"));
        assert!(check_complete(false, &["n-1".into(), "n-2".into()]).unwrap_err().0.contains("n-1, n-2"));
    }
}
