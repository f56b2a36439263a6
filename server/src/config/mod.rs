//! Configuration: TOML in, checked values out, all mistakes at once.
//!
//! Promises: a [`Config`] that exists is complete and within bounds; a file with mistakes is refused as a whole, with
//! the line and path of each; unknown keys are mistakes.
//! Refuses: environment variables for single options, includes, and reloading. One file says it all.

mod mistake;
mod options;
mod read;
mod reference;
mod sections;
mod tokens;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use lanecast_protocol::room::Pattern;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use mistake::{Mistake, Mistakes};
pub use reference::reference;
pub use sections::{
    ApiKeyOptions, DeliveryDefault, Drain, EngineKind, EngineOptions, Heartbeat, LaneOptions, Limits, Listen, Log,
    LogFormat, OnEngineDown, Origins, PolicyOptions, RateOptions, ReadinessOptions, Reconnect, Redis, TelemetryOptions,
    TlsOptions, TokenKeyOptions, TokenOptions,
};

use crate::auth::api_key::{ApiKey, ApiKeyHash};
use crate::auth::keys::Key;
use crate::auth::rights::{RightSpec, Rights};
use crate::policy::Policies;
use crate::tls::{self, Files};
use read::{Moment, Place, Reader, join};

/// The node's configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where the node listens.
    pub listen: Listen,
    /// How the node speaks TLS.
    pub tls: TlsOptions,
    /// The certificate of that, as it was in the files.
    pub certificate: Option<Certificate>,
    /// How lanes share a connection.
    pub lanes: LaneOptions,
    /// What a client may ask for.
    pub limits: Limits,
    /// How much anyone may ask.
    pub rates: RateOptions,
    /// When a connection counts as dead.
    pub heartbeat: Heartbeat,
    /// Over what time clients spread their reconnects.
    pub reconnect: Reconnect,
    /// Which pages may connect.
    pub origins: Origins,
    /// How user tokens are checked.
    pub tokens: TokenOptions,
    /// The keys themselves, from the options or their files.
    pub token_keys: Vec<Key>,
    /// Services that may use the HTTP API.
    pub api_keys: Vec<ApiKey>,
    /// Where rooms live.
    pub engine: EngineOptions,
    /// The Redis where they live, if they do.
    pub redis: Redis,
    /// What rooms keep and allow.
    pub policies: Policies,
    /// How the node ends.
    pub drain: Drain,
    /// What `/readyz` says.
    pub readiness: ReadinessOptions,
    /// What the node writes about itself.
    pub log: Log,
    /// What it remembers for whoever asks.
    pub telemetry: TelemetryOptions,
    /// Development: `dev:<user>` tokens from loopback addresses. Set by `--dev` only, never by a file.
    pub dev: bool,
    /// Development: the address of this machine on the local network, where it is opened to phones. Set by `--lan` only.
    pub lan: Option<IpAddr>,
}

/// A certificate with its key, and where it came from.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Where newer ones will be.
    pub files: Files,
    /// What was there.
    pub pair: Arc<tls::Pair>,
}

