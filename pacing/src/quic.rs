//! The delay window in quinn: a congestion controller that is the smaller of cubic and [`DelayWindow`].
//!
//! Cubic fills whatever queue a link has before it slows down, and quinn's window counts all streams, so urgent bytes wait in
//! that queue behind the rest. With the window both are short.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::Connection;
use quinn::congestion::{self, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use crate::window::{DelayWindow, Sample};

/// Bytes that may be hurried at a time: a few small packets, whatever is written.
const HURRIED_BYTES_MAX: u64 = 4 * 1_024;
/// What a packet and its frames take beside what was written.
const PACKET_OVERHEAD_BYTES: u64 = 64;

/// The queueing delay of the window.
const DELAY_TARGET: Duration = Duration::from_millis(12);
/// How long a path counts as one that loses packets, and as one that may lose the next.
const LOSSY_FOR: Duration = Duration::from_secs(1);
const UNRELIABLE_FOR: Duration = Duration::from_secs(10);

/// Makes a controller for each path; for
/// [`TransportConfig::congestion_controller_factory`](quinn::TransportConfig::congestion_controller_factory).
#[derive(Clone, Debug, Default)]
pub struct Pacing {
    cubic: Arc<CubicConfig>,
}

/// The controller of one path.
#[derive(Clone, Debug)]
pub struct Controller {
    cubic: Cubic,
    delay: DelayWindow,
    packet: u64,
    lost_at: Option<Instant>,
    /// What the acknowledgements that are being told have in common: the round trip of the newest packet, and their bytes.
    batch: Option<(Duration, u64)>,
    shared: Arc<Shared>,
}

/// What the connection's owner may know.
#[derive(Debug)]
struct Shared {
    is_paced: AtomicBool,
    window: AtomicU64,
    acknowledged: AtomicU64,
    in_flight: AtomicU64,
    /// Bytes that were hurried and are not sent.
    hurried: AtomicU64,
    is_lossy: AtomicBool,
    is_unreliable: AtomicBool,
    least_rtt_us: AtomicU64,
    /// Who waits until so many bytes are under way.
    waiting: Mutex<Option<(u64, Waker)>>,
}

/// Reads the controller of a connection.
#[derive(Clone, Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    /// A connection that moves to another address gets another controller.
    remote: SocketAddr,
}

/// What a controller knows of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Bytes that may be under way.
    pub window: u64,
    /// Bytes acknowledged so far.
    pub acknowledged: u64,
    /// Bytes under way.
    pub in_flight: u64,
    /// Whether packets were lost within the last second.
    pub is_lossy: bool,
    /// Whether packets were lost within the last ten seconds.
    pub is_unreliable: bool,
    /// The round trip without a queue of ours; 0: not known.
    pub least_rtt: Duration,
}

impl Meter {
    /// The meter of a connection; `None` if its controller is not one of [`Pacing`].
    pub fn of(connection: &Connection) -> Option<Self> {
        let controller = connection.congestion_state().into_any().downcast::<Controller>().ok()?;
        Some(Self { shared: controller.shared, remote: connection.remote_address() })
    }

    /// The figures now, of the path that the connection uses.
    pub fn read(&self, connection: &Connection) -> Figures {
        self.shared(connection).figures()
    }

    fn shared(&self, connection: &Connection) -> Arc<Shared> {
        let other = (connection.remote_address() != self.remote).then(|| Self::of(connection)).flatten();
        other.map_or_else(|| Arc::clone(&self.shared), |other| other.shared)
    }

    /// Waits until so many bytes are under way: quinn spreads a window over its round trip, and says only when it is
    /// acknowledged. One task at a time, and of the address that the connection has now.
    pub fn poll_in_flight(&self, connection: &Connection, bytes: u64, cx: &Context<'_>) -> Poll<()> {
        let shared = self.shared(connection);
        let mut waiting = shared.waiting.lock();
        if shared.in_flight.load(Ordering::Relaxed) >= bytes {
            return Poll::Ready(());
        }
        *waiting = Some((bytes, cx.waker().clone()));
        Poll::Pending
    }

    /// Lets what was just written to the foremost stream leave although the window is full.
    ///
    /// After a loss the window shrinks, and nothing leaves until as much was acknowledged: up to half a round trip, in which
    /// urgent bytes would wait. They are few beside what is under way, which is still bounded: at one and a half windows.
    pub fn hurry(&self, bytes: usize) {
        self.shared.hurry(bytes as u64 + PACKET_OVERHEAD_BYTES);
    }

    /// Switches the delay window off, and on again: without it cubic alone decides, for comparison.
    pub fn set_paced(&self, is_paced: bool) {
        self.shared.is_paced.store(is_paced, Ordering::Relaxed);
    }
}

