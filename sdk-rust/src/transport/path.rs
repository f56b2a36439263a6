//! Whether the way to the node still begins where it did: noticed without a hint of the application, on every system.
//!
//! A device that changes its network loses the address from which its connection went, or gets another one that leads to
//! the node. Neither shows on the connection itself before something is sent and not answered, on TCP for minutes.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How often somebody should look.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How the way is, compared with the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Same,
    /// It begins at another address, or leads somewhere again.
    Moved,
    /// The address to which the connection is bound is gone: nothing will come to it.
    Gone,
}

/// The way of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    peer: SocketAddr,
    /// The address to which the connection is bound; `None`: the system may send from any.
    bound: Option<SocketAddr>,
    /// From where the system would go to the peer; `None`: nowhere leads there.
    from: Option<IpAddr>,
}

impl Path {
    /// The way to a peer; `None`: it does not leave the device.
    pub(super) fn new(peer: SocketAddr, bound: Option<SocketAddr>) -> Option<Self> {
        (!peer.ip().to_canonical().is_loopback()).then(|| Self { peer, bound, from: from(peer) })
    }

    /// The connection is gone, and with it what it was bound to.
    pub(crate) fn unbind(&mut self) {
        self.bound = None;
    }

    /// Looks. It costs some system calls that wait for nothing, and sends nothing.
    pub(crate) fn look(&mut self) -> Way {
        let is_there = self.bound.is_none_or(exists);
        self.judge(from(self.peer), is_there)
    }

    fn judge(&mut self, from: Option<IpAddr>, is_there: bool) -> Way {
        let before = std::mem::replace(&mut self.from, from);
        match is_there {
            false => Way::Gone,
            // A way that leads nowhere may come back; until then there is nothing to try.
            true if from.is_some() && from != before => Way::Moved,
            true => Way::Same,
        }
    }
}

/// From where the system would send to a peer.
fn from(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if peer.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether this device has an address.
fn exists(mut address: SocketAddr) -> bool {
    address.set_port(0);
    // Whatever else goes wrong, no descriptor left for example, says nothing of the address.
    !matches!(UdpSocket::bind(address), Err(error) if error.kind() == ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn what_changes_is_told_once() {
        let peer = (address(1), 443).into();
        let mut path = Path { peer, bound: None, from: Some(address(2)) };
        assert_eq!(path.judge(Some(address(2)), true), Way::Same);
        assert_eq!(path.judge(Some(address(3)), true), Way::Moved);
        assert_eq!(path.judge(Some(address(3)), true), Way::Same);
        assert_eq!(path.judge(None, true), Way::Same, "nothing can be tried");
        assert_eq!(path.judge(Some(address(3)), true), Way::Moved, "it leads somewhere again");
        assert_eq!(path.judge(None, false), Way::Gone);
        path.unbind();
        assert_eq!(path.judge(Some(address(4)), true), Way::Moved, "there is something to try");
    }

    #[test]
    fn an_address_of_this_device_exists_and_another_does_not() {
        assert!(exists((Ipv4Addr::LOCALHOST, 1).into()));
        // TEST-NET-1, which nobody has.
        assert!(!exists((address(1), 1).into()));
        assert_eq!(from((Ipv4Addr::LOCALHOST, 9).into()), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn nothing_is_watched_on_the_device_itself() {
        assert!(Path::new((Ipv4Addr::LOCALHOST, 1).into(), None).is_none());
        assert!(Path::new(("::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap(), 1).into(), None).is_none());
    }
}
