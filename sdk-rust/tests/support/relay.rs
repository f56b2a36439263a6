//! A bad network for UDP: a relay that loses, delays, reorders and cuts.
//!
//! It keeps at most [`FLOWS_MAX`] flows and [`UNDER_WAY_MAX`] packets; what is beyond is lost, as in any network. What happens
//! is drawn from a seed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinHandle};

const FLOWS_MAX: usize = 256;
const UNDER_WAY_MAX: usize = 4096;
const PACKET_BYTES_MAX: usize = 2048;

/// How bad it is.
#[derive(Clone, Debug)]
pub struct Weather {
    /// The part of the packets that is lost.
    pub loss: f64,
    /// How long a packet takes, one way; drawn for each, so that they overtake one another.
    pub delay_ms: RangeInclusive<u64>,
    /// The first flows die after so many packets, as drawn from these ranges.
    pub cuts: Vec<RangeInclusive<u64>>,
}

impl Weather {
    pub fn fine() -> Self {
        Self { loss: 0.0, delay_ms: 0..=0, cuts: Vec::new() }
    }
}

struct Flow {
    up: Arc<UdpSocket>,
    pump: AbortHandle,
    /// Packets that it still carries.
    budget: u64,
}

struct State {
    node: SocketAddr,
    weather: Weather,
    random: Mutex<SmallRng>,
    /// By the client's address; a budget of 0 is a dead flow.
    flows: Mutex<HashMap<SocketAddr, Flow>>,
    cuts: AtomicU64,
    /// What does not begin with a handshake leads nowhere: as behind a balancer that hashes addresses.
    strict: AtomicBool,
    down: Arc<UdpSocket>,
    under_way: Arc<Semaphore>,
    packets: AtomicU64,
    /// Packets from clients that will be lost.
    doomed: AtomicU64,
    on_cut: Box<dyn Fn() + Send + Sync>,
}

/// A relay between clients and a node.
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Relay {
    pub async fn new(node: SocketAddr, weather: Weather, seed: u64, on_cut: impl Fn() + Send + Sync + 'static) -> Self {
        let down = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = down.local_addr().unwrap();
        let state = Arc::new(State {
            node,
            weather,
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            flows: Mutex::default(),
            cuts: AtomicU64::new(0),
            strict: AtomicBool::new(false),
            down,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            packets: AtomicU64::new(0),
            doomed: AtomicU64::new(0),
            on_cut: Box::new(on_cut),
        });
        let task = tokio::spawn(state.clone().run());
        Self { address, state, task }
    }

    /// All flows go on from other ports, as behind a router that forgot them.
    pub fn change_ports(&self) {
        for (client, flow) in self.state.flows.lock().iter_mut() {
            flow.pump.abort();
            (flow.up, flow.pump) = self.state.clone().upstream(*client);
        }
    }

    /// The flows that are there carry nothing more; new ones work.
    pub fn cut(&self) {
        for flow in self.state.flows.lock().values_mut() {
            flow.die();
        }
    }

    /// As [`Self::cut`], and what comes from a new address is no more known to the node than what came from the old one.
    pub fn cut_strictly(&self) {
        self.state.strict.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// The next packet from a client is lost.
    pub fn lose_next(&self) {
        self.state.doomed.store(1, Ordering::SeqCst);
    }

    /// Packets seen from clients.
    pub fn packets(&self) -> u64 {
        self.state.packets.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Flow {
    fn die(&mut self) {
        self.budget = 0;
        self.pump.abort();
    }
}

impl State {
    async fn run(self: Arc<Self>) {
        let mut buffer = [0; PACKET_BYTES_MAX];
        loop {
            let Ok((count, client)) = self.down.recv_from(&mut buffer).await else { continue };
            self.packets.fetch_add(1, Ordering::SeqCst);
            let is_doomed =
                self.doomed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if !is_doomed && let Some(up) = self.flow(client, &buffer[..count]) {
                self.carry(buffer[..count].to_vec(), up, None);
            }
        }
    }

    /// The way up of a flow that is not dead, or now dies.
    fn flow(self: &Arc<Self>, client: SocketAddr, packet: &[u8]) -> Option<Arc<UdpSocket>> {
        let mut flows = self.flows.lock();
        if !flows.contains_key(&client) {
            if flows.len() == FLOWS_MAX {
                return None;
            }
            // Only a handshake begins with a long header.
            let is_known = !self.strict.load(Ordering::SeqCst) || packet[0] & 0x80 != 0;
            let budget = if is_known { self.budget() } else { 0 };
            let (up, pump) = self.clone().upstream(client);
            flows.insert(client, Flow { up, pump, budget });
        }
        let flow = flows.get_mut(&client)?;
        match flow.budget {
            0 => return None,
            1 => {
                flow.die();
                (self.on_cut)();
                return None;
            }
            _ => flow.budget -= 1,
        }
        Some(flow.up.clone())
    }

    fn budget(&self) -> u64 {
        let cut = self.cuts.fetch_add(1, Ordering::SeqCst) as usize;
        self.weather.cuts.get(cut).map_or(u64::MAX, |range| self.random.lock().random_range(range.clone()))
    }

    fn upstream(self: Arc<Self>, client: SocketAddr) -> (Arc<UdpSocket>, AbortHandle) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let up = Arc::new(UdpSocket::from_std(socket).unwrap());
        let reading = up.clone();
        let pump = tokio::spawn(async move {
            let mut buffer = [0; PACKET_BYTES_MAX];
            loop {
                let Ok((count, _)) = reading.recv_from(&mut buffer).await else { continue };
                self.carry(buffer[..count].to_vec(), self.down.clone(), Some(client));
            }
        });
        (up, pump.abort_handle())
    }

    fn carry(&self, packet: Vec<u8>, over: Arc<UdpSocket>, client: Option<SocketAddr>) {
        let (is_lost, delay_ms) = {
            let mut random = self.random.lock();
            (random.random_bool(self.weather.loss), random.random_range(self.weather.delay_ms.clone()))
        };
        let Ok(place) = self.under_way.clone().try_acquire_owned() else { return };
        if is_lost {
            return;
        }
        let to = client.unwrap_or(self.node);
        tokio::spawn(async move {
            if delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            let _ = over.send_to(&packet, to).await;
            drop(place);
        });
    }
}
