//! Who is there and what they may do.
//!
//! Promises: an [`Identity`] exists only for a credential that held; user and rights come from the credential alone
//! (LC-AUTH-005).
//! Refuses: credentials in URLs, and development credentials from anything but a loopback address.

pub mod api_key;
pub mod jwks;
pub mod keys;
mod revocations;
pub mod rights;
pub mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lanecast_protocol::position::DurableLane;
use lanecast_protocol::room::{INBOX_PREFIX, check_user};
use lanecast_protocol::v1;

pub use self::revocations::{Revocations, TokenMark};
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry::Metrics;
use api_key::{ApiKey, Found};
use jwks::Jwks;
use keys::Key;
use rights::{PublishVerdict, Rights, TypeFilter, Verb};
use token::{TOKEN_BYTES_MAX, TokenError, Verifier};

/// What development tokens begin with; the user follows.
const DEV_PREFIX: &str = "dev:";
/// How long a node waits at start for the first read of a key set. Without it tokens are refused until it is there.
const KEYS_WITHIN: Duration = Duration::from_secs(5);

/// Judges credentials.
#[derive(Debug)]
pub struct Auth {
    keys: Vec<Key>,
    jwks: Option<Jwks>,
    verifier: Verifier,
    api_keys: Vec<ApiKey>,
    dev: Option<Rights>,
    clock: Clock,
    /// Which tokens are not taken any more.
    pub revocations: Revocations,
}

impl Auth {
    /// As the configuration says.
    pub fn new(config: &Config, clock: Clock) -> Self {
        let mut api_keys = config.api_keys.clone();
        if config.dev {
            api_keys.push(ApiKey::development());
        }
        Self {
            keys: config.token_keys.clone(),
            jwks: Jwks::new(&config.tokens, clock.clone()),
            verifier: Verifier::new(&config.tokens),
            api_keys,
            dev: config.dev.then(Rights::development),
            clock,
            revocations: Revocations::default(),
        }
    }

    /// Keeps the keys that somebody else publishes, for as long as the node lives.
    pub async fn keep_keys(&self, metrics: &Metrics) {
        if let Some(jwks) = &self.jwks {
            jwks.keep(metrics).await;
        }
    }

    /// Waits a while until published keys were read, if there are any; a node without them can start all the same.
    pub async fn keys_read(&self) {
        if let Some(jwks) = &self.jwks
            && tokio::time::timeout(KEYS_WITHIN, jwks.read_once()).await.is_err()
        {
            tracing::warn!("the key set was not read yet: its tokens are refused until it is");
        }
    }

    /// Judges the token of a Hello or a RefreshToken, or a user token of an HTTP request. It waits only where the token
    /// names a key that may just have been published. `device` is the one that a Hello names; empty: none.
    pub async fn user(&self, token: &str, device: &str, peer: IpAddr) -> Result<Identity, TokenError> {
        let judged = match (self.judge(token, peer), &self.jwks) {
            (Err(TokenError::UnknownKey), Some(jwks)) => {
                jwks.look_again().await;
                self.judge(token, peer)
            }
            (judged, _) => judged,
        };
        let identity = judged?;
        let device = identity.device.as_deref().unwrap_or(device);
        if self.is_revoked(&identity.user, device, &identity.mark) { Err(TokenError::Revoked) } else { Ok(identity) }
    }

    /// Whether a token that held was revoked since (LC-AUTH-003).
    pub fn is_revoked(&self, user: &Arc<str>, device: &str, mark: &TokenMark) -> bool {
        self.revocations.cover(user, device, mark, self.clock.now_ms())
    }

