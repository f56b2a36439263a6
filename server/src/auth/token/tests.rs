use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_MS: u64 = 1_800_000_000_000;
const NOW: u64 = NOW_MS / 1_000;

fn verifier() -> Verifier {
    Verifier::new(&Secret::new(SECRET), Some("chat".into()), Some("https://id.example".into()), 5_000)
}

/// Claims that hold, with some of them replaced; `null` removes one.
fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "sub": "ann", "device": "phone", "exp": NOW + 60, "nbf": NOW - 60, "iat": NOW - 60, "aud": "chat",
        "iss": "https://id.example", "jti": "t1",
        "lanecast": {"rights": [{"allow": ["subscribe"], "rooms": ["chat.*"]}]},
    });
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(key);
        } else {
            claims[key] = value.clone();
        }
    }
    claims
}

fn sign(header: Value, claims: &Value, secret: &[u8]) -> String {
    let body = format!("{}.{}", encode(&header), encode(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(body.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{body}.{signature}")
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn hs256(changes: Value) -> String {
    sign(json!({"alg": "HS256", "typ": "JWT"}), &claims(changes), SECRET)
}

fn code(token: &str) -> Result<String, Code> {
    verifier().verify(token, NOW_MS).map(|verified| verified.user).map_err(|error| error.code())
}

#[test]
fn a_good_token_says_who_and_what() {
    let verified = verifier().verify(&hs256(json!({})), NOW_MS).unwrap();
    assert_eq!(verified.user, "ann");
    assert_eq!(verified.device.as_deref(), Some("phone"));
    assert_eq!(verified.expires_at_ms, (NOW + 60) * 1_000);
    assert_eq!(verified.token_id.as_deref(), Some("t1"));
    assert!(verified.rights.allow(super::super::rights::Verb::Subscribe, "chat.a", Some("ann")));
}

#[test]
fn the_table_of_claims() {
    // LC-AUTH-001, LC-AUTH-002, LC-AUTH-031
    let good = [
        json!({"aud": ["other", "chat"]}),
        json!({"device": null, "nbf": null, "iat": null, "jti": null}),
        json!({"lanecast": null}),
        json!({"exp": NOW as f64 + 60.5}),
        json!({"exp": NOW - 4}),
        json!({"nbf": NOW + 4}),
        json!({"sub": "ann", "unknown": {"claim": 1}}),
        json!({"lanecast": {"rights": [{"allow": ["a later verb"], "rooms": ["a"]}], "later": 1}}),
    ];
    for changes in good {
        assert_eq!(code(&hs256(changes.clone())), Ok("ann".to_owned()), "{changes}");
    }
    let expired = [json!({"exp": NOW - 6}), json!({"exp": 0}), json!({"nbf": NOW + 6})];
    for changes in expired {
        assert_eq!(code(&hs256(changes.clone())), Err(Code::TokenExpired), "{changes}");
    }
    let long = "x".repeat(201);
    let bad = [
        json!({"exp": null}),
        json!({"exp": "soon"}),
        json!({"exp": -1}),
        json!({"aud": null}),
        json!({"aud": "other"}),
        json!({"aud": ["other"]}),
        json!({"iss": null}),
        json!({"iss": "https://evil.example"}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": "*"}),
        json!({"sub": "a*b"}),
        json!({"sub": "a\u{0}b"}),
        json!({"sub": "a\nb"}),
        json!({"sub": long}),
        json!({"sub": 7}),
        json!({"device": ""}),
        json!({"device": "a\nb"}),
        json!({"lanecast": "all"}),
        json!({"lanecast": {}}),
        json!({"lanecast": {"rights": [{"allow": ["subscribe"]}]}}),
        json!({"lanecast": {"rights": [{"allow": ["subscribe"], "rooms": ["a*"]}]}}),
        json!({"lanecast": {"rights": [{"allow": ["subscribe"], "rooms": ["a"], "lane": "control"}]}}),
        json!({"lanecast": {"rights": [{"allow": ["subscribe"], "rooms": ["a"], "only_on": "monday"}]}}),
        json!({"lanecast": {"rights": vec![json!({"allow": ["mark"], "rooms": ["a"]}); RIGHTS_MAX + 1]}}),
    ];
    for changes in bad {
        assert_eq!(code(&hs256(changes.clone())), Err(Code::BadToken), "{changes}");
    }
}

#[test]
fn the_algorithm_is_the_nodes_choice() {
    // LC-AUTH-030
    let claims = claims(json!({}));
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "HS384"}),
        json!({"alg": "RS256"}),
        json!({"alg": "ES256"}),
        json!({"typ": "JWT"}),
        json!({"alg": "HS256", "crit": ["exp"]}),
    ] {
        assert_eq!(code(&sign(header.clone(), &claims, SECRET)), Err(Code::BadToken), "{header}");
    }
    let unsigned = format!("{}.{}.", encode(&json!({"alg": "none"})), encode(&claims));
    assert_eq!(code(&unsigned), Err(Code::BadToken));
    let stripped = format!("{}.{}.", encode(&json!({"alg": "HS256"})), encode(&claims));
    assert_eq!(code(&stripped), Err(Code::BadToken));
}

#[test]
fn only_the_nodes_secret_signs() {
    let header = json!({"alg": "HS256"});
    assert_eq!(code(&sign(header, &claims(json!({})), b"another secret of thirty-two byt")), Err(Code::BadToken));
    let token = hs256(json!({}));
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let swapped = format!("{header}.{}.{signature}", encode(&claims(json!({"sub": "root"}))));
    assert_eq!(code(&swapped), Err(Code::BadToken));
}

#[test]
fn what_is_no_token_is_bad() {
    let large = "x".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(verifier().verify(&large, NOW_MS).unwrap_err(), TokenError::TooLarge);
    let padded = hs256(json!({"sub": "ann", "pad": "x".repeat(TOKEN_BYTES_MAX)}));
    assert_eq!(verifier().verify(&padded, NOW_MS).unwrap_err(), TokenError::TooLarge);
    for token in ["", ".", "..", "...", "a.b.c", "é", "dev:ann", &"x".repeat(TOKEN_BYTES_MAX)] {
        assert_eq!(code(token), Err(Code::BadToken), "{token:?}");
    }
}

#[test]
fn a_node_without_an_audience_takes_no_token_made_for_one() {
    let plain = Verifier::new(&Secret::new(SECRET), None, None, 0);
    assert!(plain.verify(&hs256(json!({"aud": null})), NOW_MS).is_ok());
    assert!(plain.verify(&hs256(json!({})), NOW_MS).is_err());
}

#[test]
fn a_minted_token_verifies() {
    let claims: Claims = serde_json::from_value(claims(json!({}))).unwrap();
    let token = mint(&claims, &Secret::new(SECRET)).unwrap();
    assert_eq!(code(&token), Ok("ann".to_owned()));
}
