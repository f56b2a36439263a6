//! The server under test: where it is, how to get tokens for it, and what may be done to it.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::client::http::{Request, Response, request};
use crate::client::socket::Tls;
use crate::client::{Dialer, Pins, Transport, Trust, WireLog};
use crate::control::Control;
use crate::verdict::{Outcome, Stop};

/// The secret of the fixture (see control.md), with which the suite signs tokens.
pub const FIXTURE_SECRET: &str = "lanecast-conform-secret-0123456789abcdef";
/// The fixture's second secret, and the id of its key.
pub const FIXTURE_SECOND: (&str, &str) = ("conform-2", "lanecast-conform-second-secret-0123456789ab");
/// A key that the fixture had once and has no more.
pub const FIXTURE_RETIRED: (&str, &str) = ("conform-0", "lanecast-conform-retired-secret-0123456789a");
/// The API keys of the fixture: all rooms, all rooms under another name, `conform.limited.**` only.
pub const FIXTURE_API_KEYS: [&str; 3] = ["lanecast-conform-key-1", "lanecast-conform-key-2", "lanecast-conform-key-3"];

/// Every right, for the tokens of cases that say nothing about rights.
pub const ALL_RIGHTS: [&str; 9] = [
    "subscribe",
    "publish",
    "signal",
    "history",
    "presence.enter",
    "presence.watch",
    "members.read",
    "members.manage",
    "mark",
];

/// Address of an endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of the endpoint; raw QUIC has none.
    pub path: String,
    /// How TLS is spoken, where TCP connections need it.
    pub tls: Option<Tls>,
}

impl Endpoint {
    /// An endpoint without TLS.
    pub fn plain(host: &str, port: u16, path: &str) -> Self {
        Self { host: host.to_owned(), port, path: path.to_owned(), tls: None }
    }

    /// Parses `ws://host:port/path`, `http://host:port` or one of both with `s`, for which the trust holds. Without a
    /// path it is `/v1/connect`.
    pub fn parse(url: &str, trust: &Trust) -> Result<Self, String> {
        let schemes = [("ws://", 80), ("http://", 80), ("wss://", 443), ("https://", 443)];
        let (rest, default) = schemes
            .into_iter()
            .find_map(|(scheme, port)| Some((url.strip_prefix(scheme)?, port)))
            .ok_or_else(|| format!("{url}: only ws://, http://, wss:// and https:// are known"))?;
        let tls = if default == 443 { Some(Tls::new(trust)?) } else { None };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_port(authority, default).ok_or_else(|| format!("{url}: {authority} has no port"))?;
        let path = if path.len() > 1 { path } else { "/v1/connect" };
        Ok(Self { host, port, path: path.to_owned(), tls })
    }

