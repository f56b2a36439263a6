//! The checks against real listeners, healthy and not.

use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::report::Verdict;
use super::session::{Beat, is_bunched, judge_clocks};
use super::*;
use crate::api;
use crate::auth::keys::{Algorithm, Key};
use crate::auth::rights::RightSpec;
use crate::auth::token::{Claims, LanecastClaim, Seconds, mint};
use crate::config::{Certificate, Config, Secret};
use crate::testing::Running;
use crate::tls::testing::{Authority, write};
use crate::transport::upgrade;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

async fn node(change: impl FnOnce(&mut Config)) -> Running {
    Running::start(change, Clock::system(), upgrade::routes().merge(api::routes(true))).await
}

fn patient(url: &str) -> Patient {
    let (address, trust) = (Address::parse(url).unwrap(), Arc::new(Pinned::new(Vec::new())));
    Patient { address, token: None, origin: None, trust, clock: Clock::system() }
}

async fn report(patient: &Patient) -> Report {
    let mut report = Report::default();
    examine(patient, &mut report).await;
    assert!(patient.clock.elapsed() < RUN_MAX, "{report:?}");
    report
}

/// The verdict and the line of a check.
#[track_caller]
fn found(report: &Report, name: &str) -> (Verdict, String) {
    let check = report.checks.iter().find(|check| check.name == name);
    let check = check.unwrap_or_else(|| panic!("no check {name}: {report:#?}"));
    (check.verdict, check.to_string())
}

#[track_caller]
fn assert_found(report: &Report, name: &str, verdict: Verdict, text: &str) {
    let (got, line) = found(report, name);
    assert!(got == verdict && line.contains(text), "expected {verdict:?} with {text:?}: {got:?}\n{line}");
}

#[tokio::test]
async fn a_healthy_node_is_usable() {
    let node = node(|_| {}).await;
    let report = report(&patient(&format!("http://{}", node.address))).await;
    for (name, text) in [
        ("TCP", "answers in"),
        ("well-known", "for development"),
        ("origin", "may connect"),
        ("WebSocket", "user \"doctor\""),
        ("Pong", "over 5 pings"),
        ("clocks", "differs by"),
        ("SSE", "the stream begins"),
    ] {
        assert_found(&report, name, Verdict::Ok, text);
    }
    assert_found(&report, "QUIC", Verdict::Skipped, "serves none");
    assert!(report.is_usable());
    let json = report.to_json();
    assert_eq!(json["usable"], true);
    assert!(json["checks"].as_array().unwrap().iter().all(|check| check["verdict"].is_string()), "{json}");
}

#[tokio::test]
async fn quic_and_webtransport_are_tried_to_a_session() {
    let node = node(|_| {}).await;
    node.serve_quic();
    let of_page =
        Patient { origin: Some(format!("http://{}", node.address)), ..patient(&format!("http://{}", node.address)) };
    let of_stranger =
        Patient { origin: Some("https://evil.example".to_owned()), ..patient(&format!("http://{}", node.address)) };
    let (welcome, refused) = tokio::join!(report(&of_page), report(&of_stranger));
    assert_found(&welcome, "QUIC", Verdict::Ok, "user \"doctor\"");
    assert_found(&welcome, "WebTransport", Verdict::Ok, "user \"doctor\"");
    assert!(welcome.is_usable());
    assert_found(&refused, "QUIC", Verdict::Ok, "user \"doctor\"");
    assert_found(&refused, "WebTransport", Verdict::Problem, "[origins] allow");
    assert!(!refused.is_usable());
}

#[tokio::test]
async fn where_tcp_is_blocked_quic_still_makes_the_node_usable() {
    let node = node(|_| {}).await;
    let quic = node.serve_quic();
    let (_, known) = web::well_known(&patient(&format!("http://{}", node.address)), node.address).await;
    let mut report = Report::default();
    let patient = patient("http://127.0.0.1");
    quic::examine(&patient, quic, Some(quic.port()), known.as_ref(), &mut report).await;
    assert!(report.is_usable(), "{report:?}");
}

#[tokio::test]
async fn a_port_that_accepts_and_says_nothing_is_no_node() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = silent.local_addr().unwrap();
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let plain = patient(&format!("http://{at}"));
    let secure = patient(&format!("https://{at}"));
    let (plain, secure) = tokio::join!(report(&plain), report(&secure));
    assert_found(&plain, "well-known", Verdict::Warning, "no answer within");
    assert_found(&plain, "WebSocket", Verdict::Problem, "not answered");
    assert_found(&secure, "TLS", Verdict::Problem, "takes connections and says nothing");
    assert!(!plain.is_usable() && !secure.is_usable());
    holding.abort();
}

#[tokio::test]
async fn nobody_there_is_told_from_a_silent_one() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    drop(taken);
    let report = report(&patient(&format!("http://{at}"))).await;
    assert_found(&report, "TCP", Verdict::Problem, "nothing listens there");
    assert!(!report.is_usable());
}

