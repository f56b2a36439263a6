//! API keys: services that may use the HTTP API.
//!
//! A service may have several keys at once, so that the next one is known before the former one ends.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::rights::Rights;
use crate::config::Secret;

/// Shortest key, in bytes.
const KEY_BYTES_MIN: usize = 16;
/// Longest name of a service, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Keys of one service at most.
const KEYS_MAX: usize = 8;

/// A service and what it may do. The node keeps the hashes of its keys only.
#[derive(Clone, Debug)]
pub struct ApiKey {
    name: String,
    hashes: Vec<Hash>,
    rights: Rights,
}

#[derive(Clone, Copy, Debug)]
struct Hash {
    sha256: [u8; 32],
    /// It holds before this time, ms since the Unix epoch; `None`: for ever.
    not_after_ms: Option<u64>,
}

/// A key of a service, as it is configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApiKeyHash<'o> {
    /// Its hash, as 64 hex digits.
    pub hash: Option<&'o str>,
    /// The file that holds it.
    pub key_file: Option<&'o Path>,
    /// When it ends, ms since the Unix epoch.
    pub not_after: Option<u64>,
}

/// What a presented key is.
#[derive(Clone, Copy, Debug)]
pub enum Found<'k> {
    /// One of this service.
    Holds(&'k ApiKey),
    /// It was one.
    Expired,
    /// None of any.
    Unknown,
}

impl ApiKey {
    /// A service without a key yet, or what is wrong with its name.
    pub fn new(name: &str, rights: Rights) -> Result<Self, String> {
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || name.contains(char::is_control) {
            return Err(format!("must be given: 1 to {NAME_BYTES_MAX} bytes without control characters"));
        }
        Ok(Self { name: name.to_owned(), hashes: Vec::new(), rights })
    }

    /// Adds a key that none of the others has; an error names the option and what is wrong with it.
    pub fn add(&mut self, options: ApiKeyHash<'_>, others: &[Self]) -> Result<(), (&'static str, String)> {
        let (sha256, option) = match (options.hash, options.key_file) {
            (Some(hex), None) => (from_hex(hex).ok_or(("sha256", "expected 64 hex digits".to_owned()))?, "sha256"),
            (None, Some(file)) => {
                let bytes = std::fs::read(file)
                    .map_err(|error| ("key_file", format!("{} cannot be read: {error}", file.display())))?;
                let key = Secret::new(&bytes);
                if key.expose().len() < KEY_BYTES_MIN {
                    return Err(("key_file", format!("a key has at least {KEY_BYTES_MIN} bytes")));
                }
                (hash_of(key.expose()), "key_file")
            }
            _ => return Err(("sha256", "give either sha256 or key_file".to_owned())),
        };
        let mut known = others.iter().flat_map(|other| &other.hashes).chain(&self.hashes);
        if known.any(|known| known.sha256 == sha256) {
            return Err((option, "the same key stands elsewhere".to_owned()));
        }
        if self.hashes.len() == KEYS_MAX {
            return Err((option, format!("a service has at most {KEYS_MAX} keys")));
        }
        self.hashes.push(Hash { sha256, not_after_ms: options.not_after });
        Ok(())
    }

    /// The key of development: `dev-key` may do everything, from loopback addresses.
    pub(super) fn development() -> Self {
        let hashes = vec![Hash { sha256: hash_of(b"dev-key"), not_after_ms: None }];
        Self { name: "dev".to_owned(), hashes, rights: Rights::development() }
    }

    /// Name of the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the service may do.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }
}

/// The key that was presented, if there is one. Every key is compared to its end, so that the time taken says nothing
/// about how much of which key fits.
pub fn find<'k>(keys: &'k [ApiKey], presented: &str, now_ms: u64) -> Found<'k> {
    let hash = hash_of(presented.as_bytes());
    let mut found = Found::Unknown;
    for key in keys {
        for known in &key.hashes {
            let difference = known.sha256.iter().zip(&hash).fold(0, |bits, (a, b)| bits | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                let holds = known.not_after_ms.is_none_or(|end_ms| now_ms < end_ms);
                found = if holds { Found::Holds(key) } else { Found::Expired };
            }
        }
    }
    found
}

/// The hash of a key as the configuration has it.
pub fn hex_hash(key: &str) -> String {
    hash_of(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash_of(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'k>(keys: &'k [ApiKey], presented: &str, now_ms: u64) -> Option<&'k str> {
        match find(keys, presented, now_ms) {
            Found::Holds(key) => Some(key.name()),
            Found::Expired => Some("(expired)"),
            Found::Unknown => None,
        }
    }

    #[test]
    fn keys_are_found_by_their_hashes_two_at_a_time_until_they_end() {
        // LC-API-060
        let mut key = ApiKey::new("billing", Rights::default()).unwrap();
        let hashes = ["correct-horse-battery", "next-horse-battery"].map(hex_hash);
        key.add(ApiKeyHash { hash: Some(&hashes[0]), not_after: Some(2_000), ..Default::default() }, &[]).unwrap();
        key.add(ApiKeyHash { hash: Some(&hashes[1]), ..Default::default() }, &[]).unwrap();
        let keys = [ApiKey::development(), key];
        assert_eq!(named(&keys, "correct-horse-battery", 1_999), Some("billing"));
        assert_eq!(named(&keys, "correct-horse-battery", 2_000), Some("(expired)"));
        assert_eq!(named(&keys, "next-horse-battery", 2_000), Some("billing"));
        assert_eq!(named(&keys, "dev-key", 0), Some("dev"));
        assert_eq!((named(&keys, "correct-horse", 0), named(&keys, "", 0)), (None, None));
    }

    #[test]
    fn bad_options_are_named() {
        let mut key = ApiKey::new("billing", Rights::default()).unwrap();
        let mut add = |hash: &str| key.add(ApiKeyHash { hash: Some(hash), ..Default::default() }, &[]);
        for bad in ["", "12", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(add(bad).unwrap_err().0, "sha256", "{bad}");
        }
        assert!(add(&"0".repeat(64)).is_ok());
        assert!(add(&"0".repeat(64)).unwrap_err().1.contains("elsewhere"));
        assert!((1..KEYS_MAX).all(|key| add(&hex_hash(&key.to_string())).is_ok()));
        assert!(add(&hex_hash("one more")).unwrap_err().1.contains("at most"));
        assert!(ApiKey::new("", Rights::default()).is_err());
    }
}
