//! Opening a connection: over the one transport that the address names, or over whichever of two works.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::address::Scheme;
use super::memory::{Memory, Wire};
use super::{Proxy, Target, Tls, Transport, tcp};

/// A connection that is lost sooner did not prove that its transport works here.
const PROVED_AFTER: Duration = Duration::from_secs(5);

/// Opens connections, and remembers which transport works in this network.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) tls: Tls,
    /// Through it goes WebSocket only, since it carries no UDP: then nothing is raced.
    pub(crate) proxy: Option<Proxy>,
    /// The port of QUIC where the address means TCP as well.
    pub(crate) quic_port: u16,
    /// Whether all lanes share one queue, which is then not kept short beyond it either: for comparison.
    pub(crate) one_queue: bool,
    memory: Mutex<Memory>,
}

/// An open connection.
pub(crate) struct Opened {
    pub(crate) link: Box<dyn Transport>,
    /// Tells the memory how it ended.
    pub(crate) trial: Trial,
}

/// How a transport proves itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// `None`: there was no choice, so nothing is learned.
    wire: Option<Wire>,
    opened_at: Instant,
}

impl Dialer {
    pub(crate) fn new(tls: Tls, proxy: Option<Proxy>, quic_port: u16, one_queue: bool) -> Self {
        Self { tls, proxy, quic_port, one_queue, memory: Mutex::default() }
    }

    /// Opens a connection. The caller bounds the wait; dropped before, everything that was begun is closed.
    pub(crate) async fn open(&self, target: &Target) -> Result<Opened, String> {
        let mut opened = self.dial(target).await?;
        if self.one_queue {
            opened.link.set_paced(false);
        }
        Ok(opened)
    }

    async fn dial(&self, target: &Target) -> Result<Opened, String> {
        let link = match target.scheme {
            Scheme::Plain | Scheme::Tls => self.websocket(target).await?,
            Scheme::Quic => self.quic(target, target.port).await?,
            Scheme::Any if self.proxy.is_some() || !cfg!(feature = "quic") => self.websocket(target).await?,
            Scheme::Any => return self.race(target).await,
        };
        Ok(Opened { link, trial: Trial { wire: None, opened_at: Instant::now() } })
    }

    async fn race(&self, target: &Target) -> Result<Opened, String> {
        let plan = self.memory.lock().plan(Instant::now());
        let dial = |wire| async move {
            match wire {
                Wire::Quic => self.quic(target, self.quic_port).await.map_err(|error| format!("QUIC: {error}")),
                Wire::WebSocket => self.websocket(target).await.map_err(|error| format!("WebSocket: {error}")),
            }
        };
        let other = match plan.first {
            Wire::Quic => Wire::WebSocket,
            Wire::WebSocket => Wire::Quic,
        };
        let raced = race(dial(plan.first), dial(other), plan.lead).await;
        let now = Instant::now();
        match raced {
            Ok((is_first, link)) => {
                let wire = if is_first { plan.first } else { other };
                tracing::debug!(?wire, "raced");
                self.memory.lock().won(now, plan, wire);
                Ok(Opened { link, trial: Trial { wire: Some(wire), opened_at: now } })
            }
            Err(error) => {
                self.memory.lock().failed(now);
                Err(error)
            }
        }
    }

    async fn websocket(&self, target: &Target) -> Result<Box<dyn Transport>, String> {
        // Boxed, as below: handshakes hold large buffers, and a race holds two of them.
        Box::pin(tcp::open(target, &self.tls, self.proxy.as_ref())).await
    }

    #[cfg(feature = "quic")]
    async fn quic(&self, target: &Target, port: u16) -> Result<Box<dyn Transport>, String> {
        Box::pin(super::quic::open(target, port, &self.tls)).await
    }

    #[cfg(not(feature = "quic"))]
    async fn quic(&self, _target: &Target, _port: u16) -> Result<Box<dyn Transport>, String> {
        Err("this client was built without QUIC".into())
    }

    /// The connection was lost, by nobody's decision; `welcomed`: a node had answered on it.
    pub(crate) fn lost(&self, trial: Trial, welcomed: bool) {
        let Some(wire) = trial.wire else { return };
        let early = !welcomed || trial.opened_at.elapsed() < PROVED_AFTER;
        self.memory.lock().ended(Instant::now(), wire, early);
    }

    /// The connection was ended by one of its sides; `welcomed`: a node had answered on it.
    pub(crate) fn ended(&self, trial: Trial, welcomed: bool) {
        let Some(wire) = trial.wire else { return };
        // A side that hangs up soon says nothing about the network.
        if welcomed && trial.opened_at.elapsed() >= PROVED_AFTER {
            self.memory.lock().ended(Instant::now(), wire, false);
        }
    }

    /// The network is another one.
    pub(crate) fn forget(&self) {
        *self.memory.lock() = Memory::default();
    }
}

/// Runs the first, and the second as well once `lead` is over or the first has failed. The first success wins, and whether it
/// was the first's; the other is dropped.
async fn race<T>(
    first: impl Future<Output = Result<T, String>>,
    second: impl Future<Output = Result<T, String>>,
    lead: Duration,
) -> Result<(bool, T), String> {
    let mut first = std::pin::pin!(first);
    let failed = match tokio::time::timeout(lead, &mut first).await {
        Ok(Ok(opened)) => return Ok((true, opened)),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let mut second = std::pin::pin!(second);
    if let Some(failed) = failed {
        return second.await.map(|opened| (false, opened)).map_err(|error| format!("{failed}; {error}"));
    }
    tokio::select! {
        opened = &mut first => match opened {
            Ok(opened) => Ok((true, opened)),
            Err(failed) => {
                second.await.map(|opened| (false, opened)).map_err(|error| format!("{failed}; {error}"))
            }
        },
        opened = &mut second => match opened {
            Ok(opened) => Ok((false, opened)),
            Err(failed) => first.await.map(|opened| (true, opened)).map_err(|error| format!("{failed}; {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_millis(500);

    async fn after(ms: u64, opened: Result<u8, &str>) -> Result<u8, String> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        opened.map_err(str::to_owned)
    }

    async fn raced(
        first: (u64, Result<u8, &str>),
        second: (u64, Result<u8, &str>),
    ) -> (Result<(bool, u8), String>, u64) {
        let began = Instant::now();
        let result = race(after(first.0, first.1), after(second.0, second.1), LEAD).await;
        (result, began.elapsed().as_millis() as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_open_wins() {
        let never = 1_000_000;
        assert_eq!(raced((400, Ok(1)), (1, Ok(2))).await, (Ok((true, 1)), 400), "a head start");
        assert_eq!(raced((never, Ok(1)), (100, Ok(2))).await, (Ok((false, 2)), 600));
        assert_eq!(raced((700, Ok(1)), (900, Ok(2))).await, (Ok((true, 1)), 700));
        assert_eq!(raced((10, Err("no")), (100, Ok(2))).await, (Ok((false, 2)), 110), "at once after a failure");
        assert_eq!(raced((600, Err("no")), (200, Ok(2))).await, (Ok((false, 2)), 700));
        assert_eq!(raced((900, Ok(1)), (100, Err("no"))).await, (Ok((true, 1)), 900));
        assert_eq!(raced((600, Err("a")), (50, Err("b"))).await, (Err("b; a".into()), 600));
        assert_eq!(raced((10, Err("a")), (50, Err("b"))).await, (Err("a; b".into()), 60));
    }
}
