//! Where a client connects to, and over what.

use tokio_tungstenite::tungstenite::http::Uri;

use crate::error::{ConnectError, ConnectErrorKind};

/// The path of the WebSocket endpoint where an address names none.
const PATH: &str = "/v1/connect";
/// The port of QUIC where neither the address nor the application names one. Nothing is asked over TCP for it, since
/// QUIC has to work where TCP does not.
pub(crate) const QUIC_PORT: u16 = 8443;

/// What an address allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// `ws://`, `http://`: WebSocket in the clear.
    Plain,
    /// `wss://`: WebSocket over TLS.
    Tls,
    /// `quic://`: QUIC.
    Quic,
    /// `https://`: QUIC or WebSocket over TLS, whichever works.
    Any,
}

impl Scheme {
    fn of(name: Option<&str>) -> Option<Self> {
        match name? {
            "ws" | "http" => Some(Self::Plain),
            "wss" => Some(Self::Tls),
            "quic" => Some(Self::Quic),
            "https" => Some(Self::Any),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "ws",
            Self::Tls => "wss",
            Self::Quic => "quic",
            Self::Any => "https",
        }
    }

    const fn is_secret(self) -> bool {
        !matches!(self, Self::Plain)
    }

    const fn port(self) -> u16 {
        match self {
            Self::Plain => 80,
            Self::Tls | Self::Any => 443,
            Self::Quic => QUIC_PORT,
        }
    }
}

/// A checked address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    /// A name or an IP address, without brackets.
    pub(crate) host: String,
    /// Of TCP, or of UDP where only QUIC is meant.
    pub(crate) port: u16,
    /// Of the WebSocket endpoint.
    path: String,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        let bad = |detail: String| ConnectError::local(ConnectErrorKind::BadUrl, detail);
        let uri: Uri = url.parse().map_err(|error| bad(format!("{url:?}: {error}")))?;
        let Some(scheme) = Scheme::of(uri.scheme_str()) else {
            return Err(bad(format!("{url:?} begins with none of ws://, wss://, quic://, https:// and http://")));
        };
        if scheme == Scheme::Quic && !cfg!(feature = "quic") {
            let detail = "quic:// needs the feature `quic` of the crate";
            return Err(ConnectError::local(ConnectErrorKind::UnsupportedScheme, detail));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(bad("an address holds no user and password: credentials travel in the token".into()));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(bad(format!("{url:?} names no host")));
        }
        let path = match uri.path_and_query() {
            Some(path) if path.as_str() != "/" => path.as_str().to_owned(),
            _ => PATH.to_owned(),
        };
        if scheme == Scheme::Quic && path != PATH {
            return Err(bad(format!("{url:?}: an address of QUIC has no path")));
        }
        Ok(Self { scheme, host, port: uri.port_u16().unwrap_or(scheme.port()), path })
    }

    /// The target that a node names in GoAway: an address, or another host and port for the same scheme. Never one that
    /// would send the token in the clear where this one does not.
    pub(crate) fn moved(&self, address: &str) -> Result<Self, ConnectError> {
        let address = match address.contains("://") {
            true => address.to_owned(),
            false => format!("{}://{address}{}", self.scheme.name(), self.path),
        };
        let moved = Self::parse(&address)?;
        if self.scheme.is_secret() && !moved.scheme.is_secret() {
            let detail = format!("{address:?} is not encrypted, and the address before was");
            return Err(ConnectError::local(ConnectErrorKind::BadUrl, detail));
        }
        Ok(moved)
    }

    /// Whether what is sent there is encrypted.
    pub(crate) fn is_secret(&self) -> bool {
        self.scheme.is_secret()
    }

    /// Whether only QUIC leads there.
    pub(crate) fn is_quic_only(&self) -> bool {
        self.scheme == Scheme::Quic
    }

    /// Host and port, as HTTP writes them.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The address of the WebSocket endpoint.
    pub(crate) fn websocket(&self) -> Result<Uri, String> {
        let scheme = if self.scheme.is_secret() { "wss" } else { "ws" };
        let uri = Uri::builder().scheme(scheme).authority(self.authority()).path_and_query(self.path.as_str()).build();
        uri.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<(Scheme, String), ConnectErrorKind> {
        let target = Target::parse(url).map_err(|error| error.kind)?;
        Ok((target.scheme, target.websocket().unwrap().to_string()))
    }

    #[test]
    fn addresses_are_checked_and_completed() {
        assert_eq!(parsed("ws://a:1"), Ok((Scheme::Plain, "ws://a:1/v1/connect".into())));
        assert_eq!(parsed("http://a/"), Ok((Scheme::Plain, "ws://a:80/v1/connect".into())));
        assert_eq!(parsed("ws://[::1]:8080/x?y=z"), Ok((Scheme::Plain, "ws://[::1]:8080/x?y=z".into())));
        assert_eq!(parsed("wss://a"), Ok((Scheme::Tls, "wss://a:443/v1/connect".into())));
        assert_eq!(parsed("https://a:8443/x"), Ok((Scheme::Any, "wss://a:8443/x".into())));
        for bad in ["", "a:1", "ftp://a", "ws://", "https://", "ws://user:pw@a/", "/v1/connect"] {
            assert_eq!(parsed(bad), Err(ConnectErrorKind::BadUrl), "{bad:?}");
        }
    }

    #[cfg(feature = "quic")]
    #[test]
    fn an_address_of_quic_has_a_port_of_its_own_and_no_path() {
        let target = Target::parse("quic://a").unwrap();
        assert_eq!((target.scheme, target.port), (Scheme::Quic, QUIC_PORT));
        assert_eq!(Target::parse("quic://[::1]:7").unwrap().host, "::1");
        assert_eq!(parsed("quic://a/x"), Err(ConnectErrorKind::BadUrl));
    }

    #[test]
    fn a_node_may_name_another_address_but_none_in_the_clear() {
        // LC-LIFE-022
        let moved = |from: &str, to: &str| Target::parse(from).unwrap().moved(to).map(|to| (to.scheme, to.authority()));
        assert_eq!(moved("ws://a:1/path", "b:2").unwrap(), (Scheme::Plain, "b:2".into()));
        assert_eq!(Target::parse("ws://a:1/path").unwrap().moved("b:2").unwrap().path, "/path");
        assert_eq!(moved("ws://a:1", "wss://c").unwrap(), (Scheme::Tls, "c:443".into()));
        assert_eq!(moved("https://a", "b").unwrap(), (Scheme::Any, "b:443".into()));
        assert!(moved("https://a", "ws://a").is_err());
        assert!(moved("wss://a", "http://a").is_err());
    }
}
