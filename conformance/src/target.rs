//! The server under test: where it is, how to get tokens for it, and what may be done to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::client::WireLog;
use crate::client::http::{Request, Response, request};
use crate::control::Control;
use crate::verdict::{Outcome, Stop};

/// The secret of the fixture (see control.md), with which the suite signs tokens.
pub const FIXTURE_SECRET: &str = "lanecast-conform-secret-0123456789abcdef";
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

/// Address of a WebSocket endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of the WebSocket endpoint.
    pub path: String,
}

impl Endpoint {
    /// Parses `ws://host:port/path` or `http://host:port`. Without a path it is `/v1/connect`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("ws://")
            .or_else(|| url.strip_prefix("http://"))
            .ok_or_else(|| format!("{url}: only ws:// and http:// are known; put a TLS proxy in front of wss://"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let port = port.parse().map_err(|_| format!("{url}: {port} is no port"))?;
        let path = if path.len() > 1 { path } else { "/v1/connect" };
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, path: path.to_owned() })
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
}

impl Target {
    /// Asks the server what it is.
    pub async fn discover(&mut self) -> Outcome {
        let response = self.http("GET", "/.well-known/lanecast", &[], None, &WireLog::default()).await?;
        self.discovery = if response.status == 200 { response.json() } else { Value::Null };
        if let Some(path) = self.discovery["websocket"].as_str()
            && path.starts_with('/')
        {
            self.endpoint.path = path.to_owned();
        }
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
    wish.claims.is_none() && !wish.bad_signature && wish.alg.is_none()
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
        "iat": now,
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
    let header = json!({"alg": wish.alg.as_deref().unwrap_or("HS256"), "typ": "JWT"});
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    if wish.alg.as_deref() == Some("none") {
        return format!("{signed}.");
    }
    let secret = if wish.bad_signature { "another secret, which the node does not know" } else { secret };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac(secret.as_bytes(), signed.as_bytes())))
}

/// Whether a JWT was signed with the secret; returns its claims.
pub fn open_jwt(secret: &str, token: &str) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    let fits = header["alg"] == "HS256"
        && URL_SAFE_NO_PAD.decode(signature).ok()? == hmac(secret.as_bytes(), signed.as_bytes());
    if !fits {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
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
        let endpoint = Endpoint::parse("ws://127.0.0.1:81/x").unwrap();
        assert_eq!((endpoint.port, endpoint.path.as_str()), (81, "/x"));
        assert_eq!(Endpoint::parse("http://localhost:8080").unwrap().path, "/v1/connect");
        assert!(Endpoint::parse("wss://a").is_err());
    }
}
