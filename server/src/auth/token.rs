//! User tokens: the JWT profile (LC-AUTH-030 and after).
//!
//! Promises: the algorithm is the node's choice, never the token's; times are judged by the node's clock; a token that
//! is refused says to its owner only whether it is bad or expired, and to the log why.
//! Refuses: keys in headers (`jwk`, `jku`, `x5u`, `x5c`), tokens without `exp`, and anything above [`TOKEN_BYTES_MAX`].

use std::fmt;

use jsonwebtoken::{EncodingKey, Header, Validation};
use lanecast_protocol::codes::Code;
use lanecast_protocol::position::NUMBER_LIMIT;
use lanecast_protocol::room::check_user;
use serde::{Deserialize, Serialize};

use super::keys::{Algorithm, KID_BYTES_MAX, Key, TRIED_MAX};
use super::rights::{RightSpec, Rights};
use crate::config::TokenOptions;

/// Largest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Largest device id, in bytes.
pub const DEVICE_BYTES_MAX: usize = 128;
/// Largest id of a token, in bytes.
pub const TOKEN_ID_BYTES_MAX: usize = 128;
/// Rights in one token. The size of a token bounds them too; this bounds what one request costs to judge.
pub const RIGHTS_MAX: usize = 64;

/// Most signals per second that a token may allow, as the node's own limit.
pub const SIGNALS_PER_SECOND_MAX: u32 = 1_000;

/// Why a token is refused. For the log; the client learns the [`code`](Self::code) only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It is larger than [`TOKEN_BYTES_MAX`].
    TooLarge,
    /// The node has no key for the algorithm and the `kid` that the token names.
    UnknownKey,
    /// It was revoked.
    Revoked,
    /// It is not a JWT, is signed otherwise than the node asks, or the signature does not fit.
    Signature(String),
    /// A claim is missing or has a wrong shape or value.
    Claim(String),
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYetValid,
    /// A development token where none is taken.
    Development(&'static str),
    /// No credential was given.
    Missing,
}

impl TokenError {
    /// What the client is told.
    pub fn code(&self) -> Code {
        match self {
            Self::Expired | Self::NotYetValid => Code::TokenExpired,
            Self::Revoked => Code::TokenRevoked,
            _ => Code::BadToken,
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "larger than {TOKEN_BYTES_MAX} bytes"),
            Self::UnknownKey => f.write_str("the node has no key for the algorithm and the kid that the token names"),
            Self::Revoked => f.write_str("revoked"),
            Self::Signature(why) => write!(f, "not a token signed for this node: {why}"),
            Self::Claim(why) => write!(f, "claims: {why}"),
            Self::Expired => f.write_str("expired"),
            Self::NotYetValid => f.write_str("not valid yet"),
            Self::Development(why) => write!(f, "development token: {why}"),
            Self::Missing => f.write_str("no credential"),
        }
    }
}

impl std::error::Error for TokenError {}

/// The claims of a token, as they are written.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Claims {
    /// The user.
    pub sub: String,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// When it expires.
    pub exp: Seconds,
    /// When it begins to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<Seconds>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<Seconds>,
    /// For whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<OneOrMany>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Its own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// What it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lanecast: Option<LanecastClaim>,
}

/// The claim `lanecast`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LanecastClaim {
    /// The rights.
    pub rights: Vec<RightSpec>,
    /// Signals that a connection with it may send in a second; `None`: as many as the node's limits say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals_per_second: Option<u32>,
}

/// An `aud` claim: one text or a list of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// Seconds since the Unix epoch. A fraction is allowed, as RFC 7519 has it, and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Seconds(pub u64);

impl Seconds {
    fn ms(self) -> u64 {
        self.0.saturating_mul(1_000).min(NUMBER_LIMIT - 1)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let fraction = number.as_f64().filter(|seconds| (0.0..9e15).contains(seconds)).map(|seconds| seconds as u64);
        number.as_u64().or(fraction).map(Self).ok_or_else(|| serde::de::Error::custom("no date in seconds"))
    }
}

