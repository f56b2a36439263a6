//! `lanecast serve`: the life of a node.

use std::io::{ErrorKind, IsTerminal as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::lan::{Lan, Which};
use crate::clock::Clock;
use crate::config::{Config, EngineKind};
use crate::http::listener::Listener;
use crate::node::Node;
use crate::transport::quic::QuicListener;
use crate::transport::upgrade;
use crate::{api, cluster, http, telemetry};

/// How often idle rooms, old events and expired signals are looked for.
const HOUSEKEEP_EVERY: Duration = Duration::from_secs(5);
/// Time behind the deadline of a drain, at which connections say why they end: those with streams give their client a
/// second to close (LC-QUIC-006).
const GOODBYE: Duration = Duration::from_millis(1_500);

#[derive(Debug, Default, Args)]
pub(super) struct Serve {
    /// Development: take tokens "dev:<user>" and the API key "dev-key", on a loopback address only.
    #[arg(long)]
    dev: bool,
    /// Development: let phones on the local network into the demo room, and draw a QR code for them. ADDRESS is the one
    /// of this machine on that network; it is found if there is only one.
    #[arg(
        long,
        requires = "dev",
        value_name = "ADDRESS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    lan: Option<Which>,
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "LANECAST_CONFIG")]
    config: Option<PathBuf>,
    /// Listen here instead of where the configuration says; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Serve QUIC and WebTransport here (UDP) instead of where the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    quic: Option<SocketAddr>,
    /// Keep rooms in this Redis instead of where the configuration says: redis://user:password@host:port.
    #[arg(long, value_name = "URL", env = "LANECAST_REDIS")]
    redis: Option<String>,
    /// Write each record by itself: the other half of the coalescing bench.
    #[arg(long, hide = true)]
    one_write_each: bool,
}

impl Serve {
    /// What `lanecast` without arguments does.
    pub(super) fn development() -> Self {
        Self { dev: true, ..Self::default() }
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let mut config = self.config()?;
        let clock = Clock::system();
        let lan = self.lan.map(|which| Lan::open(which, &mut config, clock.now_ms())).transpose()?;
        telemetry::init(&config.log)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let node = Node::start(config, clock).await?;
            serve(Arc::new(Node { one_write_each: self.one_write_each, ..node }), lan).await
        })
    }

    /// The configuration with what the command line says.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let mut config = match &self.config {
            Some(file) => Config::load(file)?,
            None => Config::default(),
        };
        config.dev = self.dev;
        if let Some(address) = self.listen {
            config.listen.address = address;
            if self.dev {
                // Beside a node on the usual ports, or many in a test.
                config.listen.quic = Some(SocketAddr::new(address.ip(), 0));
            }
        }
        if let Some(address) = self.quic {
            config.listen.quic = Some(address);
        }
        if let Some(url) = &self.redis {
            config.engine.kind = EngineKind::Redis;
            config.redis.url.clone_from(url);
            config.redis.url_file = None;
        }
        let addresses = [Some(config.listen.address), config.listen.quic];
        if let Some(address) = addresses.into_iter().flatten().find(|address| !address.ip().is_loopback())
            && config.dev
        {
            return Err(format!(
                "--dev takes tokens that anyone can make up, so it listens on loopback addresses only, not on {address}"
            )
            .into());
        }
        let published = config.tokens.jwks_file.is_some() || config.tokens.jwks_url.is_some();
        if !config.dev && !published && config.token_keys.is_empty() && config.api_keys.is_empty() {
            return Err(
                "nobody could connect: the configuration has neither a key for user tokens (tokens.hs256_secret_file, \
                        [[tokens.keys]], tokens.jwks_url) nor an API key; give --config FILE (see `lanecast config \
                        reference`), or --dev to try things out"
                    .into(),
            );
        }
        Ok(config)
    }
}

