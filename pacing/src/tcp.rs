//! A TCP socket that holds little of what is not under way.
//!
//! ```text
//!  queues of ours ─▶ encoding, TLS ─▶ PacedTcp ─▶ unsent, ≤ 8 KiB and a write ─▶ under way, ≤ window ─▶ peer
//!        ▲                                            │                            │
//!        └──────────────── Pace: has_room ────────────┴────────────────────────────┘
//! ```
//!
//! | system | unsent bytes | window |
//! | --- | --- | --- |
//! | Linux, Android | bounded | from the kernel's own figures |
//! | other Unix | as many as the socket's send buffer takes | none: there is room while the socket takes more |
//! | others | as many as the socket takes | none: there always is room |

use std::io::{self, IoSlice, Read as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::kernel::{self, Info, WRITABLE_BYTES};
use crate::window::{DelayWindow, Sample};

/// Bytes that one write hands to the kernel at most.
pub const WRITE_BYTES_MAX: usize = 16 * 1024;
/// Bytes that a fresh socket takes before anybody asks for its state, so that an idle connection keeps none.
const UNASKED_BYTES: u64 = WRITABLE_BYTES;
/// No signal if the peer has closed: it would end a process that is not Rust's own. `writev` cannot be told; systems without the
/// flag tell the socket, when it is made.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const NO_SIGNAL: i32 = 0;
/// The queueing delay of a socket's window: less than QUIC's, since a write and what leaves until the next look come on top.
const DELAY_TARGET: Duration = Duration::from_millis(10);
/// Slices of one vectored write.
const SLICES_MAX: usize = 16;
/// How long a full window is left alone: a quarter of a round trip, within these bounds; longer once nothing was acknowledged
/// for [`STALLED_ROUNDS`], since then nothing frees it. Not before: after a burst the first acknowledgement takes a round trip.
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(5);
const LOOK_STALLED_MAX: Duration = Duration::from_millis(250);
const STALLED_ROUNDS: u32 = 2;

/// A TCP stream, to stand below TLS.
///
/// A write is at most [`WRITE_BYTES_MAX`] long, and waits while bytes of before are not under way, so they stay with those who
/// can still reorder them.
#[derive(Debug)]
pub struct PacedTcp {
    link: Arc<Link>,
}

/// Tells when a [`PacedTcp`] has room. Clones tell the same; none keeps the socket open.
#[derive(Debug)]
pub struct Pace {
    link: Weak<Link>,
    /// Armed while the window is full. Boxed: nearly always there is none.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    is_paced: bool,
    /// Bytes that may be written before the kernel has to be asked whether it takes more.
    unasked: u64,
    /// Bytes for which there is room as of the last look.
    room: u64,
    /// Made at the first look, which an idle connection never takes.
    watched: Option<Box<Watched>>,
}

/// What was seen at looks at the kernel's figures.
#[derive(Debug)]
struct Watched {
    window: DelayWindow,
    info: Info,
    /// When the next look is worth its while, if there was no room at the last one.
    look_at: Instant,
    look_every: Duration,
    /// When more was acknowledged than before, or there was room.
    moved_at: Instant,
}

/// What there is to wait for.
enum Wait {
    /// Nothing: there is room.
    Nothing,
    /// The kernel says when unsent bytes are under way.
    Kernel,
    /// Acknowledgements, for which one has to look.
    Until(Instant),
}

impl PacedTcp {
    /// Takes over a connected stream. Options that cannot be set are left: the socket then holds more, or is broken, which
    /// the next read or write says.
    pub fn new(stream: TcpStream) -> Self {
        // What is written is gathered before; it should leave at once.
        let _ = stream.set_nodelay(true);
        let _ = kernel::limit_unsent(&stream, true);
        let state = State { is_paced: true, unasked: UNASKED_BYTES, room: UNASKED_BYTES, watched: None };
        Self { link: Arc::new(Link { stream, state: Mutex::new(state) }) }
    }

    /// The handle for the layers above.
    pub fn pace(&self) -> Pace {
        Pace { link: Arc::downgrade(&self.link), timer: None }
    }

    /// The stream, for its addresses and options.
    pub fn stream(&self) -> &TcpStream {
        &self.link.stream
    }
}

impl Pace {
    /// Whether bytes that may wait should be written now. Whatever must not wait may be written as soon as the socket takes it.
    /// A closed socket has room: the write tells.
    pub fn has_room(&self) -> bool {
        self.link.upgrade().is_none_or(|link| matches!(link.wait(), Wait::Nothing))
    }

    /// Waits until there may be room. A timer runs only while the window is full. Cancel safe.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let Some(link) = self.link.upgrade() else { return Poll::Ready(()) };
            match link.wait() {
                Wait::Nothing => return Poll::Ready(()),
                Wait::Kernel => return link.poll_writable(cx),
                Wait::Until(at) => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
    }

    /// Switches pacing off, and on again: without it the socket takes whatever the kernel takes, for comparison.
    pub fn set_paced(&self, is_paced: bool) {
        let Some(link) = self.link.upgrade() else { return };
        link.state.lock().is_paced = is_paced;
        let _ = kernel::limit_unsent(&link.stream, is_paced);
    }
}

impl Clone for Pace {
    fn clone(&self) -> Self {
        Self { link: self.link.clone(), timer: None }
    }
}

impl Link {
    fn wait(&self) -> Wait {
        let mut state = self.state.lock();
        if !state.is_paced || state.room > 0 {
            return Wait::Nothing;
        }
        let now = Instant::now();
        if let Some(at) = state.watched.as_ref().map(|watched| watched.look_at).filter(|at| *at > now) {
            return Wait::Until(at);
        }
        if !state.look(now, &self.stream) {
            return if kernel::is_writable(&self.stream) { Wait::Nothing } else { Wait::Kernel };
        }
        match &state.watched {
            _ if state.room > 0 => Wait::Nothing,
            Some(watched) if watched.info.unsent < WRITABLE_BYTES => Wait::Until(watched.look_at),
            _ => Wait::Kernel,
        }
    }

    /// Waits for the kernel to take more.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // A broken socket has room: the write tells.
        while let Ok(()) = ready!(self.stream.poll_write_ready(cx)) {
            // Where the kernel is asked and says no, it remembers that its event is wanted, and tokio waits for that.
            let asked = self.stream.try_io(Interest::WRITABLE, || self.ask());
            if !asked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Whether the kernel takes more, as the result of an attempt to write.
    fn ask(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.look(Instant::now(), &self.stream) && state.unasked > 0 || kernel::is_writable(&self.stream) {
            return Ok(());
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.try_write(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum::<usize>() as u64;
        let must_ask = {
            let state = self.state.lock();
            state.is_paced && state.unasked < bytes
        };
        if must_ask {
            self.stream.try_io(Interest::WRITABLE, || self.ask())?;
        }
        let send = || SockRef::from(&self.stream).send_vectored_with_flags(bufs, NO_SIGNAL);
        let written = self.stream.try_io(Interest::WRITABLE, send)?;
        let mut state = self.state.lock();
        state.unasked = state.unasked.saturating_sub(written as u64);
        state.room = state.room.saturating_sub(written as u64);
        Ok(written)
    }

    fn try_read(&self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let unfilled = buf.initialize_unfilled();
        let (wanted, mut read) = (unfilled.len(), 0);
        let tried = self.stream.try_io(Interest::READABLE, || {
            read = (&*SockRef::from(&self.stream)).read(unfilled)?;
            // Where a read that is not full shows that nothing is left, tokio waits for the next event instead of asking again.
            let is_drained = cfg!(any(target_os = "linux", target_os = "android")) && 0 < read && read < wanted;
            if is_drained { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        buf.advance(read);
        if read > 0 { Ok(()) } else { tried }
    }
}

impl State {
    /// Looks at the kernel's figures. Returns whether there are any.
    fn look(&mut self, now: Instant, stream: &TcpStream) -> bool {
        let Some(info) = kernel::info(stream) else { return false };
        let watched = self.watched.get_or_insert_with(|| Box::new(Watched::new(now, info)));
        let outstanding = info.in_flight + info.unsent;
        watched.window.set_segment(info.segment);
        let sample = Sample { rtt: info.rtt, outstanding, delivered: info.delivered };
        watched.window.sample(now.into_std(), &sample);
        self.unasked = WRITABLE_BYTES.saturating_sub(info.unsent);
        // Beyond the kernel's own window only what acknowledgements free until the next look: it would wait unsent, and on a
        // slow path a few packets are a long time.
        let window = watched.window.window().min(info.congestion_window / 8 * 9 + info.segment);
        self.room = window.saturating_sub(outstanding).min(self.unasked);
        watched.seen(now, info, self.room > 0);
        true
    }
}

impl Watched {
    fn new(now: Instant, info: Info) -> Self {
        let window = DelayWindow::new(info.segment, DELAY_TARGET);
        Self { window, info, look_at: now, look_every: LOOK_MIN, moved_at: now }
    }

    fn seen(&mut self, now: Instant, info: Info, has_room: bool) {
        if has_room || info.delivered != self.info.delivered {
            self.moved_at = now;
        }
        self.look_every = match now - self.moved_at <= info.rtt * STALLED_ROUNDS {
            true => (info.rtt / 4).clamp(LOOK_MIN, LOOK_MAX),
            false => (self.look_every * 2).min(LOOK_STALLED_MAX),
        };
        self.look_at = now + self.look_every;
        self.info = info;
    }
}

impl AsyncRead for PacedTcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.link.stream.poll_read_ready(cx))?;
            match self.link.try_read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncWrite for PacedTcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let buf = &buf[..buf.len().min(WRITE_BYTES_MAX)];
        self.link.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut cut = [IoSlice::new(&[]); SLICES_MAX];
        let mut left = WRITE_BYTES_MAX;
        let mut count = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()).take(SLICES_MAX) {
            let bytes = buf.len().min(left);
            cut[count] = IoSlice::new(&buf[..bytes]);
            (left, count) = (left - bytes, count + 1);
            if left == 0 {
                break;
            }
        }
        self.link.poll_write(cx, &cut[..count])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.link.stream).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests;