    fn judge(&self, token: &str, peer: IpAddr) -> Result<Identity, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLarge);
        }
        if let Some(user) = token.strip_prefix(DEV_PREFIX) {
            return self.dev_user(user, peer);
        }
        let published = self.jwks.as_ref().map(Jwks::keys).unwrap_or_default();
        let keys = self.keys.iter().chain(published.iter());
        let verified = self.verifier.verify(keys, token, self.clock.now_ms())?;
        Ok(Identity {
            user: verified.user.into(),
            service: Arc::from(""),
            device: verified.device.map(Into::into),
            rights: verified.rights,
            signals_per_second: verified.signals_per_second,
            expires_at_ms: verified.expires_at_ms,
            mark: TokenMark { issued_at_ms: verified.issued_at_ms, token_id: verified.token_id.map(Into::into) },
        })
    }

    /// Judges the value of an `Authorization` header: an API key or a user token.
    pub async fn bearer(&self, authorization: Option<&str>, peer: IpAddr) -> Result<Identity, TokenError> {
        let credential = authorization.and_then(|value| {
            let (scheme, credential) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(credential.trim())
        });
        let credential = credential.filter(|credential| !credential.is_empty()).ok_or(TokenError::Missing)?;
        if credential.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLarge);
        }
        match api_key::find(&self.api_keys, credential, self.clock.now_ms()) {
            Found::Holds(key) if key.name() == "dev" && self.dev.is_some() && !is_loopback(peer) => {
                Err(TokenError::Development("only from a loopback address"))
            }
            Found::Holds(key) => Ok(Identity::service(key.name(), key.rights().clone())),
            Found::Expired => Err(TokenError::Expired),
            Found::Unknown => self.user(credential, "", peer).await,
        }
    }

    fn dev_user(&self, user: &str, peer: IpAddr) -> Result<Identity, TokenError> {
        // LC-AUTH-032
        let rights = self.dev.clone().ok_or(TokenError::Development("the node was not started with --dev"))?;
        if !is_loopback(peer) {
            return Err(TokenError::Development("only from a loopback address"));
        }
        check_user(user).map_err(|why| TokenError::Claim(why.to_string()))?;
        Ok(Identity {
            user: user.into(),
            service: Arc::from(""),
            device: None,
            rights,
            expires_at_ms: 0,
            mark: TokenMark::default(),
            signals_per_second: 0,
        })
    }
}

fn is_loopback(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// Someone whose credential held. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user; empty for a service.
    pub user: Arc<str>,
    /// The service; empty for a user.
    pub service: Arc<str>,
    /// The device that the token names.
    pub device: Option<Box<str>>,
    /// When the credential expires, ms since the Unix epoch; 0: never.
    pub expires_at_ms: u64,
    /// What a revocation goes by.
    pub mark: TokenMark,
    /// Signals that a connection may send in a second; 0: as many as the node's limits say.
    pub signals_per_second: u32,
    rights: Rights,
}

impl Identity {
    fn service(name: &str, rights: Rights) -> Self {
        let (user, mark) = (Arc::from(""), TokenMark::default());
        Self { user, service: name.into(), device: None, rights, expires_at_ms: 0, mark, signals_per_second: 0 }
    }

    /// Whether this is a service, not a user.
    pub fn is_service(&self) -> bool {
        !self.service.is_empty()
    }

    /// Whether the verb is allowed in the room, for some type at least.
    pub fn allows(&self, verb: Verb, room: &str) -> bool {
        self.is_own_inbox(verb, room) || self.rights.allow(verb, room, self.as_user())
    }

    /// Whether the verb is allowed in the room for the type: for signals.
    pub fn allows_type(&self, verb: Verb, room: &str, event_type: &str) -> bool {
        self.rights.allow_type(verb, room, self.as_user(), event_type)
    }

    /// Whether an event of the type may be published in the lane.
    pub fn allows_publish(&self, room: &str, event_type: &str, lane: DurableLane) -> PublishVerdict {
        self.rights.allow_publish(room, self.as_user(), event_type, lane)
    }

    /// Which types of the room's events this subscriber may have.
    pub fn subscribe_filter(&self, room: &str) -> TypeFilter {
        self.filter(Verb::Subscribe, room)
    }

    /// Which types of the room's events the verb allows.
    pub fn filter(&self, verb: Verb, room: &str) -> TypeFilter {
        if self.is_own_inbox(verb, room) { TypeFilter::All } else { self.rights.types(verb, room, self.as_user()) }
    }