impl Shared {
    fn hurry(&self, bytes: u64) {
        let more = |hurried: u64| Some((hurried + bytes).min(HURRIED_BYTES_MAX));
        let _ = self.hurried.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn figures(&self) -> Figures {
        Figures {
            window: self.window.load(Ordering::Relaxed),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            is_lossy: self.is_lossy.load(Ordering::Relaxed),
            is_unreliable: self.is_unreliable.load(Ordering::Relaxed),
            least_rtt: Duration::from_micros(self.least_rtt_us.load(Ordering::Relaxed)),
        }
    }
}

impl ControllerFactory for Pacing {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn congestion::Controller> {
        Box::new(Controller::new(Cubic::new(Arc::clone(&self.cubic), now, current_mtu), current_mtu))
    }
}

impl Controller {
    fn new(cubic: Cubic, current_mtu: u16) -> Self {
        let controller = Self {
            cubic,
            delay: DelayWindow::new(current_mtu.into(), DELAY_TARGET),
            packet: current_mtu.into(),
            lost_at: None,
            batch: None,
            shared: Arc::new(Shared {
                is_paced: AtomicBool::new(true),
                window: AtomicU64::new(0),
                acknowledged: AtomicU64::new(0),
                in_flight: AtomicU64::new(0),
                hurried: AtomicU64::new(0),
                is_lossy: AtomicBool::new(false),
                is_unreliable: AtomicBool::new(false),
                least_rtt_us: AtomicU64::new(0),
                waiting: Mutex::new(None),
            }),
        };
        controller.tell_window();
        controller
    }

    fn tell_window(&self) {
        self.shared.window.store(self.lasting_window(), Ordering::Relaxed);
    }

    /// The window for what was not hurried.
    fn lasting_window(&self) -> u64 {
        let cubic = congestion::Controller::window(&self.cubic);
        if self.shared.is_paced.load(Ordering::Relaxed) { cubic.min(self.delay.window()) } else { cubic }
    }
}

impl congestion::Controller for Controller {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
        let in_flight = self.shared.in_flight.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let awaited = self.shared.waiting.lock().take_if(|(awaited, _)| *awaited <= in_flight);
        if let Some((_, waker)) = awaited {
            waker.wake();
        }
        let less = |hurried: u64| Some(hurried.saturating_sub(bytes));
        let _ = self.shared.hurried.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        let round_trip = now.saturating_duration_since(sent);
        let (least, before) = self.batch.unwrap_or((round_trip, 0));
        self.batch = Some((least.min(round_trip), before + bytes));
        self.shared.acknowledged.fetch_add(bytes, Ordering::Relaxed);
        // While the delay window is the smaller one, cubic's was not used up, and must not grow beyond what was tried.
        let is_limited = self.shared.is_paced.load(Ordering::Relaxed) && self.cubic.window() >= self.delay.window();
        self.cubic.on_ack(now, sent, bytes, app_limited || is_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_packet_num_acked: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        if let Some((rtt, bytes)) = self.batch.take() {
            let delivered = self.shared.acknowledged.load(Ordering::Relaxed);
            self.delay.sample(now, &Sample { rtt, outstanding: in_flight + bytes, delivered });
        }
        self.shared.in_flight.store(in_flight, Ordering::Relaxed);
        let has_lost_within = |time| self.lost_at.is_some_and(|at| now.saturating_duration_since(at) < time);
        self.shared.is_lossy.store(has_lost_within(LOSSY_FOR), Ordering::Relaxed);
        self.shared.is_unreliable.store(has_lost_within(UNRELIABLE_FOR), Ordering::Relaxed);
        let least_rtt_us = self.delay.least_rtt().map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        self.shared.least_rtt_us.store(least_rtt_us, Ordering::Relaxed);
        self.tell_window();
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        let less = |in_flight: u64| Some(in_flight.saturating_sub(lost_bytes));
        let _ = self.shared.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if !is_persistent_congestion {
            // RFC 9002, 7.3.2: one packet before the window shrinks, so that what was lost need not wait for that. It was urgent
            // if anything in it was, and the foremost stream leaves first.
            self.shared.hurry(self.packet);
        }
        self.lost_at = Some(now);
        self.shared.is_lossy.store(true, Ordering::Relaxed);
        self.shared.is_unreliable.store(true, Ordering::Relaxed);
        self.tell_window();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
        self.packet = new_mtu.into();
        self.delay.set_segment(new_mtu.into());
        self.tell_window();
    }

    fn window(&self) -> u64 {
        let window = self.lasting_window();
        match self.shared.hurried.load(Ordering::Relaxed) {
            0 => window,
            // Quinn sends if a whole packet fits below it.
            hurried => {
                let wanted = self.shared.in_flight.load(Ordering::Relaxed) + hurried + self.packet;
                window.max(wanted.min(window + window / 2))
            }
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.lasting_window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn congestion::Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
