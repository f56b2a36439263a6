//! A node and its Redis, as real processes: what a node says at its start, and what it does when Redis changes under it.
//!
//! Needs redis-server 7.0 or newer (`./test` installs it).
#![allow(clippy::unwrap_used)]

mod fake;
mod running;
mod startup;
mod support;
mod why;