/// Bytes that must not be printed.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes the bytes, without line ends at their end, which editors add.
    pub fn new(bytes: &[u8]) -> Self {
        let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        Self(bytes[..end].into())
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

const SECTIONS: &[&str] = &[
    "listen",
    "tls",
    "lanes",
    "limits",
    "rates",
    "heartbeat",
    "reconnect",
    "origins",
    "tokens",
    "api_keys",
    "engine",
    "redis",
    "policies",
    "drain",
    "readiness",
    "log",
    "telemetry",
];

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Mistakes::whole(&origin, format!("the file cannot be read: {error}")))?;
        Self::parse(&origin, &text)
    }

    /// Reads the text of a file. `origin` is what messages call it. Files that it names are read too.
    pub fn parse(origin: &str, text: &str) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                reader.mistake(error.span().map(|span| span.start), "", error.message());
            }
            return Err(Mistakes::new(origin, reader.into_mistakes()));
        }
        let config = Self::read(&mut reader, table.get_ref());
        let mistakes = reader.into_mistakes();
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes::new(origin, mistakes)) }
    }

    /// Whether the HTTP port speaks TLS. With the certificate for development it never does: no browser would trust it.
    pub fn speaks_tls(&self) -> bool {
        self.certificate.is_some() && self.tls.http
    }

    fn read(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Self {
        reader.refuse_unknown(root, "", SECTIONS);
        macro_rules! section {
            ($ty:ident, $name:literal) => {{
                let table = root.get($name).and_then(|value| reader.table(value, $name));
                if let Some(table) = table {
                    reader.refuse_unknown(table, $name, $ty::KEYS);
                }
                $ty::read(reader, table, $name)
            }};
        }
        let tls = section!(TlsOptions, "tls");
        let (tokens, token_keys) = tokens::read(reader, root);
        let config = Self {
            listen: section!(Listen, "listen"),
            certificate: read_certificate(reader, root, &tls),
            tls,
            lanes: section!(LaneOptions, "lanes"),
            limits: section!(Limits, "limits"),
            rates: section!(RateOptions, "rates"),
            heartbeat: section!(Heartbeat, "heartbeat"),
            reconnect: section!(Reconnect, "reconnect"),
            origins: section!(Origins, "origins"),
            token_keys,
            tokens,
            api_keys: read_api_keys(reader, root),
            engine: section!(EngineOptions, "engine"),
            redis: section!(Redis, "redis"),
            policies: read_policies(reader, root),
            drain: section!(Drain, "drain"),
            readiness: section!(ReadinessOptions, "readiness"),
            log: section!(Log, "log"),
            telemetry: section!(TelemetryOptions, "telemetry"),
            dev: false,
            lan: None,
        };
        config.check_relations(reader, root);
        config
    }

    /// What must hold between options.
    fn check_relations(&self, reader: &mut Reader<'_>, root: &DeTable<'_>) {
        let mut check = |holds: bool, section: &str, key: &str, sentence: String| {
            if !holds {
                let at = root.get(section).and_then(|value| place_of(value, key));
                reader.mistake(at, &join(section, key), sentence);
            }
        };
        let beat = &self.heartbeat;
        check(
            beat.idle_close_ms >= beat.ping_after_ms.saturating_add(beat.pong_within_ms),
            "heartbeat",
            "idle_close_ms",
            format!(
                "must be at least ping_after_ms + pong_within_ms ({}), or live clients are closed",
                beat.ping_after_ms.saturating_add(beat.pong_within_ms)
            ),
        );
        check(
            self.reconnect.max_ms >= self.reconnect.min_ms,
            "reconnect",
            "max_ms",
            format!("must be at least min_ms ({})", self.reconnect.min_ms),
        );
        check(
            self.limits.signals_burst >= self.limits.signals_per_second,
            "limits",
            "signals_burst",
            format!("must be at least signals_per_second ({})", self.limits.signals_per_second),
        );
        let bulk = self.limits.bulk_bytes_per_second;
        check(
            bulk == 0 || bulk >= BULK_BYTES_MIN,
            "limits",
            "bulk_bytes_per_second",
            format!("must be 0 or at least {BULK_BYTES_MIN}, or one large event takes longer than clients wait"),
        );
        let largest = self.policies.message_bytes_max();
        check(
            self.limits.record_bytes >= largest.saturating_add(ENVELOPE_BYTES),
            "limits",
            "record_bytes",
            format!(
                "must be at least {ENVELOPE_BYTES} more than the largest message_bytes of the policies ({largest})"
            ),
        );
        check(
            self.listen.advertised.as_deref().is_none_or(is_authority),
            "listen",
            "advertised",
            "expected a host and a port, such as \"node-1.internal:8080\"".to_owned(),
        );
        check(
            !self.redis.prefix.contains(['{', '}']),
            "redis",
            "prefix",
            "must not contain { or }, which mark what Redis Cluster hashes".to_owned(),
        );
        check(
            !self.listen.proxy_protocol || !self.listen.trusted_proxies.is_empty(),
            "listen",
            "proxy_protocol",
            "needs trusted_proxies: nobody else may connect then".to_owned(),
        );
        if let Err(why) = crate::telemetry::check_filter(&self.log.filter) {
            check(false, "log", "filter", format!("is no tracing filter: {why}"));
        }
        for origin in &self.origins.allow {
            let is_origin = origin == "*" || origin.split_once("://").is_some_and(|(_, host)| is_host(host));
            check(
                is_origin,
                "origins",
                "allow",
                format!("{origin:?} is no origin such as \"https://app.example.org\""),
            );
        }
    }
}