    /// Who sent what this identity publishes.
    pub fn sender(&self, instance: &str) -> v1::Sender {
        v1::Sender { user: self.user.to_string(), service: self.service.to_string(), instance: instance.to_owned() }
    }

    /// Every user may read the own inbox (LC-INBX-002); nobody needs a right for it.
    fn is_own_inbox(&self, verb: Verb, room: &str) -> bool {
        matches!(verb, Verb::Subscribe | Verb::History)
            && !self.user.is_empty()
            && room.strip_prefix(INBOX_PREFIX) == Some(&self.user)
    }

    fn as_user(&self) -> Option<&str> {
        (!self.user.is_empty()).then_some(&self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn auth(dev: bool) -> Auth {
        Auth::new(&Config { dev, ..Config::default() }, Clock::manual(1_000_000))
    }

    async fn bearer(auth: &Auth, header: &str, peer: IpAddr) -> Result<Identity, TokenError> {
        auth.bearer(Some(header), peer).await
    }

    #[test]
    fn development_tokens_need_the_flag_and_a_loopback_address() {
        // LC-AUTH-032
        let identity = auth(true).judge("dev:ann", NEAR).unwrap();
        assert_eq!(&*identity.user, "ann");
        assert!(identity.allows(Verb::Publish, "any.room"));
        assert!(auth(true).judge("dev:ann", "::ffff:127.0.0.1".parse().unwrap()).is_ok());
        for (auth, token, peer) in [
            (auth(true), "dev:ann", FAR),
            (auth(false), "dev:ann", NEAR),
            (auth(true), "dev:", NEAR),
            (auth(true), "dev:*", NEAR),
        ] {
            assert_eq!(auth.judge(token, peer).unwrap_err().code().number(), 4100, "{token}");
        }
    }

    #[tokio::test]
    async fn the_development_key_is_a_service() {
        let dev = auth(true);
        let identity = bearer(&dev, "Bearer dev-key", NEAR).await.unwrap();
        assert!(identity.is_service());
        assert_eq!(identity.sender("").service, "dev");
        assert!(bearer(&dev, "Bearer dev-key", FAR).await.is_err());
        assert!(bearer(&auth(false), "Bearer dev-key", NEAR).await.is_err());
        assert_eq!(&*bearer(&dev, "bearer dev:ann", NEAR).await.unwrap().user, "ann");
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic dev-key")] {
            assert_eq!(dev.bearer(header, NEAR).await.unwrap_err(), TokenError::Missing, "{header:?}");
        }
    }

    #[tokio::test]
    async fn the_own_inbox_is_open_to_read_and_no_other() {
        let ann = auth(true).judge("dev:ann", NEAR).unwrap();
        assert!(ann.allows(Verb::Subscribe, "user:ann") && ann.allows(Verb::History, "user:ann"));
        assert!(ann.subscribe_filter("user:ann").is_all());
        assert!(!ann.allows(Verb::Publish, "user:ann"));
        assert!(!ann.allows(Verb::Subscribe, "user:bob"));
        assert!(!ann.allows(Verb::Subscribe, "$sys"));
        let service = bearer(&auth(true), "Bearer dev-key", NEAR).await.unwrap();
        assert!(!service.allows(Verb::Subscribe, "user:"));
    }

    #[tokio::test]
    async fn a_revoked_user_is_refused_as_such() {
        // LC-AUTH-003
        let dev = auth(true);
        dev.revocations.learn(vec![crate::engine::Revocation {
            subject: crate::engine::Subject::User("ann".into()),
            issued_through_ms: 1,
            until_ms: 1_000_001,
            changed_ms: 1,
            lifted: false,
        }]);
        assert_eq!(dev.user("dev:ann", "", NEAR).await.unwrap_err(), TokenError::Revoked);
        assert_eq!(bearer(&dev, "Bearer dev:ann", NEAR).await.unwrap_err().code().number(), 4102);
        assert!(dev.user("dev:bob", "", NEAR).await.is_ok());
        dev.clock.advance(Duration::from_millis(1));
        assert!(dev.user("dev:ann", "", NEAR).await.is_ok(), "it ran out");
    }
}
