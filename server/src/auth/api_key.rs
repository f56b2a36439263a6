//! API keys: services that may use the HTTP API.

use sha2::{Digest, Sha256};

use super::rights::Rights;
use crate::config::{ApiKeyOptions, Secret};

/// Shortest key, in bytes.
const KEY_BYTES_MIN: usize = 16;
/// Longest name of a service, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A service and what it may do. The node keeps the hash of the key only.
#[derive(Clone, Debug)]
pub struct ApiKey {
    name: String,
    hash: [u8; 32],
    rights: Rights,
}

impl ApiKey {
    /// Reads a key's options; an error names the option and what is wrong with it.
    pub fn new(options: &ApiKeyOptions, rights: Rights) -> Result<Self, (&'static str, String)> {
        let name = options.name.clone();
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || name.contains(char::is_control) {
            return Err(("name", format!("must be given: 1 to {NAME_BYTES_MAX} bytes without control characters")));
        }
        let hash = match (&options.sha256, &options.key_file) {
            (Some(hex), None) => from_hex(hex).ok_or(("sha256", "expected 64 hex digits".to_owned()))?,
            (None, Some(file)) => {
                let bytes = std::fs::read(file)
                    .map_err(|error| ("key_file", format!("{} cannot be read: {error}", file.display())))?;
                let key = Secret::new(&bytes);
                if key.expose().len() < KEY_BYTES_MIN {
                    return Err(("key_file", format!("a key has at least {KEY_BYTES_MIN} bytes")));
                }
                hash_of(key.expose())
            }
            _ => return Err(("sha256", "give either sha256 or key_file".to_owned())),
        };
        Ok(Self { name, hash, rights })
    }

    /// The key of development: `dev-key` may do everything, from loopback addresses.
    pub(super) fn development() -> Self {
        Self { name: "dev".to_owned(), hash: hash_of(b"dev-key"), rights: Rights::development() }
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
pub fn find<'k>(keys: &'k [ApiKey], presented: &str) -> Option<&'k ApiKey> {
    let hash = hash_of(presented.as_bytes());
    let mut found = None;
    for key in keys {
        let difference = key.hash.iter().zip(&hash).fold(0, |bits, (a, b)| bits | (a ^ b));
        if std::hint::black_box(difference) == 0 {
            found = Some(key);
        }
    }
    found
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

    fn options(sha256: &str) -> ApiKeyOptions {
        ApiKeyOptions { name: "billing".into(), sha256: Some(sha256.into()), key_file: None }
    }

    #[test]
    fn a_key_is_found_by_its_hash() {
        // printf %s correct-horse-battery | sha256sum
        let hex: String = hash_of(b"correct-horse-battery").iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = [ApiKey::development(), ApiKey::new(&options(&hex), Rights::default()).unwrap()];
        assert_eq!(find(&keys, "correct-horse-battery").map(ApiKey::name), Some("billing"));
        assert_eq!(find(&keys, "dev-key").map(ApiKey::name), Some("dev"));
        assert!(find(&keys, "correct-horse").is_none());
        assert!(find(&keys, "").is_none());
    }

    #[test]
    fn bad_options_are_named() {
        for bad in ["", "12", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(ApiKey::new(&options(bad), Rights::default()).map(drop).unwrap_err().0, "sha256", "{bad}");
        }
        let unnamed = ApiKeyOptions { name: String::new(), ..options(&"0".repeat(64)) };
        assert_eq!(ApiKey::new(&unnamed, Rights::default()).map(drop).unwrap_err().0, "name");
    }
}
