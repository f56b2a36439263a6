//! One GET of a key set.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::header::{ACCEPT, CACHE_CONTROL, USER_AGENT};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::SET_BYTES_MAX;

/// How long a fetch may take, from the name of the host to the last byte.
const FETCH_WITHIN: Duration = Duration::from_secs(5);

type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// What came back.
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    /// How long the server says that it is fresh.
    pub(super) fresh_for: Option<Duration>,
}

/// Fetches from one URL.
pub(super) struct Fetcher {
    url: String,
}

impl Fetcher {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// One GET. Every fetch makes its connection anew: minutes lie between two of them.
    pub(super) async fn fetch(&self) -> Result<Fetched, String> {
        let uri: Uri = self.url.parse().map_err(|_| "is no URL".to_owned())?;
        let client = client(uri.scheme_str() == Some("https"))?;
        tokio::time::timeout(FETCH_WITHIN, get(client, uri))
            .await
            .map_err(|_| format!("gave no answer within {FETCH_WITHIN:?}"))?
    }
}

fn client(tls: bool) -> Result<HttpClient, String> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new();
    let builder = if tls {
        let verified = builder.with_provider_and_platform_verifier(provider);
        verified.map_err(|error| format!("cannot be asked: no certificates of this system can be read: {error}"))?
    } else {
        // Never used: the connector takes one all the same.
        let config = rustls::ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?;
        builder.with_tls_config(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(builder.https_or_http().enable_http1().build()))
}

async fn get(client: HttpClient, uri: Uri) -> Result<Fetched, String> {
    let request = Request::get(uri)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("lanecast/", env!("CARGO_PKG_VERSION")))
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let answer = client.request(request).await.map_err(|error| format!("cannot be reached: {}", whole(&error)))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("answered with status {status}"));
    }
    let fresh_for = answer.headers().get(CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
    let body = axum::body::to_bytes(Body::new(answer.into_body()), SET_BYTES_MAX).await;
    let bytes = body.map_err(|_| format!("broke off, or has more than {SET_BYTES_MAX} bytes"))?;
    Ok(Fetched { bytes, fresh_for })
}

/// An error with its causes, which say more than itself.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The `max-age` of a Cache-Control header; what must not be stored is fresh for no time.
fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    directives.find_map(|directive| {
        if ["no-store", "no-cache"].iter().any(|never| directive.eq_ignore_ascii_case(never)) {
            return Some(Duration::ZERO);
        }
        let (name, value) = directive.split_once('=')?;
        let seconds = name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok())??;
        Some(Duration::from_secs(seconds))
    })
}

impl std::fmt::Display for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_read_from_the_header() {
        for (header, seconds) in [
            ("public, max-age=300", Some(300)),
            ("Max-Age=\"60\"", Some(60)),
            ("no-store", Some(0)),
            ("private", None),
            ("max-age=soon", None),
            ("", None),
        ] {
            assert_eq!(max_age(header), seconds.map(Duration::from_secs), "{header}");
        }
    }
}
