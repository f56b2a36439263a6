//! The Lanecast node.
//!
//! ```text
//! transport ─▶ session ─▶ hub ─▶ engine          http, auth, config, telemetry, cluster beside them
//! ```
//!
//! Promises: every queue, task set and wait has a bound; every task has an owner that a drain awaits; time is asked of
//! the [`clock`] only. Refuses: knowing any SDK. The wire and its rules live in `lanecast-protocol`.
#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod health;
pub mod history;
pub mod http;
pub mod hub;
pub mod node;
pub mod policy;
pub mod publish;
pub mod rates;
pub mod session;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod transport;

#[cfg(test)]
mod testing;
