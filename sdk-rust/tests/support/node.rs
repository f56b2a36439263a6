//! A real node as a process of its own, and a link to it that can be cut.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lanecast::{Builder, Client};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::{JoinHandle, JoinSet};

use super::quic::Certificate;

/// Retention for what is tested, and reconnects that take no test's time.
const CONFIG: &str = r#"
[reconnect]
min_ms = 2
max_ms = 20

[tokens]
hs256_secret = "a secret of at least thirty-two bytes"
leeway_ms = 0

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

/// What a test's clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// `ws://`
    Plain,
    /// `wss://`
    Tls,
    /// `quic://`
    Quic,
    /// `https://`
    Any,
}

/// A running node.
pub struct Node {
    /// Of HTTP and WebSocket.
    pub address: SocketAddr,
    /// Of QUIC, on a node with a certificate.
    pub quic: Option<SocketAddr>,
    wire: Wire,
    certificate: Option<Certificate>,
    folder: PathBuf,
    child: Child,
    /// What the node prints; kept, or it could not print any more.
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Node {
    /// One in the clear.
    pub async fn start() -> Self {
        Self::start_over(Wire::Plain).await
    }

    /// One for clients that use this.
    pub async fn start_over(wire: Wire) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let name = format!("lanecast-sdk-{}-{}", std::process::id(), address.port());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let certificate = (wire != Wire::Plain).then(Certificate::new);
        let mut config = CONFIG.to_owned();
        if let Some(certificate) = &certificate {
            let (pem, key) = (folder.join("node.pem"), folder.join("node.key"));
            std::fs::write(&pem, certificate.pem()).unwrap();
            std::fs::write(&key, certificate.key_pem()).unwrap();
            config +=
                &format!("\n[listen]\nquic = \"127.0.0.1:0\"\n[tls]\ncertificate_file = {pem:?}\nkey_file = {key:?}\n");
        }
        std::fs::write(folder.join("lanecast.toml"), config).unwrap();
        let (child, mut stdout) = Self::spawn(address, &folder);
        let quic = match certificate {
            Some(_) => Some(listening_quic(&mut stdout).await),
            None => None,
        };
        let node = Self { address, quic, wire, certificate, folder, child, stdout };
        node.listening().await;
        node
    }

    fn spawn(address: SocketAddr, folder: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut command = Command::new(binary());
        command
            .args(["serve", "--dev", "--listen", &address.to_string(), "--config"])
            .arg(folder.join("lanecast.toml"));
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
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
        (self.child, self.stdout) = Self::spawn(self.address, &self.folder);
        self.listening().await;
    }

    /// A client that reaches the node at this address of its wire.
    pub fn builder_at(&self, address: SocketAddr, user: &str) -> Builder {
        let scheme = match self.wire {
            Wire::Plain => "ws",
            Wire::Tls => "wss",
            Wire::Quic => "quic",
            Wire::Any => "https",
        };
        let mut builder = Client::builder(format!("{scheme}://{address}")).token(format!("dev:{user}"));
        if let Some(certificate) = &self.certificate {
            builder = builder.certificate_hash(certificate.hash());
        }
        if let Some(quic) = self.quic {
            builder = builder.quic_port(quic.port());
        }
        builder
    }

    /// Makes a token that holds so many seconds.
    pub async fn mint(&self, user: &str, seconds: u32) -> String {
        let mut command = Command::new(binary());
        command.args([
            "token",
            "--user",
            user,
            "--rights",
            "subscribe,publish@chat.**",
            "--ttl",
            &format!("{seconds}s"),
        ]);
        let output = command.arg("--config").arg(self.folder.join("lanecast.toml")).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub fn client(&self, user: &str) -> Client {
        let address = match (self.wire, self.quic) {
            (Wire::Quic, Some(quic)) => quic,
            _ => self.address,
        };
        self.builder_at(address, user).connect().unwrap()
    }
}

/// Waits until the node says where it takes QUIC.
async fn listening_quic(lines: &mut Lines<BufReader<ChildStdout>>) -> SocketAddr {
    let find = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the node ended");
            if let Some(address) = line.strip_prefix("listening on quic://") {
                return address.trim_end_matches('/').parse().unwrap();
            }
        }
    };
    super::soon(find).await
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
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
