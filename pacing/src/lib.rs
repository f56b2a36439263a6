//! Hands the network no more than it carries now.
//!
//! Only queues of the sender's own can reorder, expire and conflate. What the kernel or QUIC holds, and what stands in the
//! queue of the narrowest link, can no longer be overtaken. This crate keeps both short, and says when there is room:
//!
//! - [`DelayWindow`]: how many bytes keep the link busy without a queue in front of it longer than a target. Pure
//!   arithmetic: samples in, a window out.
//! - [`PacedTcp`] and [`Pace`]: a TCP socket to stand below TLS, which holds few bytes that are not under way, and the
//!   handle that tells the layers above when there is room for more.
//! - [`quic`]: the same window as a congestion controller of quinn.
//!
//! It knows nothing of lanes or records, and never reads what it carries.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "kernel/linux.rs"]
mod kernel;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "kernel/other.rs"]
mod kernel;
#[cfg(feature = "quic")]
pub mod quic;
mod tcp;
mod window;

pub use self::tcp::{Pace, PacedTcp, WRITE_BYTES_MAX};
pub use self::window::{DelayWindow, Sample};
