//! The keys with which tokens are checked: one algorithm each, found by id.
//!
//! Promises: a key checks tokens of its own algorithm only, whatever a token says of itself (LC-AUTH-030); a key that
//! exists was found fit for its algorithm when it was read.
//! Refuses: private keys, which a node has no use for, RSA below 2,048 bits, and secrets that were published.

use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::Deserialize;

use crate::config::Secret;

/// Smallest secret of HS256, in bytes: as long as the hash (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest id of a key, in bytes.
pub const KID_BYTES_MAX: usize = 256;
/// Keys that a token without a `kid` is tried with; where more could be meant, it has to name one. Bounds what one request
/// costs.
pub const TRIED_MAX: usize = 8;
/// Keys in a set at most.
pub const SET_KEYS_MAX: usize = 100;
/// Bits of an RSA modulus: below these it can be factored (RFC 7518, section 3.3), above them checking is slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;
/// Bytes of an Ed25519 public key.
const ED25519_BYTES: usize = 32;

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: whoever checks can also sign.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them, with their names in tokens.
    pub const NAMES: [(&'static str, Self); 4] =
        [("HS256", Self::Hs256), ("RS256", Self::Rs256), ("ES256", Self::Es256), ("EdDSA", Self::EdDsa)];

    /// Its name in tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// What the library calls it.
    pub const fn to_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }

    /// The one that a token's header names; `None`: one that no node takes.
    pub fn from_library(named: jsonwebtoken::Algorithm) -> Option<Self> {
        Self::NAMES.into_iter().map(|(_, known)| known).find(|known| known.to_library() == named)
    }
}

/// A key.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<Box<str>>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    /// With HS256 the key that signs is the same.
    secret: Option<Secret>,
}

impl Key {
    /// A secret for HS256.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_secret(kid: Option<&str>, secret: Secret) -> Result<Self, String> {
        let bytes = secret.expose().len();
        if bytes < SECRET_BYTES_MIN {
            return Err(format!("the secret has {bytes} bytes; HS256 needs at least {SECRET_BYTES_MIN}"));
        }
        let decoding = DecodingKey::from_secret(secret.expose());
        Ok(Self { kid: kid.map(Into::into), algorithm: Algorithm::Hs256, decoding, secret: Some(secret) })
    }

    /// A public key as a PEM file holds it.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn from_pem(kid: Option<&str>, algorithm: Algorithm, pem: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY-----") {
            return Err("holds a private key, which a node has no use for: give it the public one \
                        (openssl pkey -pubout)"
                .to_owned());
        }
        if !text.contains("PUBLIC KEY-----") {
            return Err("is no PEM file with a public key (-----BEGIN PUBLIC KEY-----)".to_owned());
        }
        let decoding = match algorithm {
            Algorithm::Hs256 => return Err("holds a public key, and HS256 takes a secret".to_owned()),
            Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem),
            Algorithm::Es256 => DecodingKey::from_ec_pem(pem),
            Algorithm::EdDsa => DecodingKey::from_ed_pem(pem),
        };
        let decoding = decoding.map_err(|_| format!("holds no public key for {}", algorithm.name()))?;
        Self::checked(kid, algorithm, decoding)
    }

    fn checked(kid: Option<&str>, algorithm: Algorithm, decoding: DecodingKey) -> Result<Self, String> {
        let unfit = || format!("holds no public key for {}", algorithm.name());
        match algorithm {
            Algorithm::Rs256 => {
                let bits = rsa_bits(&decoding).ok_or_else(unfit)?;
                if !RSA_BITS.contains(&bits) {
                    let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
                    return Err(format!("the RSA key has {bits} bits; it needs {least} to {most}"));
                }
            }
            // The library takes a slice of a shorter key and panics.
            Algorithm::EdDsa if decoding.try_get_as_bytes().map_or(0, <[u8]>::len) != ED25519_BYTES => {
                return Err(unfit());
            }
            _ => {}
        }
        // A point that is not on the curve is found out by whoever first checks with it.
        jsonwebtoken::crypto::verify("AA", b"", &decoding, algorithm.to_library()).map_err(|_| unfit())?;
        Ok(Self { kid: kid.map(Into::into), algorithm, decoding, secret: None })
    }

    /// Its id.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What it does.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key as the library takes it.
    pub fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// The secret of a key for HS256.
    pub fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// Whether it may have signed a token that names an algorithm, and an id or none. A token with an id is checked with the
    /// key of that id alone; one without with any.
    pub fn fits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.algorithm == algorithm && kid.is_none_or(|kid| self.kid.as_deref() == Some(kid))
    }
}

