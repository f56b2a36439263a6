//! `--dev --lan`: the demo on a phone that is on the same network.
//!
//! Promises: what the network gets is the page and, with the token in the QR code, the demo room for an hour; development
//! tokens and keys stay on this machine. Refuses: WebTransport, for which browsers want a secure context.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

use jsonwebtoken::EncodingKey;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use crate::auth::keys::{Algorithm, Key};
use crate::auth::rights::RightSpec;
use crate::auth::token::{Claims, LanecastClaim, Seconds, mint};
use crate::config::{Config, Secret};

/// Where the page meets everybody.
const ROOM: &str = "demo";
/// Who the phone is.
const USER: &str = "phone";
/// Id of the key that signs the phone's token.
const KID: &str = "lan";
/// What the page does there.
const VERBS: [&str; 4] = ["subscribe", "publish", "signal", "history"];
/// How long the token holds: for a look, not for a day.
const TOKEN_LIFE_S: u64 = 3_600;

/// Which address `--lan` opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The one by which this machine reaches others.
    Found,
    /// This one.
    Given(IpAddr),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Found);
        }
        let address: IpAddr = text.parse().map_err(|_| "expected an IP address of this machine".to_owned())?;
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err("expected the address of this machine on the local network".to_owned());
        }
        Ok(Self::Given(address))
    }
}

impl Which {
    fn address(self) -> Result<IpAddr, String> {
        let address = match self {
            Self::Given(address) => return Ok(address),
            Self::Found => found().ok_or("this machine seems to be on no network: give its address, --lan=ADDRESS")?,
        };
        if is_private(address) {
            return Ok(address);
        }
        Err(format!(
            "{address} is an address of the internet and not of a local network; if it is meant, give it: --lan={address}"
        ))
    }
}

/// The address by which this machine would reach another network. Connecting a UDP socket sends nothing: the system only
/// looks up its routes, and the addresses asked for are ones of documentation (RFC 5737, RFC 3849).
fn found() -> Option<IpAddr> {
    let ways: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    ways.into_iter().find_map(|(any, elsewhere)| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(elsewhere, 9)).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_unspecified() && !own.is_loopback()).then_some(own)
    })
}

fn is_private(address: IpAddr) -> bool {
    match address {
        // 100.64.0.0/10 is what providers and overlay networks hand out (RFC 6598).
        IpAddr::V4(v4) => {
            v4.is_private() || v4.is_link_local() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// The open address, and the token for whoever scans the code.
pub(super) struct Lan {
    pub(super) address: IpAddr,
    token: String,
}

impl Lan {
    /// Opens the configuration to the address: the node listens there too, and takes tokens of a key made now.
    ///
    /// # Errors
    /// If there is no such address, or the configuration leaves no room for the key.
    pub(super) fn open(which: Which, config: &mut Config, now_ms: u64) -> Result<Self, String> {
        let address = which.address()?;
        // A key of its own, in digits, whatever keys there are beside it.
        let secret = Secret::new(format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()).as_bytes());
        let signs = EncodingKey::from_secret(secret.expose());
        let token = mint(&claims(&config.tokens, now_ms), Algorithm::Hs256, Some(KID.to_owned()), &signs)?;
        config.token_keys.push(Key::from_secret(Some(KID), secret)?);
        config.lan = Some(address);
        Ok(Self { address, token })
    }

    /// What the code holds. The token stands in the fragment, which a browser keeps to itself: it is in no request, no
    /// log of a node or proxy, and no Referer, and the page takes it out of the address bar at once (LC-SEC-002).
    fn url(&self, port: u16) -> String {
        format!("http://{}/#token={}", SocketAddr::new(self.address, port), self.token)
    }

    /// The code and what it is for, for a terminal.
    pub(super) fn told(&self, port: u16) -> String {
        let url = self.url(port);
        let drawn = QrCode::with_error_correction_level(&url, EcLevel::L).map(|code| {
            // Black on white whatever the terminal's colours are: not every camera reads it the other way round.
            let image = code.render::<Dense1x2>().build();
            image.lines().map(|line| format!("  \x1b[30;107m{line}\x1b[0m\n")).collect::<String>()
        });
        format!(
            "{}\n  On a phone on the same network: scan this, or open\n  {url}\n  It lets whoever has it into the room \
             {ROOM:?} for an hour, by WebSocket.\n",
            drawn.unwrap_or_default(),
        )
    }
}

fn claims(options: &crate::config::TokenOptions, now_ms: u64) -> Claims {
    let allow = VERBS.iter().map(ToString::to_string).collect();
    let right = RightSpec { allow, rooms: vec![ROOM.to_owned()], types: None, lane: None };
    Claims {
        sub: USER.to_owned(),
        device: None,
        exp: Seconds(now_ms / 1_000 + TOKEN_LIFE_S),
        nbf: None,
        iat: None,
        aud: options.audience.clone().map(crate::auth::token::OneOrMany::One),
        iss: options.issuer.clone(),
        jti: None,
        lanecast: Some(LanecastClaim { rights: vec![right], signals_per_second: None }),
    }
}

#[cfg(test)]
mod tests;