#[tokio::test]
async fn udp_that_is_swallowed_means_a_fallback() {
    let swallowing = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = swallowing.local_addr().unwrap();
    let patient = patient("http://127.0.0.1");
    let mut report = Report::default();
    quic::examine(&patient, at, Some(at.port()), None, &mut report).await;
    assert_found(&report, "QUIC", Verdict::Warning, &format!("open UDP port {}", at.port()));
    drop(swallowing);
    let mut report = Report::default();
    quic::examine(&patient, at, Some(at.port()), None, &mut report).await;
    assert_found(&report, "QUIC", Verdict::Warning, "nothing listens on UDP port");
}

#[tokio::test]
async fn an_origin_that_is_refused_is_named_with_the_remedy() {
    let node = node(|_| {}).await;
    let mut patient = patient(&format!("http://{}", node.address));
    patient.origin = Some("https://app.example".to_owned());
    let report = report(&patient).await;
    assert_found(&report, "origin", Verdict::Problem, "[origins] allow = [\"https://app.example\"]");
    assert!(!report.is_usable());
}

fn token(expires_s: u64) -> String {
    let all = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let right = RightSpec { allow: all(&["subscribe"]), rooms: all(&["chat.*"]), types: None, lane: None };
    let claims = Claims {
        sub: "ann".to_owned(),
        device: None,
        exp: Seconds(expires_s),
        nbf: None,
        iat: None,
        aud: None,
        iss: None,
        jti: None,
        lanecast: Some(LanecastClaim { rights: vec![right], signals_per_second: None }),
    };
    mint(&claims, Algorithm::Hs256, None, &jsonwebtoken::EncodingKey::from_secret(SECRET)).unwrap()
}

#[tokio::test]
async fn a_token_is_judged_here_and_by_the_node() {
    let node = node(|config| {
        config.dev = false;
        config.token_keys = vec![Key::from_secret(None, Secret::new(SECRET)).unwrap()];
    });
    let node = node.await;
    let now_s = Clock::system().now_ms() / 1_000;
    let with = |token: Option<String>| Patient { token, ..patient(&format!("http://{}", node.address)) };
    let (expired, good, none) = (with(Some(token(now_s - 7_200))), with(Some(token(now_s + 3_600))), with(None));
    let (expired, good, none) = tokio::join!(report(&expired), report(&good), report(&none));

    assert_found(&expired, "token", Verdict::Problem, "expired 2 h ago");
    assert_found(&expired, "WebSocket", Verdict::Problem, "TOKEN_EXPIRED (4101)");
    assert!(!expired.is_usable());

    assert_found(&good, "token", Verdict::Ok, "rights subscribe@chat.*");
    assert_found(&good, "WebSocket", Verdict::Ok, "user \"ann\"");
    assert_found(&good, "SSE", Verdict::Ok, "the stream begins");
    assert!(good.is_usable());

    assert_found(&none, "WebSocket", Verdict::Ok, "wants a token");
    assert!(none.is_usable());
    assert!(!format!("{expired:?}{good:?}").contains(&token(now_s + 3_600)[..40]), "a report holds no token");
}

#[test]
fn what_a_token_says_is_judged() {
    let now_ms = 1_800_000_000_000;
    let judged = |token: &str| {
        let check = token::claims(token, now_ms);
        (check.verdict, check.to_string())
    };
    let of = |claims: serde_json::Value| {
        use base64::Engine as _;
        let part = |value: &serde_json::Value| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&serde_json::json!({"alg": "ES256", "kid": "k1"})), part(&claims))
    };
    let rights =
        serde_json::json!({"rights": [{"allow": ["publish"], "rooms": ["a.*", "b"], "types": ["t"], "lane": "bulk"}]});
    let (verdict, line) = judged(&of(serde_json::json!({
        "sub": "ann", "exp": 1_800_003_600, "aud": ["x", "y"], "lanecast": rights,
    })));
    assert_eq!(verdict, Verdict::Ok);
    for part in ["expires in 60 min", "audience [\"x\",\"y\"]", "key \"k1\"", "publish@a.*,b types t up to bulk"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    for (token, verdict, text) in [
        (of(serde_json::json!({"sub": "a", "exp": 1_799_999_000})), Verdict::Problem, "expired 17 min ago"),
        (
            of(serde_json::json!({"sub": "a", "exp": 1_800_009_000, "nbf": 1_800_000_030})),
            Verdict::Problem,
            "only in 30 s",
        ),
        (of(serde_json::json!({"sub": "a"})), Verdict::Problem, "no time of expiry"),
        (of(serde_json::json!({"sub": "a", "exp": 1_800_000_000_000_u64})), Verdict::Problem, "milliseconds"),
        (of(serde_json::json!({"exp": 1_800_009_000})), Verdict::Problem, "names no user"),
        (of(serde_json::json!({"sub": "a", "exp": 1_800_009_000})), Verdict::Warning, "no rights"),
        ("eyJhbGciOiJub25lIn0.e30.".to_owned(), Verdict::Problem, "alg none"),
        ("Bearer x".to_owned(), Verdict::Problem, "is no JWT"),
        ("x".repeat(9_000), Verdict::Problem, "9000 bytes"),
        ("dev:ann".to_owned(), Verdict::Ok, "own machine only"),
    ] {
        let (got, line) = judged(&token);
        assert!(got == verdict && line.contains(text), "{text}: {got:?} {line}");
    }
}