    /// Parses `quic://host:port`.
    pub fn parse_quic(url: &str) -> Result<Self, String> {
        let authority = url.strip_prefix("quic://").ok_or_else(|| format!("{url}: write quic://host:port"))?;
        let (host, port) =
            split_port(authority.trim_end_matches('/'), 8443).ok_or_else(|| format!("{url}: no port"))?;
        Ok(Self::plain(&host, port, ""))
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Host and port as in a Host header.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The certificate hashes of a discovery document.
fn hashes(discovery: &Value) -> Vec<[u8; 32]> {
    let decode = |text: &Value| base64::engine::general_purpose::STANDARD.decode(text.as_str()?).ok()?.try_into().ok();
    discovery["webtransport"]["certificateHashes"].as_array().into_iter().flatten().filter_map(decode).collect()
}

/// Host and port of an authority; IPv6 addresses stand in brackets.
fn split_port(authority: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    Some((host.trim_matches(['[', ']']).to_owned(), port))
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// `dev:<user>`, which has all rights.
    Dev,
    /// The suite signs JWTs with this secret (HS256).
    Jwt(String),
    /// A shell command with `{user}`, `{rights}` (JSON) and optionally `{expires_s}` prints one.
    Command(String),
}

/// A token that a case wants.
#[derive(Clone, Debug, Default)]
pub struct TokenWish {
    /// User.
    pub user: String,
    /// Rights; `None`: all, in all rooms that are not reserved.
    pub rights: Option<Value>,
    /// Lifetime; negative: expired.
    pub expires_s: Option<i64>,
    /// Claims to add or, with null, to leave out. Needs a secret.
    pub claims: Option<Value>,
    /// Sign with another secret.
    pub bad_signature: bool,
    /// The `alg` of the header.
    pub alg: Option<String>,
    /// Further fields of the header.
    pub header: Option<Value>,
    /// Sign with another key of the fixture: `second`, under its id, or `retired`.
    pub key: Option<String>,
}

/// The server under test.
pub struct Target {
    /// Its WebSocket endpoint.
    pub endpoint: Endpoint,
    /// Its HTTP API, if that is elsewhere.
    pub api: Option<Endpoint>,
    /// Where tokens come from.
    pub tokens: Tokens,
    /// API keys: first and second with all rights, third with rights in `conform.limited.**` only.
    pub api_keys: Vec<String>,
    /// The fixture's room policies hold (see control.md).
    pub fixture: bool,
    /// What may be done to it.
    pub control: Control,
    /// How long to wait for anything that should come at once.
    pub patience: Duration,
    /// The answer of `/.well-known/lanecast`; null if there is none.
    pub discovery: Value,
    /// Whom to trust on QUIC; `None`: the certificates that discovery names, or whom the system trusts.
    pub trust: Option<Trust>,
    /// Where raw QUIC is, if discovery does not say it.
    pub quic: Option<Endpoint>,
    /// The certificates that discovery names.
    pins: Pins,
    /// Made at the first connection over QUIC.
    dialer: OnceLock<Result<Dialer, String>>,
}

impl Target {
    /// A server of which nothing else is known.
    pub fn new(endpoint: Endpoint, tokens: Tokens) -> Self {
        Self {
            endpoint,
            api: None,
            tokens,
            api_keys: Vec::new(),
            fixture: false,
            control: Control::None,
            patience: Duration::from_secs(5),
            discovery: Value::Null,
            trust: None,
            quic: None,
            pins: Pins::default(),
            dialer: OnceLock::new(),
        }
    }

    /// Asks the server what it is.
    pub async fn discover(&mut self) -> Outcome {
        let response = self.http("GET", "/.well-known/lanecast", &[], None, &WireLog::default()).await?;
        self.discovery = if response.status == 200 { response.json() } else { Value::Null };
        self.pins.set(hashes(&self.discovery));
        if let Some(path) = self.discovery["websocket"].as_str()
            && path.starts_with('/')
        {
            self.endpoint.path = path.to_owned();
        }
        Ok(())
    }

    /// A server that was started anew may have another certificate.
    pub async fn came_back(&self) -> Outcome {
        let response = self.http("GET", "/.well-known/lanecast", &[], None, &WireLog::default()).await?;
        self.pins.set(hashes(&response.json()));
        Ok(())
    }

    /// Whether discovery names a capability such as `CAPABILITY_HISTORY`; `None`: there is no discovery.
    pub fn advertises(&self, capability: &str) -> Option<bool> {
        let list = self.discovery["capabilities"].as_array()?;
        Some(list.iter().any(|name| name == capability))
    }

    /// Whether discovery names a subprotocol; without discovery every one is tried.
    pub fn speaks(&self, subprotocol: &str) -> bool {
        self.discovery["subprotocols"].as_array().is_none_or(|list| list.iter().any(|name| name == subprotocol))
    }

    /// What it says that carries packets to it; without discovery it is WebSocket.
    pub fn transports(&self) -> Vec<Transport> {
        Transport::ALL.into_iter().filter(|transport| self.carries(*transport)).collect()
    }

    /// Whether it serves a transport, as far as discovery or the command line say.
    pub fn carries(&self, transport: Transport) -> bool {
        match transport {
            Transport::Websocket => true,
            _ => self.stream_endpoint(transport).is_ok(),
        }
    }

    /// Where it takes QUIC connections of that kind.
    pub fn stream_endpoint(&self, transport: Transport) -> Outcome<Endpoint> {
        let said = &self.discovery[if transport == Transport::Quic { "quic" } else { "webtransport" }];
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        match (port, &self.quic) {
            (_, Some(quic)) if transport == Transport::Quic => Ok(quic.clone()),
            (Some(port), _) => {
                Ok(Endpoint::plain(&self.endpoint.host, port, said["path"].as_str().unwrap_or("/v1/connect")))
            }
            (None, _) => Err(Stop::Unsupported(format!("{} is not advertised", transport.name()))),
        }
    }

    /// What opens QUIC connections to it.
    pub(crate) fn dialer(&self) -> Outcome<&Dialer> {
        let dialer = self.dialer.get_or_init(|| Dialer::new(&self.quic_trust()));
        dialer.as_ref().map_err(|error| Stop::Harness(error.clone()))
    }

    /// Hashes that come unprotected over a network prove nothing; on this machine they do.
    fn quic_trust(&self) -> Trust {
        let said = !hashes(&self.discovery).is_empty();
        match &self.trust {
            Some(trust) => trust.clone(),
            None if said && (self.endpoint.is_loopback() || self.endpoint.tls.is_some()) => {
                Trust::Hashes(self.pins.clone())
            }
            None => Trust::System,
        }
    }

    /// Where its HTTP API is.
    pub fn api(&self) -> &Endpoint {
        self.api.as_ref().unwrap_or(&self.endpoint)
    }

    /// Makes a request of the API.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
        log: &WireLog,
    ) -> Outcome<Response> {
        let what = Request { method, path, headers, body };
        request(self.api(), &what, self.patience.max(Duration::from_secs(5)), log).await
    }

    /// Makes a token.
    pub async fn token(&self, wish: &TokenWish) -> Outcome<String> {
        match &self.tokens {
            Tokens::Jwt(secret) => Ok(jwt(secret, wish)),
            Tokens::Dev if plain(wish) && wish.rights.is_none() && wish.expires_s.is_none() => {
                Ok(format!("dev:{}", wish.user))
            }
            Tokens::Dev => {
                Err(Stop::Skipped("needs tokens with chosen rights: --fixture, --jwt-secret or --token-cmd".into()))
            }
            Tokens::Command(command) if plain(wish) => {
                if wish.expires_s.is_some() && !command.contains("{expires_s}") {
                    return Err(Stop::Skipped("needs {expires_s} in --token-cmd".into()));
                }
                let rights = wish.rights.clone().unwrap_or_else(all_rights).to_string();
                let command = command
                    .replace("{user}", &quote(&wish.user))
                    .replace("{rights}", &quote(&rights))
                    .replace("{expires_s}", &wish.expires_s.unwrap_or(3600).to_string());
                let output = tokio::process::Command::new("sh").arg("-c").arg(&command).output().await;
                let output = output.map_err(Stop::harness)?;
                if !output.status.success() {
                    let complaint = String::from_utf8_lossy(&output.stderr);
                    return Err(Stop::Harness(format!("{command}: {}: {complaint}", output.status)));
                }
                Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
            }
            Tokens::Command(_) => Err(Stop::Skipped("needs to sign tokens itself: --fixture or --jwt-secret".into())),
        }
    }
}

fn plain(wish: &TokenWish) -> bool {
    wish.claims.is_none() && !wish.bad_signature && wish.alg.is_none() && wish.header.is_none() && wish.key.is_none()
}

/// All rights in all rooms that are not reserved.
pub fn all_rights() -> Value {
    json!([{"allow": ALL_RIGHTS, "rooms": ["**"]}])
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Signs a token (JWT profile, HS256).
pub fn jwt(secret: &str, wish: &TokenWish) -> String {
    let now = (now_ms() / 1000) as i64;
    let mut claims = json!({
        "sub": wish.user,
        // A moment ago: another clock may be a little behind at the turn of a second.
        "iat": now - 1,
        "exp": now + wish.expires_s.unwrap_or(3600),
        "lanecast": {"rights": wish.rights.clone().unwrap_or_else(all_rights)},
    });
    if let (Some(Value::Object(extra)), Some(claims)) = (&wish.claims, claims.as_object_mut()) {
        for (name, value) in extra {
            match value {
                Value::Null => claims.remove(name),
                _ => claims.insert(name.clone(), value.clone()),
            };
        }
    }
    let mut header = json!({"alg": wish.alg.as_deref().unwrap_or("HS256"), "typ": "JWT"});
    let (kid, secret) = match wish.key.as_deref() {
        Some("second") => (Some(FIXTURE_SECOND.0), FIXTURE_SECOND.1),
        Some("retired") => (Some(FIXTURE_RETIRED.0), FIXTURE_RETIRED.1),
        _ => (None, secret),
    };
    if let Some(kid) = kid {
        header["kid"] = json!(kid);
    }
    if let (Some(Value::Object(extra)), Some(header)) = (&wish.header, header.as_object_mut()) {
        for (name, value) in extra {
            match value {
                Value::Null => header.remove(name),
                _ => header.insert(name.clone(), value.clone()),
            };
        }
    }
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    if wish.alg.as_deref() == Some("none") {
        return format!("{signed}.");
    }
    let secret = if wish.bad_signature { "another secret, which the node does not know" } else { secret };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac(secret.as_bytes(), signed.as_bytes())))
}

