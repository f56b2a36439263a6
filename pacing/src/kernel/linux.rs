//! What Linux and Android tell and take.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Unsent bytes at which the kernel calls a socket full. It says that there is room again at half of it.
const UNSENT_BYTES: u32 = 16 * 1024;
/// Unsent bytes from which on it is asked before a write.
pub(crate) const WRITABLE_BYTES: u64 = UNSENT_BYTES as u64 / 2;

/// What the kernel knows of a connection's sending side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    /// Smoothed round trip.
    pub(crate) rtt: Duration,
    /// Bytes in one segment.
    pub(crate) segment: u64,
    /// Bytes on their way.
    pub(crate) in_flight: u64,
    /// Bytes that were written and not sent.
    pub(crate) unsent: u64,
    /// Bytes that the peer has, cumulative.
    pub(crate) delivered: u64,
    /// Bytes that may be on their way.
    pub(crate) congestion_window: u64,
}

/// Lets the kernel hold few unsent bytes, or as many as it likes.
pub(crate) fn limit_unsent(stream: &TcpStream, limited: bool) -> io::Result<()> {
    // 0 takes the system's own value, by default no limit.
    SockRef::from(stream).set_tcp_notsent_lowat(if limited { UNSENT_BYTES } else { 0 })
}

/// Whether the kernel takes more. The limit on unsent bytes counts when poll(2) asks and when a segment is begun, so a write
/// alone goes far beyond it. If not, poll(2) has left word that the socket's event is wanted once there is room.
pub(crate) fn is_writable(stream: &TcpStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::OUT)];
    match poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(ready) => ready > 0,
        // The write will say what is wrong.
        Err(_) => true,
    }
}

/// Asks the kernel. `None`: it is one that does not say enough.
#[allow(unsafe_code, reason = "no crate of ours offers TCP_INFO")]
pub(crate) fn info(stream: &TcpStream) -> Option<Info> {
    let mut bytes = [0_u8; BYTES_SENT + 16];
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as the stream is borrowed; the kernel writes at most `length` bytes to the
    // buffer, which has that many, and how many it wrote to `length`. Any bytes are valid.
    let failed = unsafe {
        let (value, length) = (bytes.as_mut_ptr().cast(), &raw mut length);
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, length)
    };
    if failed != 0 { None } else { parse(bytes.get(..length as usize)?) }
}

// Where the fields of `struct tcp_info` (linux/tcp.h) stand. It only ever grows at its end.
const SND_MSS: usize = 16;
const SACKED: usize = 28;
const UNACKED: usize = 24;
const LOST: usize = 32;
const RETRANS: usize = 36;
const RTT: usize = 68;
const SND_CWND: usize = 80;
const BYTES_ACKED: usize = 120;
const NOTSENT_BYTES: usize = 144;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;

fn parse(info: &[u8]) -> Option<Info> {
    let four = |at: usize| Some(u64::from(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?)));
    let eight = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let segment = four(SND_MSS)?;
    let unsent = four(NOTSENT_BYTES)?;
    let acked = eight(BYTES_ACKED)?;
    let (sacked, lost, resent) = (four(SACKED)? * segment, four(LOST)? * segment, four(RETRANS)? * segment);
    // Older kernels count segments, and a small one like a large one.
    let sent = eight(BYTES_SENT).zip(eight(BYTES_RETRANS)).map(|(sent, again)| sent.saturating_sub(again));
    let unacked = sent.map_or(four(UNACKED)? * segment, |sent| sent.saturating_sub(acked));
    Some(Info {
        rtt: Duration::from_micros(four(RTT)?),
        segment,
        in_flight: (unacked + resent).saturating_sub(sacked + lost),
        unsent,
        delivered: acked + sacked,
        congestion_window: four(SND_CWND)? * segment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it, with these fields.
    fn written(length: usize, fields: &[(usize, u64, usize)]) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (at, value, width) in fields {
            bytes[*at..at + width].copy_from_slice(&value.to_ne_bytes()[..*width]);
        }
        bytes
    }

    #[test]
    fn what_is_lost_or_has_come_is_not_under_way() {
        let fields = [
            (SND_MSS, 1000, 4),
            (UNACKED, 20, 4),
            (SACKED, 3, 4),
            (LOST, 2, 4),
            (RETRANS, 1, 4),
            (RTT, 61_500, 4),
            (SND_CWND, 30, 4),
            (BYTES_ACKED, 5_000, 8),
            (NOTSENT_BYTES, 700, 4),
        ];
        let old = parse(&written(168, &fields)).unwrap();
        let expected = Info {
            rtt: Duration::from_micros(61_500),
            segment: 1000,
            in_flight: 16_000,
            unsent: 700,
            delivered: 8_000,
            congestion_window: 30_000,
        };
        assert_eq!(old, expected);
        let sent = [(BYTES_SENT, 18_500, 8), (BYTES_RETRANS, 1_000, 8)];
        let new = parse(&written(BYTES_SENT + 16, &[&fields[..], &sent].concat())).unwrap();
        assert_eq!(new, Info { in_flight: 8_500, ..expected }, "bytes, where the kernel counts them");
        assert_eq!(parse(&written(120, &[])), None);
    }
}