/// Passes bytes on, those of the node only every so often.
async fn buffering_proxy(to: SocketAddr, every: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let node = TcpStream::connect(to).await.unwrap();
            drop(tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_node, mut to_node) = node.into_split();
                let up = async { drop(tokio::io::copy(&mut from_client, &mut to_node).await) };
                let down = async {
                    let (mut held, mut chunk) = (Vec::new(), [0; 4_096]);
                    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
                    loop {
                        tokio::select! {
                            read = from_node.read(&mut chunk) => match read {
                                Ok(read) if read > 0 => held.extend_from_slice(&chunk[..read]),
                                _ => return,
                            },
                            _ = ticks.tick() => {
                                if to_client.write_all(&std::mem::take(&mut held)).await.is_err() {
                                    return;
                                }
                            }
                        }
                    }
                };
                tokio::join!(up, down);
            }));
        }
    }));
    at
}

#[tokio::test]
async fn a_proxy_that_collects_is_found() {
    let node = node(|_| {}).await;
    let proxy = buffering_proxy(node.address, Duration::from_millis(1_300)).await;
    let report = report(&patient(&format!("http://{proxy}"))).await;
    assert_found(&report, "Pong", Verdict::Warning, "in bunches");
    assert_found(&report, "SSE", Verdict::Warning, "proxy_buffering off");
    assert!(report.is_usable(), "slow, but it works: {report:?}");
}

#[test]
fn bunches_are_told_from_slowness() {
    let beats = |answered: &[u64]| -> Vec<Beat> {
        let sent = (0_u64..).map(|place| Duration::from_millis(place * 250));
        let beat =
            |(sent, answered)| Beat { sent, answered: Duration::from_millis(answered), server_time_ms: 0, wall_ms: 0 };
        sent.zip(answered.iter().copied()).map(beat).collect()
    };
    assert!(!is_bunched(&beats(&[20, 270, 521, 771, 1_020])));
    assert!(!is_bunched(&beats(&[900, 1_150, 1_400, 1_690, 1_900])), "slow is no bunch");
    assert!(!is_bunched(&beats(&[20, 270, 800, 801, 1_020])), "one hiccup is none either");
    assert!(is_bunched(&beats(&[1_200, 1_200, 1_201, 1_201, 1_201])));
    assert!(is_bunched(&beats(&[500, 501, 1_000, 1_001, 1_500])));
    assert!(!is_bunched(&[]));
}

#[test]
fn clocks_are_compared_within_what_the_round_trip_leaves_open() {
    let judged = |server_time_ms, round_trip_ms| {
        let answered = Duration::from_millis(round_trip_ms);
        let beat = Beat { sent: Duration::ZERO, answered, server_time_ms, wall_ms: 1_000_000 };
        let check = judge_clocks(&[beat]);
        (check.verdict, check.finding)
    };
    assert_eq!(judged(1_000_000 - 20, 40).0, Verdict::Ok);
    let (verdict, finding) = judged(1_000_000 + 60_000, 40);
    assert!(verdict == Verdict::Warning && finding.contains("60 s ahead of"), "{finding}");
    assert!(judged(1_000_000 - 400_000, 40).1.contains("7 min behind"));
    assert_eq!(judged(1_000_000 - 2_000 + 5_500, 4_000).0, Verdict::Ok, "the round trip explains it");
}

/// What trusts an authority of a test.
fn trusting(authority: &Authority) -> Arc<dyn ServerCertVerifier> {
    let provider = Arc::new(ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(authority.roots()), provider).build().unwrap()
}

#[tokio::test]
async fn certificates_that_clients_would_refuse_are_explained() {
    let (authority, stranger, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let good = authority.issue();
    let expired = authority.issue_with(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let elsewhere = authority.issue_with(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("chat.example".try_into().unwrap())]
    });
    let of_authority =
        authority.issue_with(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    for (pair, trust, verdict, text) in [
        (&of_authority, trusting(&authority), Verdict::Problem, "CA:FALSE"),
        (&good, trusting(&authority), Verdict::Ok, "certificate for localhost, 127.0.0.1"),
        (&good, trusting(&stranger), Verdict::Problem, "the chain is missing"),
        (&expired, trusting(&authority), Verdict::Problem, "has expired"),
        (&elsewhere, trusting(&authority), Verdict::Problem, "is not for localhost (for chat.example)"),
    ] {
        let files = write(folder.path(), pair);
        let pair = Arc::new(files.read().unwrap());
        let node = node(|config| config.certificate = Some(Certificate { files, pair })).await;
        let mut patient = patient(&format!("https://localhost:{}", node.address.port()));
        patient.trust = trust;
        let report = report(&patient).await;
        assert_found(&report, "TLS", verdict, text);
        assert_eq!(report.is_usable(), verdict == Verdict::Ok);
    }
    let plain = node(|_| {}).await;
    let report = report(&patient(&format!("https://{}", plain.address))).await;
    assert_found(&report, "TLS", Verdict::Problem, "speaks no TLS");
}
