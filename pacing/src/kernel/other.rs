//! Other systems do not say enough for a window. On Unix a socket is asked whether it takes more before it is written, which
//! counts its send buffer; elsewhere the write is all the answer there is.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

/// Bytes that a fresh socket takes; from then on it is asked before each write.
pub(crate) const WRITABLE_BYTES: u64 = 8 * 1024;

/// What a kernel would know of a connection's sending side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Info {
    pub(crate) rtt: Duration,
    pub(crate) segment: u64,
    pub(crate) in_flight: u64,
    pub(crate) unsent: u64,
    pub(crate) delivered: u64,
    pub(crate) congestion_window: u64,
}

/// Nothing to set.
pub(crate) fn limit_unsent(_stream: &TcpStream, _limited: bool) -> io::Result<()> {
    Ok(())
}

/// Whether the kernel takes more.
#[cfg(unix)]
pub(crate) fn is_writable(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(stream, PollFlags::OUT)];
    // Should it fail, the write will say what is wrong.
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

/// Whether the kernel takes more.
#[cfg(not(unix))]
pub(crate) fn is_writable(_stream: &TcpStream) -> bool {
    true
}

/// Nothing is known.
pub(crate) fn info(_stream: &TcpStream) -> Option<Info> {
    None
}
