//! From a name to a connection, over whichever of its addresses works.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// Addresses of one name that are tried; more would only take longer than an attempt may.
const ADDRESSES_MAX: usize = 8;
/// How long one address may keep the next one waiting (RFC 8305 calls it the connection attempt delay).
const NEXT_AFTER: Duration = Duration::from_millis(150);

/// The addresses of a host, families in turn: where one family leads nowhere, the second attempt is of the other.
pub(super) async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    Ok(in_turn(found.collect()))
}

fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first() else { return found };
    let leading = first.is_ipv6();
    let (mut these, mut others): (VecDeque<_>, VecDeque<_>) =
        found.into_iter().partition(|address| address.is_ipv6() == leading);
    let mut turns = Vec::new();
    while turns.len() < ADDRESSES_MAX && !(these.is_empty() && others.is_empty()) {
        turns.extend(these.pop_front());
        turns.extend(others.pop_front());
    }
    turns.truncate(ADDRESSES_MAX);
    turns
}

/// Connects to the addresses, each begun a moment after the one before or as soon as that failed. The first that succeeds
/// wins, the others are dropped.
pub(super) async fn first_of<T, F>(addresses: Vec<SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = "the name has no address".to_owned();
    loop {
        match waiting.next() {
            Some(address) => running.push(connect(address)),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(connected) = running.next() => match connected {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(NEXT_AFTER), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let found = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(address).to_vec();
        assert_eq!(in_turn(found), ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(address));
        assert_eq!(in_turn(Vec::new()), []);
        assert_eq!(in_turn(vec![address("1.1.1.1:1"); 20]).len(), ADDRESSES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_silent_does_not_keep_the_next_one_waiting() {
        let addresses = vec![address("1.1.1.1:1"), address("1.1.1.1:2"), address("1.1.1.1:3")];
        let began = Instant::now();
        let connect = |address: SocketAddr| async move {
            match address.port() {
                1 => std::future::pending().await,
                2 => Err("refused".to_owned()),
                port => Ok(port),
            }
        };
        assert_eq!(first_of(addresses.clone(), connect).await, Ok(3));
        assert_eq!(began.elapsed(), NEXT_AFTER);
        let refused = |_| async { Err::<(), _>("refused".to_owned()) };
        assert_eq!(first_of(addresses, refused).await, Err("refused".into()));
        assert!(first_of(Vec::new(), refused).await.is_err());
    }
}
