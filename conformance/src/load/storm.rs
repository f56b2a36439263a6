//! How fast connections can be opened and joined.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;

use super::link::Link;
use super::{quantile, table};
use crate::client::Transport;
use crate::target::Target;
use crate::verdict::Outcome;

pub(super) async fn run(
    target: Arc<Target>,
    transport: Transport,
    connections: usize,
    at_once: usize,
) -> Outcome<String> {
    let run = crate::target::now_ms();
    let started = Instant::now();
    let joins = futures_util::stream::iter(0..connections).map(|number| {
        let target = target.clone();
        async move {
            let began = Instant::now();
            let name = format!("storm-{run}-{number}");
            let link = Link::join(&target, transport, &name, &[format!("conform.load.{run}.{}", number % 100)]).await;
            (link, began.elapsed().as_micros() as u64)
        }
    });
    let results: Vec<_> = joins.buffer_unordered(at_once.max(1)).collect().await;
    let seconds = started.elapsed().as_secs_f64();
    let refused = results.iter().filter(|(link, _)| link.is_err()).count();
    let mut micros: Vec<u64> = results.iter().filter(|(link, _)| link.is_ok()).map(|(_, micros)| *micros).collect();
    micros.sort_unstable();
    let ms = |part| format!("{:.2} ms", quantile(&micros, part) as f64 / 1e3);
    Ok(table(&[
        ("transport", transport.name().to_owned()),
        ("connections joined", (connections - refused).to_string()),
        ("refused or failed", refused.to_string()),
        ("seconds", format!("{seconds:.2}")),
        ("joins per second", format!("{:.0}", (connections - refused) as f64 / seconds)),
        ("handshake to Subscribed p50", ms(0.5)),
        ("handshake to Subscribed p99", ms(0.99)),
        ("handshake to Subscribed max", ms(1.0)),
    ]))
}