/// Least cap of lane bulk, bytes per second: the largest record of the defaults takes 16 s, half of what a client may take.
const BULK_BYTES_MIN: u32 = 16_384;

/// What an envelope and its frame may need beside the body.
const ENVELOPE_BYTES: u32 = 2_048;

fn is_host(host: &str) -> bool {
    !host.is_empty() && !host.contains(['/', ' ', '*', '@'])
}

/// Host and port, as other machines would write them in a URL.
fn is_authority(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| is_host(host)).and_then(|(_, port)| port.parse::<u16>().ok());
    port.is_some_and(|port| port > 0) && text.len() <= 255 && text.chars().all(|c| c.is_ascii_graphic())
}

/// Byte at which the value of a key in a table stands, or the table itself.
fn place_of(table: &Spanned<DeValue<'_>>, key: &str) -> Option<usize> {
    let inner = table.get_ref().as_table().and_then(|table| table.get(key));
    Some(inner.map_or(table.span().start, |value| value.span().start))
}

fn read_certificate(reader: &mut Reader<'_>, root: &DeTable<'_>, options: &TlsOptions) -> Option<Certificate> {
    let mut mistake = |key: &str, sentence: String| {
        let at = root.get("tls").and_then(|table| place_of(table, key));
        reader.mistake(at, &join("tls", key), sentence);
    };
    let files = match (&options.certificate_file, &options.key_file) {
        (None, None) => return None,
        (None, Some(_)) => {
            mistake("certificate_file", "must be given beside key_file".to_owned());
            return None;
        }
        (Some(_), None) => {
            mistake("key_file", "must be given beside certificate_file".to_owned());
            return None;
        }
        (Some(certificate), Some(key)) => Files { certificate: certificate.clone(), key: key.clone() },
    };
    match files.read() {
        Ok(pair) => Some(Certificate { files, pair: Arc::new(pair) }),
        Err(wrong) => {
            for wrong in wrong {
                match wrong.file {
                    tls::File::Certificate => mistake("certificate_file", wrong.why),
                    tls::File::Key => mistake("key_file", wrong.why),
                }
            }
            None
        }
    }
}