/// The node's life: bind, say where, serve, wait for a signal, drain.
async fn serve(node: Arc<Node>, lan: Option<Lan>) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = Listener::bind(node.clone())
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", node.config.listen.address))?;
    let address = listener.address()?;
    let router = http::router(node.clone(), upgrade::routes().merge(api::routes(node.config.dev)));
    let quic = bind_quic(&node, address.port())?;
    node.cluster.listens_at(address);
    cluster::join(&node).await;
    let keyed = node.clone();
    let keeping_keys = tokio::spawn(async move { keyed.auth.keep_keys(&keyed.metrics).await });
    node.auth.keys_read().await;
    let beside = match &lan {
        Some(lan) => Some(open_to_network(&listener, SocketAddr::new(lan.address, address.port())).await?),
        None => None,
    };
    let accepting_beside = beside.map(|beside| tokio::spawn(beside.serve(router.clone())));
    let accepting = tokio::spawn(listener.serve(router));
    let accepting_quic = quic.map(|quic| tokio::spawn(quic.serve()));
    let housekeeping = tokio::spawn(housekeep(node.clone()));
    let in_cluster = tokio::spawn(cluster::run(node.clone()));
    let watched = node.clone();
    let watching = tokio::spawn(async move { tokio::join!(watched.watch_store(), watched.watch_certificate()) });
    node.health.set_started();
    announce(&node, address, lan.as_ref());

    tokio::select! {
        _ = interrupt.recv() => tracing::info!("SIGINT: draining; once more ends at once"),
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
    }
    let deadline = Duration::from_millis(node.config.drain.deadline_ms) + GOODBYE;
    node.shutdown.begin();
    let dropped = tokio::select! {
        dropped = node.shutdown.drain(deadline) => dropped,
        _ = interrupt.recv() => node.shutdown.drain(Duration::ZERO).await,
    };
    // The loop ends when the node is closed, which it is now.
    accepting.await?;
    for accepting in [accepting_beside, accepting_quic].into_iter().flatten() {
        accepting.await?;
    }
    housekeeping.abort();
    in_cluster.abort();
    watching.abort();
    keeping_keys.abort();
    // Ends with the abort: nothing renews the lease any more.
    let _ = in_cluster.await;
    cluster::retire(&node).await;
    tracing::info!(dropped, "the node has ended");
    Ok(())
}

/// Binds the address of QUIC, if there is one and a certificate for it.
fn bind_quic(node: &Arc<Node>, http_port: u16) -> Result<Option<QuicListener>, Failure> {
    let Some(address) = node.config.listen.quic.filter(|_| node.tls.is_some()) else { return Ok(None) };
    let bound = match QuicListener::bind(node.clone(), address, http_port) {
        // In development the page asks the node where QUIC is.
        Err(error) if error.kind() == ErrorKind::AddrInUse && node.config.dev => {
            tracing::warn!(%address, "the address of QUIC is taken: another port is used");
            QuicListener::bind(node.clone(), SocketAddr::new(address.ip(), 0), http_port)
        }
        bound => bound,
    };
    let quic = bound.map_err(|error| format!("cannot serve QUIC on {address}: {error}"))?;
    // Set here and nowhere else.
    let _ = node.quic_address.set(quic.address());
    Ok(Some(quic))
}

async fn open_to_network(listener: &Listener, address: SocketAddr) -> Result<Listener, Failure> {
    listener.beside(address).await.map_err(|error| format!("cannot open {address} to the network: {error}").into())
}

async fn housekeep(node: Arc<Node>) {
    loop {
        tokio::time::sleep(HOUSEKEEP_EVERY).await;
        node.housekeep().await;
    }
}

fn announce(node: &Node, address: SocketAddr, lan: Option<&Lan>) {
    // One line for programs that start a node and read where it listens.
    let scheme = if node.config.speaks_tls() { "https" } else { "http" };
    println!("listening on {scheme}://{address}/");
    if let Some(quic) = node.quic_address.get() {
        println!("listening on quic://{quic}");
    }
    tracing::info!(node = &*node.id, %address, version = env!("CARGO_PKG_VERSION"), "the node serves");
    if !node.config.dev {
        return;
    }
    let reach = match lan {
        None => "Only loopback connections are.".to_owned(),
        Some(lan) => format!("From {} only with the QR code.", lan.address),
    };
    eprintln!(
        "\n  ============================ DEVELOPMENT ============================\n  \
         Anyone on this machine may be anyone: tokens \"dev:<user>\" and the API\n  \
         key \"dev-key\" are taken. {reach}\n\n  \
         Page:  {scheme}://{address}/\n  \
         =====================================================================\n"
    );
    match lan {
        // A credential belongs on a screen that somebody looks at, and in no log.
        Some(lan) if std::io::stderr().is_terminal() => eprintln!("{}", lan.told(address.port())),
        Some(_) => eprintln!("  The QR code is drawn on a terminal only, since it holds a token.\n"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(address: &str, dev: bool) -> Result<Config, Failure> {
        Serve { dev, listen: Some(address.parse().unwrap()), ..Serve::default() }.config()
    }

    #[test]
    fn development_is_loopback_only() {
        assert!(listen("127.0.0.1:0", true).is_ok());
        assert!(listen("[::1]:0", true).is_ok());
        assert!(listen("0.0.0.0:8080", true).unwrap_err().0.contains("loopback"));
    }

    #[test]
    fn a_node_that_nobody_could_use_is_not_started() {
        assert!(listen("127.0.0.1:0", false).unwrap_err().0.contains("nobody could connect"));
    }
}