impl OneOrMany {
    fn names(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

/// What a token that holds says.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The user.
    pub user: String,
    /// The device, if the token names one.
    pub device: Option<String>,
    /// When the node takes it no longer, ms since the Unix epoch: `exp` and what clocks may differ by. A connection that was
    /// made in these seconds is not closed at once.
    pub expires_at_ms: u64,
    /// When it was made, ms since the Unix epoch; 0: it does not say.
    pub issued_at_ms: u64,
    /// Its id.
    pub token_id: Option<String>,
    /// What it allows.
    pub rights: Rights,
    /// Signals that a connection may send in a second; 0: as many as the node's limits say.
    pub signals_per_second: u32,
}

/// What a token must say, apart from its signature.
#[derive(Clone, Debug)]
pub struct Verifier {
    audience: Option<String>,
    issuer: Option<String>,
    leeway_ms: u64,
    lifetime_max_ms: u64,
}

impl Verifier {
    /// As the configuration says.
    pub fn new(options: &TokenOptions) -> Self {
        Self {
            audience: options.audience.clone(),
            issuer: options.issuer.clone(),
            leeway_ms: options.leeway_ms,
            lifetime_max_ms: options.lifetime_max_ms,
        }
    }

    /// Judges a token at a time. `keys` are all that the node has.
    pub fn verify<'k>(
        &self,
        keys: impl Iterator<Item = &'k Key>,
        token: &str,
        now_ms: u64,
    ) -> Result<Verified, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLarge);
        }
        let claims = signed_claims(keys, token)?;
        self.check_address(&claims)?;
        let expires_at_ms = self.check_times(&claims, now_ms)?;
        check_user(&claims.sub).map_err(|why| TokenError::Claim(format!("sub: {why}")))?;
        if claims.device.as_ref().is_some_and(|device| !is_device(device)) {
            return Err(TokenError::Claim("device: 1 to 128 bytes, no control characters".to_owned()));
        }
        if claims.jti.as_ref().is_some_and(|id| !is_token_id(id)) {
            return Err(TokenError::Claim("jti: 1 to 128 bytes, no control characters".to_owned()));
        }
        let (specs, signals) = match claims.lanecast {
            Some(claim) => (claim.rights, claim.signals_per_second),
            None => (Vec::new(), None),
        };
        if signals.is_some_and(|per_second| !(1..=SIGNALS_PER_SECOND_MAX).contains(&per_second)) {
            let why = format!("lanecast: signals_per_second: 1 to {SIGNALS_PER_SECOND_MAX}");
            return Err(TokenError::Claim(why));
        }
        if specs.len() > RIGHTS_MAX {
            return Err(TokenError::Claim(format!("lanecast: more than {RIGHTS_MAX} rights")));
        }
        let rights = Rights::from_specs(specs).map_err(|why| TokenError::Claim(format!("lanecast: {why}")))?;
        let issued_at_ms = claims.iat.map_or(0, Seconds::ms);
        let (user, device, token_id) = (claims.sub, claims.device, claims.jti);
        Ok(Verified {
            user,
            device,
            expires_at_ms,
            issued_at_ms,
            token_id,
            rights,
            signals_per_second: signals.unwrap_or(0),
        })
    }

    fn check_address(&self, claims: &Claims) -> Result<(), TokenError> {
        // A token that says for whom it is was not made for a node that is not told its own name (RFC 7519, 4.1.3).
        match (&claims.aud, &self.audience) {
            (None, None) => {}
            (Some(aud), Some(own)) if aud.names(own) => {}
            (Some(_), None) => return Err(TokenError::Claim("aud: is set, but tokens.audience is not".to_owned())),
            (_, Some(_)) => return Err(TokenError::Claim("aud: not for this node".to_owned())),
        }
        if let Some(wanted) = &self.issuer
            && claims.iss.as_ref() != Some(wanted)
        {
            return Err(TokenError::Claim("iss: not by the issuer that this node trusts".to_owned()));
        }
        Ok(())
    }

    fn check_times(&self, claims: &Claims, now_ms: u64) -> Result<u64, TokenError> {
        let expires_at_ms = claims.exp.ms().saturating_add(self.leeway_ms).min(NUMBER_LIMIT - 1);
        if expires_at_ms <= now_ms {
            return Err(TokenError::Expired);
        }
        // A token from the future would outlive the revocation of its user, which goes by when tokens were made.
        let holds_from_ms = claims.nbf.max(claims.iat).map_or(0, Seconds::ms);
        if holds_from_ms > now_ms.saturating_add(self.leeway_ms) {
            return Err(TokenError::NotYetValid);
        }
        if expires_at_ms > now_ms.saturating_add(self.lifetime_max_ms).saturating_add(self.leeway_ms) {
            return Err(TokenError::Claim("exp: further away than tokens.lifetime_max_ms".to_owned()));
        }
        Ok(expires_at_ms)
    }
}

