//! The keys of `[tokens]`: from options and files to keys that are known to fit.

use std::path::Path;

use toml::de::DeTable;

use super::read::{Place, Reader, join};
use super::{Secret, TokenKeyOptions, TokenOptions, at_key, place_of};
use crate::auth::jwks::read_file;
use crate::auth::keys::{Algorithm, Key, read_set};

/// Keys that a configuration may name.
const KEYS_MAX: usize = 32;

/// Reads the section and its keys.
pub(super) fn read(reader: &mut Reader<'_>, root: &DeTable<'_>) -> (TokenOptions, Vec<Key>) {
    let table = root.get("tokens").and_then(|value| reader.table(value, "tokens"));
    if let Some(table) = table {
        let known: Vec<&str> = TokenOptions::KEYS.iter().copied().chain(["keys"]).collect();
        reader.refuse_unknown(table, "tokens", &known);
    }
    let mut options = TokenOptions::read(reader, table, "tokens");
    let mut keys: Vec<Key> = read_secret(reader, root, &options).into_iter().collect();
    // The checked secret has a type that is not printed; the option would be.
    options.hs256_secret = None;
    if let Some(list) = table.and_then(|table| table.get("keys")) {
        let tables = reader.tables(list, "tokens.keys");
        if tables.len() > KEYS_MAX {
            reader.mistake(Some(list.span().start), "tokens.keys", format!("there are at most {KEYS_MAX}"));
        }
        for (place, table) in tables {
            keys.extend(read_key(reader, table, &place, &keys));
        }
    }
    check_set(reader, root, &options);
    (options, keys)
}

/// `tokens.hs256_secret` or its file.
fn read_secret(reader: &mut Reader<'_>, root: &DeTable<'_>, options: &TokenOptions) -> Option<Key> {
    let at = |key| root.get("tokens").and_then(|table| place_of(table, key));
    let (secret, key) = match (&options.hs256_secret, &options.hs256_secret_file) {
        (None, None) => return None,
        (Some(_), Some(_)) => {
            let sentence = "stands beside hs256_secret: give one of them";
            reader.mistake(at("hs256_secret_file"), "tokens.hs256_secret_file", sentence);
            return None;
        }
        (Some(text), None) => (Ok(Secret::new(text.as_bytes())), "hs256_secret"),
        (None, Some(file)) => (secret_of(file), "hs256_secret_file"),
    };
    let read = secret.and_then(|secret| Key::from_secret(None, secret));
    read.map_err(|why| reader.mistake(at(key), &join("tokens", key), why)).ok()
}

fn secret_of(file: &Path) -> Result<Secret, String> {
    std::fs::read(file).map(|bytes| Secret::new(&bytes)).map_err(|error| cannot(file, &error))
}

fn cannot(file: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}", file.display())
}

fn read_key(reader: &mut Reader<'_>, table: &DeTable<'_>, place: &Place, others: &[Key]) -> Option<Key> {
    reader.refuse_unknown(table, &place.path, TokenKeyOptions::KEYS);
    let TokenKeyOptions { kid, algorithm, secret, secret_file, public_key_file } =
        TokenKeyOptions::read(reader, Some(table), &place.path);
    let kid = kid.as_deref();
    let (read, option) = match (algorithm, &secret, &secret_file, &public_key_file) {
        (Algorithm::Hs256, Some(text), None, None) => (Key::from_secret(kid, Secret::new(text.as_bytes())), "secret"),
        (Algorithm::Hs256, None, Some(file), None) => {
            (secret_of(file).and_then(|secret| Key::from_secret(kid, secret)), "secret_file")
        }
        (Algorithm::Hs256, ..) => (Err("HS256 takes either secret or secret_file".to_owned()), "algorithm"),
        (_, None, None, Some(file)) => {
            let pem = std::fs::read(file).map_err(|error| cannot(file, &error));
            let key = pem
                .and_then(|pem| Key::from_pem(kid, algorithm, &pem).map_err(|why| format!("{} {why}", file.display())));
            (key, "public_key_file")
        }
        (..) => (Err(format!("{} takes public_key_file and no secret", algorithm.name())), "algorithm"),
    };
    let read = read.and_then(|key| match key.kid() {
        Some(kid) if others.iter().any(|other| other.fits(key.algorithm(), Some(kid))) => {
            Err("another key has the same kid and algorithm".to_owned())
        }
        _ => Ok(key),
    });
    read.map_err(|why| reader.mistake(at_key(table, option, place), &join(&place.path, option), why)).ok()
}

/// A file is read now, so that what is wrong with it is said with the rest; a URL is not.
fn check_set(reader: &mut Reader<'_>, root: &DeTable<'_>, options: &TokenOptions) {
    let mut mistake = |key: &str, why: String| {
        let at = root.get("tokens").and_then(|table| place_of(table, key));
        reader.mistake(at, &join("tokens", key), why);
    };
    if let Some(file) = &options.jwks_file {
        let read = read_file(file, None).and_then(|read| read.map_or(Ok(()), |(_, bytes)| read_set(&bytes).map(drop)));
        if let Err(why) = read {
            mistake("jwks_file", format!("{} {why}", file.display()));
        }
    }
    let Some(url) = &options.jwks_url else { return };
    if options.jwks_file.is_some() {
        mistake("jwks_url", "stands beside jwks_file: give one of them".to_owned());
    }
    let is_url = url.parse::<hyper::Uri>().is_ok_and(|uri| {
        let host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        host && matches!(uri.scheme_str(), Some("https" | "http"))
    });
    if !is_url {
        mistake("jwks_url", "expected an https or http URL without a password in it".to_owned());
    }
}

#[cfg(test)]
mod tests;