/// Whether a JWT was signed with the secret, or with the fixture's second one under its id; returns its claims.
pub fn open_jwt(secret: &str, token: &str) -> Option<Value> {
    let header = jwt_header(token)?;
    let brings_a_key = ["jwk", "jku", "x5u", "x5c", "crit"].iter().any(|name| !header[name].is_null());
    match header["kid"].as_str() {
        _ if brings_a_key => None,
        None if header["kid"].is_null() => {
            [secret, FIXTURE_SECOND.1].iter().find_map(|secret| open_jwt_of_any_kid(secret, token))
        }
        Some(kid) if kid == FIXTURE_SECOND.0 => open_jwt_of_any_kid(FIXTURE_SECOND.1, token),
        _ => None,
    }
}

/// Whether a JWT was signed with the secret, whatever it says of its key; returns its claims.
pub fn open_jwt_of_any_kid(secret: &str, token: &str) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (_, claims) = signed.split_once('.')?;
    let fits = jwt_header(token)?["alg"] == "HS256"
        && URL_SAFE_NO_PAD.decode(signature).ok()? == hmac(secret.as_bytes(), signed.as_bytes());
    if !fits {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn jwt_header(token: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?).ok()
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(crate::client::hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn tokens_open_with_their_secret_only() {
        let wish = TokenWish { user: "u".into(), ..TokenWish::default() };
        let token = jwt("secret", &wish);
        assert_eq!(open_jwt("secret", &token).unwrap()["sub"], "u");
        assert!(open_jwt("other", &token).is_none());
        assert!(open_jwt("secret", &jwt("secret", &TokenWish { alg: Some("none".into()), ..wish })).is_none());
    }

    #[test]
    fn urls_are_parsed() {
        let parse = |url| Endpoint::parse(url, &Trust::Everyone);
        let endpoint = parse("ws://127.0.0.1:81/x").unwrap();
        assert_eq!((endpoint.port, endpoint.path.as_str()), (81, "/x"));
        assert_eq!(parse("http://localhost:8080").unwrap().path, "/v1/connect");
        let secure = parse("wss://[::1]").unwrap();
        assert!(secure.tls.is_some() && secure.port == 443 && secure.host == "::1" && secure.is_loopback());
        assert!(parse("ftp://a").is_err() && parse("ws://a:b").is_err());
        assert_eq!(Endpoint::parse_quic("quic://a:9").unwrap().port, 9);
    }
}