/// The claims of a token that one of the keys signed.
fn signed_claims<'k>(keys: impl Iterator<Item = &'k Key>, token: &str) -> Result<Claims, TokenError> {
    let unsigned = |why: String| TokenError::Signature(why);
    let header = jsonwebtoken::decode_header(token).map_err(|error| unsigned(error.to_string()))?;
    // RFC 7515, 4.1.11: what must be understood and is not, refuses the token.
    if header.crit.is_some() {
        return Err(unsigned("has a `crit` header".to_owned()));
    }
    if header.jwk.is_some() || header.jku.is_some() || header.x5u.is_some() || header.x5c.is_some() {
        return Err(unsigned("brings a key of its own".to_owned()));
    }
    let kid = header.kid.as_deref();
    if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(unsigned(format!("its kid is longer than {KID_BYTES_MAX} bytes")));
    }
    let algorithm = Algorithm::from_library(header.alg).ok_or(TokenError::UnknownKey)?;
    let fitting: Vec<&Key> = keys.filter(|key| key.fits(algorithm, kid)).collect();
    if fitting.len() > TRIED_MAX {
        return Err(unsigned(format!("names no kid, and {} keys could be meant", fitting.len())));
    }
    let mut refusal = TokenError::UnknownKey;
    for key in fitting {
        match claims_signed_by(key, token) {
            Err(TokenError::Signature(why)) => refusal = TokenError::Signature(why),
            judged => return judged,
        }
    }
    Err(refusal)
}

fn claims_signed_by(key: &Key, token: &str) -> Result<Claims, TokenError> {
    use jsonwebtoken::errors::ErrorKind;
    // The library judges the signature only: it would take the time from the operating system, and it lets a token
    // without `aud` pass where one is wanted.
    let mut signature = Validation::new(key.algorithm().to_library());
    signature.required_spec_claims.clear();
    signature.validate_exp = false;
    signature.validate_nbf = false;
    signature.validate_aud = false;
    match jsonwebtoken::decode::<Claims>(token, key.decoding(), &signature) {
        Ok(data) => Ok(data.claims),
        Err(error) => match error.kind() {
            ErrorKind::Json(why) => Err(TokenError::Claim(why.to_string())),
            _ => Err(TokenError::Signature(error.to_string())),
        },
    }
}

/// Whether a text is a device id.
pub fn is_device(device: &str) -> bool {
    (1..=DEVICE_BYTES_MAX).contains(&device.len()) && !device.contains(char::is_control)
}

/// Whether a text is the id of a token.
pub fn is_token_id(id: &str) -> bool {
    (1..=TOKEN_ID_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control)
}

/// Signs claims, as `lanecast token` does.
pub fn mint(claims: &Claims, algorithm: Algorithm, kid: Option<String>, key: &EncodingKey) -> Result<String, String> {
    let header = Header { kid, ..Header::new(algorithm.to_library()) };
    jsonwebtoken::encode(&header, claims, key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
