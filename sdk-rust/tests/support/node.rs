//! A real node as a process of its own, and a link to it that can be cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lanecast::Client;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, JoinSet};

/// Retention for what is tested, and reconnects that take no test's time.
const CONFIG: &str = r#"
[reconnect]
min_ms = 2
max_ms = 20

[[policies]]
rooms = "trim.**"
retention_events = 10

[[policies]]
rooms = "**"
retention_events = 20_000
"#;

/// The binary `lanecast`: from LANECAST_BIN, else beside this test in the target directory.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LANECAST_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("lanecast");
    assert!(path.is_file(), "no node at {}: run `cargo build -p lanecast-server` or set LANECAST_BIN", path.display());
    path
}

/// A running node.
pub struct Node {
    pub address: SocketAddr,
    config: PathBuf,
    child: Child,
}

impl Node {
    pub async fn start() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let name = format!("lanecast-sdk-{}-{}.toml", std::process::id(), address.port());
        let config = std::env::temp_dir().join(name);
        std::fs::write(&config, CONFIG).unwrap();
        let child = Self::spawn(address, &config);
        let node = Self { address, config, child };
        node.listening().await;
        node
    }

    fn spawn(address: SocketAddr, config: &PathBuf) -> Child {
        let mut command = Command::new(binary());
        command.args(["serve", "--dev", "--listen", &address.to_string(), "--config"]).arg(config);
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.spawn().unwrap()
    }

    async fn listening(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.address).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "the node does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// kill -9, and a new life on the same port.
    pub async fn kill_and_restart(&mut self) {
        self.child.kill().await.unwrap();
        self.child = Self::spawn(self.address, &self.config);
        self.listening().await;
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub fn client(&self, user: &str) -> Client {
        Client::builder(self.url()).token(format!("dev:{user}")).connect().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.config);
    }
}

/// Where a connection is cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// After so many bytes.
    bytes: u64,
    /// Counted on the way to the client, else on the way to the node.
    down: bool,
    /// With a reset, which also throws away what is in the peers' buffers.
    reset: bool,
}

/// A proxy between clients and a node, which cuts its first connections at random byte offsets.
pub struct Link {
    pub url: String,
    refusing: Arc<AtomicBool>,
    down: tokio::sync::watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Link {
    /// Cuts the first `cuts` connections, each after up to `span` bytes, and calls `on_cut` in that moment with the bytes
    /// that this connection had carried to the client.
    pub async fn new(
        node: SocketAddr,
        seed: u64,
        cuts: u32,
        span: u64,
        on_cut: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let refusing = Arc::new(AtomicBool::new(false));
        let (down, cut_all) = tokio::sync::watch::channel(0);
        let on_cut = Arc::new(on_cut);
        let refuse = refusing.clone();
        let task = tokio::spawn(async move {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut left, mut connections) = (cuts, JoinSet::new());
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if refuse.load(Ordering::SeqCst) {
                    continue;
                }
                let cut = (left > 0).then(|| {
                    left -= 1;
                    // The first half on the way to the client, where the replay is; then either way.
                    let down = left >= cuts / 2 || random.random_bool(0.5);
                    let bytes = random.random_range(1..if down { span } else { span / 2 });
                    Cut { bytes, down, reset: random.random_bool(0.5) }
                });
                let (on_cut, mut cut_all) = (on_cut.clone(), cut_all.clone());
                cut_all.mark_unchanged();
                connections.spawn(async move {
                    let node = TcpStream::connect(node).await.unwrap();
                    tokio::select! {
                        carried = carry(client, node, cut) => if let Some(carried) = carried { on_cut(carried) },
                        _ = cut_all.changed() => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { url, refusing, down, task }
    }

    pub fn client(&self, user: &str) -> Client {
        Client::builder(&self.url).token(format!("dev:{user}")).connect().unwrap()
    }

    /// Cuts all connections and takes no new ones.
    pub fn go_down(&self) {
        self.refusing.store(true, Ordering::SeqCst);
        self.down.send_modify(|times| *times += 1);
    }

    pub fn come_up(&self) {
        self.refusing.store(false, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries bytes both ways until an end closes, or the cut. After the cut, returns how many went to the client.
async fn carry(client: TcpStream, node: TcpStream, cut: Option<Cut>) -> Option<u64> {
    let reset = cut.is_some_and(|cut| cut.reset);
    let budget = |down| cut.filter(|cut| cut.down == down).map_or(u64::MAX, |cut| cut.bytes);
    let ((mut client_read, mut client_write), (mut node_read, mut node_write)) =
        (client.into_split(), node.into_split());
    let (mut down, mut up) = (0, 0);
    let was_cut = tokio::select! {
        was_cut = pump(&mut node_read, &mut client_write, budget(true), &mut down) => was_cut,
        was_cut = pump(&mut client_read, &mut node_write, budget(false), &mut up) => was_cut,
    };
    if was_cut && reset {
        for end in [client_read.reunite(client_write).unwrap(), node_read.reunite(node_write).unwrap()] {
            let _ = end.set_zero_linger();
        }
    }
    was_cut.then_some(down)
}

/// Carries bytes one way. Returns true once the budget is spent, false when an end closes.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, budget: u64, carried: &mut u64) -> bool {
    let mut buffer = [0; 2048];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return false };
        let part = (budget - *carried).min(count as u64);
        if to.write_all(&buffer[..part as usize]).await.is_err() {
            return false;
        }
        *carried += part;
        if *carried == budget {
            return true;
        }
    }
}
