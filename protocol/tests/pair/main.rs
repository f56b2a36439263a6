//! Two peers on a virtual clock: scenarios over a pipe and over streams. See [`support`].
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the variable SEED names one run")]

mod support;

mod delivery;
mod flow;
mod forks;
mod fragments;
mod handshake;
mod hints;
mod life;
mod lossy;
mod named;
mod order;
mod publish;
mod raw;
mod refresh;
mod resume;
mod time_to_live;
