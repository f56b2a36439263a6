//! The engine on a real Redis: the contract suite, and what a shared store adds to it.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::*;
use crate::engine::MemoryOptions;
use crate::engine::contract::{Started, Subject};

/// A Redis that ends with this process: the shell waits for the end of its input, which this process holds open.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
}

impl Server {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If redis-server is not installed or does not answer: `./test` installs it.
    pub(crate) fn start(options: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("sh")
            .args(["-c", "redis-server \"$@\" > /dev/null & read _; kill -9 $!", "redis"])
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(options)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let server = Self { process, url: format!("redis://127.0.0.1:{port}") };
        for _ in 0..250 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no redis-server answers: install Debian's package redis-server");
    }

    /// The one that tests share, each with a prefix of its own.
    pub(crate) fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(&[]))
    }

    /// Options for a store of its own in this Redis.
    pub(crate) fn options(&self) -> RedisOptions {
        let prefix = format!("t{:08x}", rand::random::<u32>());
        RedisOptions {
            url: self.url.as_str().into(),
            prefix: prefix.into(),
            beside_others: true,
            ..RedisOptions::default()
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

pub(in crate::engine) struct RedisSubject;

#[async_trait]
impl Subject for RedisSubject {
    async fn start(&self, options: MemoryOptions, clock: Clock, sink: Arc<dyn EngineSink>) -> Started {
        let options = RedisOptions { room_signals_max: options.room_signals_max, ..Server::shared().options() };
        let engine = RedisEngine::start(options, clock, sink).await.unwrap();
        while !(engine.inner.events.is_settled() && engine.inner.signals.is_settled()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let inner = Arc::clone(&engine.inner);
        let settle = Box::new(move || {
            let inner = Arc::clone(&inner);
            Box::pin(async move { inner.settled().await }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        });
        Started { engine: Arc::new(engine), settle }
    }

    fn holds_rooms(&self) -> bool {
        false
    }
}
