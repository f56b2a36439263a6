//! `lanecast revoke` and `lanecast revocations`: tokens that are not taken any more though they have not expired.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use lanecast_protocol::v1;
use prost::Message as _;

use super::Failure;
use super::api::{Api, quoted};
use super::operate::{block_on, span, table};
use super::token::duration;
use crate::clock::Clock;

/// Revocations in one request.
const PAGE: u32 = 500;

/// `lanecast revoke`.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// All tokens of this user that were made until now.
    #[arg(long, required_unless_present = "token")]
    user: Option<String>,
    /// Only those on this device of the user.
    #[arg(long, requires = "user")]
    device: Option<String>,
    /// One token, by its id (claim `jti`).
    #[arg(long, conflicts_with = "user", value_name = "ID")]
    token: Option<String>,
    /// How long the tokens may live on that are meant: a number with s, m, h or d. Without it as long as nodes give tokens.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, conflicts_with = "lift")]
    life: Option<Duration>,
    /// Lift the revocation instead.
    #[arg(long)]
    lift: bool,
    #[command(flatten)]
    api: Api,
}

/// `lanecast revocations`.
#[derive(Debug, Args)]
pub(super) struct Revocations {
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    api: Api,
}

impl Revoke {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (user, device) = (self.user.unwrap_or_default(), self.device.unwrap_or_default());
        let token_id = self.token.unwrap_or_default();
        let until = |life: Duration| Clock::system().now_ms().saturating_add(life.as_millis() as u64);
        let (path, body) = if self.lift {
            ("/v1/revocations/lift", v1::LiftRevocationRequest { user, device, token_id }.encode_to_vec())
        } else {
            let until_ms = self.life.map_or(0, until);
            let asked = v1::RevokeRequest { user, device, token_id, issued_through_ms: 0, until_ms };
            ("/v1/revocations", asked.encode_to_vec())
        };
        let answer: v1::RevokeResponse = block_on(self.api.ask(Method::POST, path, body))?;
        let s = |count: u32| if count == 1 { "" } else { "s" };
        self.api.print("RevokeResponse", &answer, || {
            let (connections, nodes) = (answer.connections, answer.nodes);
            let done = if self.lift { "lifted" } else { "revoked" };
            println!("{done}; {connections} connection{} closed; {nodes} node{} answered", s(connections), s(nodes));
        });
        if answer.complete {
            return Ok(());
        }
        // It is kept, so the others hold to it without being asked again.
        eprintln!("not all nodes answered: those learn of it within seconds");
        Ok(())
    }
}

impl Revocations {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let answer = block_on(self.gather())?;
        let now_ms = Clock::system().now_ms();
        let rows = answer.revocations.iter().map(|known| {
            let v1::Revocation { user, device, token_id, until_ms, changed_ms, .. } = known.clone();
            let [age, left] = [now_ms.saturating_sub(changed_ms), until_ms.saturating_sub(now_ms)].map(span);
            vec![user, device, token_id, age, left]
        });
        self.api.print("ListRevocationsResponse", &answer, || {
            print!("{}", table(&["USER", "DEVICE", "TOKEN", "AGE", "LEFT"], rows.collect()));
            if !answer.next.is_empty() {
                println!("there are more; --limit says how many to list");
            }
        });
        Ok(())
    }

    async fn gather(&self) -> Result<v1::ListRevocationsResponse, Failure> {
        let mut all = v1::ListRevocationsResponse::default();
        loop {
            let left = self.limit - all.revocations.len() as u32;
            let path = format!("/v1/revocations?limit={}&cursor={}", left.min(PAGE), quoted(&all.next));
            let page: v1::ListRevocationsResponse = self.api.ask(Method::GET, &path, Vec::new()).await?;
            all.revocations.extend(page.revocations);
            all.next = page.next;
            if all.next.is_empty() || all.revocations.len() >= self.limit as usize {
                return Ok(all);
            }
        }
    }
}