fn read_api_keys(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<ApiKey> {
    let Some(list) = root.get("api_keys") else { return Vec::new() };
    let mut keys: Vec<ApiKey> = Vec::new();
    for (place, table) in reader.tables(list, "api_keys") {
        let known: Vec<&str> = ApiKeyOptions::KEYS.iter().copied().chain(["keys", "rights"]).collect();
        reader.refuse_unknown(table, &place.path, &known);
        let options = ApiKeyOptions::read(reader, Some(table), &place.path);
        let rights = read_rights(reader, table, &place);
        let mut key = match ApiKey::new(&options.name, rights) {
            Ok(key) => {
                if keys.iter().any(|other| other.name() == key.name()) {
                    reader.mistake(Some(place.at), &join(&place.path, "name"), "another API key has the same name");
                }
                key
            }
            Err(why) => {
                reader.mistake(at_key(table, "name", &place), &join(&place.path, "name"), why);
                // The file is refused; what else is wrong with the key is to be said too.
                let Ok(nameless) = ApiKey::new("nameless", Rights::default()) else { continue };
                nameless
            }
        };
        let (hash, key_file) = (options.sha256.as_deref(), options.key_file.as_deref());
        let more = table.get("keys").map_or_else(Vec::new, |list| reader.tables(list, &join(&place.path, "keys")));
        if hash.is_some() || key_file.is_some() || more.is_empty() {
            add_hash(reader, &mut key, &keys, table, &place, ApiKeyHash { hash, key_file, not_after: None });
        }
        for (place, table) in more {
            reader.refuse_unknown(table, &place.path, &["sha256", "key_file", "not_after"]);
            let mut text = |name: &str| {
                table.get(name).and_then(|value| reader.value::<String>(value, &join(&place.path, name), None))
            };
            let (hash, key_file) = (text("sha256"), text("key_file").map(std::path::PathBuf::from));
            let not_after = table
                .get("not_after")
                .and_then(|value| reader.value::<Moment>(value, &join(&place.path, "not_after"), None))
                .map(|moment| moment.0);
            let (hash, key_file) = (hash.as_deref(), key_file.as_deref());
            add_hash(reader, &mut key, &keys, table, &place, ApiKeyHash { hash, key_file, not_after });
        }
        keys.push(key);
    }
    keys
}

/// Adds one of the keys of a service, which no other may have.
fn add_hash(
    reader: &mut Reader<'_>,
    key: &mut ApiKey,
    others: &[ApiKey],
    table: &DeTable<'_>,
    place: &Place,
    options: ApiKeyHash<'_>,
) {
    if let Err((option, why)) = key.add(options, others) {
        reader.mistake(at_key(table, option, place), &join(&place.path, option), why);
    }
}

/// Byte at which the value of a key stands, or the table.
fn at_key(table: &DeTable<'_>, key: &str, place: &Place) -> Option<usize> {
    Some(table.get(key).map_or(place.at, |value| value.span().start))
}

fn read_rights(reader: &mut Reader<'_>, key: &DeTable<'_>, place: &Place) -> Rights {
    let path = join(&place.path, "rights");
    let Some(list) = key.get("rights") else {
        reader.mistake(Some(place.at), &path, "must be given: what the key may do, and in which rooms");
        return Rights::default();
    };
    let mut specs = Vec::new();
    for (place, table) in reader.tables(list, &path) {
        reader.refuse_unknown(table, &place.path, &["allow", "rooms", "types", "lane"]);
        let spec = RightSpec {
            allow: read_list(reader, table, &place, "allow").unwrap_or_default(),
            rooms: read_list(reader, table, &place, "rooms").unwrap_or_default(),
            types: read_list(reader, table, &place, "types"),
            lane: table.get("lane").and_then(|value| reader.value(value, &join(&place.path, "lane"), None)),
        };
        match spec.check_strictly() {
            Ok(()) => specs.push(spec),
            Err(why) => reader.mistake(Some(place.at), &place.path, why),
        }
    }
    Rights::from_specs(specs).unwrap_or_default()
}

fn read_list(reader: &mut Reader<'_>, table: &DeTable<'_>, place: &Place, key: &str) -> Option<Vec<String>> {
    table.get(key).and_then(|value| reader.value::<Vec<String>>(value, &join(&place.path, key), None))
}

fn read_policies(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Policies {
    let Some(list) = root.get("policies") else { return Policies::default() };
    let mut policies = Vec::new();
    for (place, table) in reader.tables(list, "policies") {
        reader.refuse_unknown(table, &place.path, PolicyOptions::KEYS);
        let options = PolicyOptions::read(reader, Some(table), &place.path);
        let at = |key: &str| table.get(key).map(|value| value.span().start).or(Some(place.at));
        if !table.contains_key("rooms") {
            reader.mistake(Some(place.at), &join(&place.path, "rooms"), "must be given: the pattern of the rooms");
            continue;
        }
        if options.signal_ttl_ms > options.signal_ttl_max_ms {
            let sentence = format!("must be at least signal_ttl_ms ({})", options.signal_ttl_ms);
            reader.mistake(at("signal_ttl_max_ms"), &join(&place.path, "signal_ttl_max_ms"), sentence);
        }
        if !options.lanes.contains(&options.default_lane) {
            reader.mistake(at("lanes"), &join(&place.path, "lanes"), "must have default_lane among them");
        }
        match Pattern::new(&options.rooms) {
            Ok(pattern) if pattern.as_str().contains("{user}") => {
                let sentence = "a policy knows no user: write `*` instead of `{user}`";
                reader.mistake(at("rooms"), &join(&place.path, "rooms"), sentence);
            }
            Ok(pattern) => policies.push((pattern, options)),
            Err(why) => reader.mistake(at("rooms"), &join(&place.path, "rooms"), format!("{why}")),
        }
    }
    Policies::new(policies)
}

#[cfg(test)]
mod tests;