/// A private key that signs tokens, from a PEM file, with the algorithm that it is for.
///
/// # Errors
/// What is wrong with it.
pub fn signing_key(pem: &[u8]) -> Result<(Algorithm, EncodingKey), String> {
    // Each of these looks at the kind of the key first.
    let kinds = [
        (Algorithm::EdDsa, EncodingKey::from_ed_pem(pem)),
        (Algorithm::Es256, EncodingKey::from_ec_pem(pem)),
        (Algorithm::Rs256, EncodingKey::from_rsa_pem(pem)),
    ];
    let found = kinds.into_iter().find_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
    let (algorithm, key) = found.ok_or(
        "no private key for EdDSA, ES256 or RS256 in PKCS#8 (-----BEGIN PRIVATE KEY-----; openssl pkcs8 -topk8 -nocrypt)",
    )?;
    jsonwebtoken::crypto::sign(b"", &key, algorithm.to_library())
        .map_err(|_| format!("the key cannot sign with {}", algorithm.name()))?;
    Ok((algorithm, key))
}

/// Bits of the modulus of an RSA key.
fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let bits = |modulus: &[u8]| {
        let first = modulus.iter().position(|byte| *byte != 0)?;
        Some((modulus.len() - first) * 8 - modulus[first].leading_zeros() as usize)
    };
    match key.kind() {
        jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => bits(n),
        // PKCS#1: a sequence of two integers, the modulus first.
        jsonwebtoken::DecodingKeyKind::SecretOrDer(der) => {
            let (0x30, numbers, _) = der_value(der)? else { return None };
            let (0x02, modulus, _) = der_value(numbers)? else { return None };
            bits(modulus)
        }
    }
}

/// Tag, contents and what follows.
fn der_value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (length, rest) =
                rest.split_at_checked(usize::from(first & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
            (length.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

/// A key of a set (RFC 7517). What else a key may say is not looked at.
#[derive(Debug, Deserialize)]
struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// The keys of a set that check tokens. Others are passed over, as RFC 7517 has it: those for encryption, those of other
/// algorithms, those that cannot be read, and a second one with the id and algorithm of another.
///
/// # Errors
/// What is wrong with the set as a whole: it is none, has too many keys, or none that checks tokens.
pub fn read_set(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|_| "is no JSON Web Key Set".to_owned())?;
    if set.keys.len() > SET_KEYS_MAX {
        return Err(format!("has {} keys, and {SET_KEYS_MAX} are the most", set.keys.len()));
    }
    let mut keys: Vec<Key> = Vec::new();
    for value in set.keys {
        match serde_json::from_value(value).map_err(|error| error.to_string()).and_then(|jwk| read_jwk(&jwk)) {
            Ok(key) if key.kid().is_some_and(|kid| keys.iter().any(|known| known.fits(key.algorithm, Some(kid)))) => {
                tracing::debug!(kid = key.kid(), "a second key of the set has the same id: the first one holds");
            }
            Ok(key) => keys.push(key),
            Err(why) => tracing::debug!(why, "a key of the set is passed over"),
        }
    }
    if keys.is_empty() { Err("has no key that checks tokens".to_owned()) } else { Ok(keys) }
}

fn read_jwk(jwk: &Jwk) -> Result<Key, String> {
    let kid = jwk.kid.as_deref();
    if kid.is_some_and(|kid| kid.is_empty() || kid.len() > KID_BYTES_MAX) {
        return Err(format!("its id has not 1 to {KID_BYTES_MAX} bytes"));
    }
    let verifies = jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !verifies || jwk.purpose.as_ref().is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures".to_owned());
    }
    let part = |part: &Option<String>| part.clone().ok_or("a part is missing");
    // A secret in a set is no secret: `oct` is none of these.
    let (algorithm, decoding) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => (Algorithm::Rs256, DecodingKey::from_rsa_components(&part(&jwk.n)?, &part(&jwk.e)?)),
        ("EC", Some("P-256")) => (Algorithm::Es256, DecodingKey::from_ec_components(&part(&jwk.x)?, &part(&jwk.y)?)),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, DecodingKey::from_ed_components(&part(&jwk.x)?)),
        _ => return Err("it is of no kind that a node takes".to_owned()),
    };
    if jwk.alg.as_ref().is_some_and(|alg| alg != algorithm.name()) {
        return Err("it is for another algorithm".to_owned());
    }
    Key::checked(kid, algorithm, decoding.map_err(|_| "its parts are not base64url")?)
}

#[cfg(test)]
mod tests;
