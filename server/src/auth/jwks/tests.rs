use std::sync::atomic::AtomicUsize;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::auth::keys::Algorithm;

/// A set with one key of that id.
fn set(kid: &str) -> String {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let key = Key::from_pem(None, Algorithm::EdDsa, pair.public_key_pem().as_bytes()).unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(key.decoding(), None).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    jwk["kid"] = json!(kid);
    json!({"keys": [jwk]}).to_string()
}

fn ids(jwks: &Jwks) -> Vec<String> {
    jwks.keys().iter().filter_map(Key::kid).map(str::to_owned).collect()
}

/// What an issuer answers, and how often it was asked.
struct Issuer {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let issuer = Self { url, answer: Arc::clone(&answer), asked: Arc::clone(&asked) };
        drop(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2_048];
                let _ = stream.read(&mut request).await;
                asked.fetch_add(1, Ordering::Relaxed);
                let answer = answer.lock().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }));
        issuer
    }

    fn says(&self, answer: String) {
        *self.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn start(change: impl FnOnce(&mut TokenOptions)) -> (Arc<Jwks>, Arc<Metrics>, Clock) {
    let mut options = TokenOptions { jwks_age_max_ms: 60_000, ..TokenOptions::default() };
    change(&mut options);
    let clock = Clock::manual(1_800_000_000_000);
    let jwks = Arc::new(Jwks::new(&options, clock.clone()).unwrap());
    let metrics = Arc::new(Metrics::new());
    let (kept, counted) = (Arc::clone(&jwks), Arc::clone(&metrics));
    drop(tokio::spawn(async move { kept.keep(&counted).await }));
    (jwks, metrics, clock)
}

#[tokio::test]
async fn an_unknown_key_has_the_url_asked_again_at_a_bounded_rate() {
    // LC-AUTH-034
    let issuer = Issuer::start(ok(&set("one"))).await;
    let (jwks, _, clock) = start(|options| options.jwks_url = Some(issuer.url.clone()));
    jwks.read_once().await;
    assert_eq!(ids(&jwks), ["one"]);
    issuer.says(ok(&set("two")));
    jwks.look_again().await;
    assert_eq!((ids(&jwks), issuer.asked()), (vec!["one".to_owned()], 1), "it was asked a moment ago");
    clock.advance(Duration::from_millis(ASKED_EVERY_MS));
    jwks.look_again().await;
    assert_eq!((ids(&jwks), issuer.asked()), (vec!["two".to_owned()], 2));
    // A thousand made-up ids are no more than one.
    for _ in 0..1_000 {
        jwks.look_again().await;
    }
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn the_last_good_set_holds_until_it_is_too_old() {
    // LC-AUTH-034
    let issuer = Issuer::start(ok(&set("one"))).await;
    let (jwks, metrics, clock) = start(|options| options.jwks_url = Some(issuer.url.clone()));
    jwks.read_once().await;
    let huge = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(SET_BYTES_MAX));
    let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned();
    for bad in [
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into(),
        redirect,
        ok("nonsense"),
        ok(&huge),
        ok("{\"keys\":[]}"),
    ] {
        issuer.says(bad.clone());
        let failures = metrics.jwks_failures.get();
        clock.advance(Duration::from_millis(ASKED_EVERY_MS));
        jwks.look_again().await;
        assert_eq!((ids(&jwks), metrics.jwks_failures.get()), (vec!["one".to_owned()], failures + 1), "{bad:.30}");
    }
    clock.advance(Duration::from_millis(9_999));
    assert_eq!(ids(&jwks).len(), 1);
    clock.advance(Duration::from_millis(1));
    assert!(ids(&jwks).is_empty(), "a minute old");
    issuer.says(ok(&set("two")));
    jwks.look_again().await;
    assert_eq!(ids(&jwks), ["two"]);
}

#[tokio::test]
async fn nobody_at_the_url_delays_a_start_and_a_token_no_longer_than_said() {
    let (jwks, metrics, _) = start(|options| options.jwks_url = Some("http://127.0.0.1:1/keys".into()));
    tokio::time::timeout(Duration::from_secs(2), jwks.read_once()).await.unwrap();
    assert_eq!((jwks.keys().len(), metrics.jwks_failures.get()), (0, 1));
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_kept_while_it_is_broken() {
    // LC-AUTH-034
    let path = std::env::temp_dir().join(format!("lanecast-jwks-{:016x}.json", rand::random::<u64>()));
    std::fs::write(&path, set("one")).unwrap();
    let (jwks, metrics, clock) = start(|options| options.jwks_file = Some(path.clone()));
    jwks.read_once().await;
    assert_eq!(ids(&jwks), ["one"]);
    let look = async || {
        clock.advance(Duration::from_millis(ASKED_EVERY_MS));
        jwks.look_again().await;
        ids(&jwks)
    };
    std::fs::write(&path, "half a fi").unwrap();
    assert_eq!((look().await, metrics.jwks_failures.get()), (vec!["one".to_owned()], 1));
    std::fs::write(&path, set("number two")).unwrap();
    assert_eq!(look().await, ["number two"]);
    for _ in 0..10 {
        assert_eq!(look().await, ["number two"], "an unchanged file does not grow old");
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!((look().await, metrics.jwks_failures.get()), (vec!["number two".to_owned()], 2));
}
