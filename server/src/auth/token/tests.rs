use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::config::Secret;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NEXT_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";
const RETIRED_SECRET: &[u8] = b"a secret that was rotated out...";
const RSA_PEM: &[u8] = include_bytes!("../testdata/rsa.pem");
const RSA_PUB: &[u8] = include_bytes!("../testdata/rsa.pub.pem");
const NOW_MS: u64 = 1_800_000_000_000;
const NOW: u64 = NOW_MS / 1_000;

fn verifier() -> Verifier {
    Verifier::new(&TokenOptions {
        audience: Some("chat".into()),
        issuer: Some("https://id.example".into()),
        leeway_ms: 5_000,
        lifetime_max_ms: 86_400_000,
        ..TokenOptions::default()
    })
}

fn keys() -> Vec<Key> {
    vec![
        Key::from_secret(None, Secret::new(SECRET)).unwrap(),
        Key::from_secret(Some("next"), Secret::new(NEXT_SECRET)).unwrap(),
        Key::from_pem(Some("rsa"), Algorithm::Rs256, RSA_PUB).unwrap(),
    ]
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
    sign_with(header, claims, &EncodingKey::from_secret(secret), jsonwebtoken::Algorithm::HS256)
}

fn sign_with(header: Value, claims: &Value, key: &EncodingKey, algorithm: jsonwebtoken::Algorithm) -> String {
    let body = format!("{}.{}", encode(&header), encode(claims));
    let signature = jsonwebtoken::crypto::sign(body.as_bytes(), key, algorithm).unwrap();
    format!("{body}.{signature}")
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn hs256(changes: Value) -> String {
    sign(json!({"alg": "HS256", "typ": "JWT"}), &claims(changes), SECRET)
}

fn verify(token: &str) -> Result<Verified, TokenError> {
    verifier().verify(keys().iter(), token, NOW_MS)
}

fn code(token: &str) -> Result<String, Code> {
    verify(token).map(|verified| verified.user).map_err(|error| error.code())
}

#[test]
fn a_good_token_says_who_and_what() {
    let verified = verify(&hs256(json!({}))).unwrap();
    assert_eq!(verified.user, "ann");
    assert_eq!(verified.device.as_deref(), Some("phone"));
    assert_eq!(verified.expires_at_ms, (NOW + 65) * 1_000, "what clocks may differ by included");
    assert_eq!(verified.issued_at_ms, (NOW - 60) * 1_000);
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
        json!({"iat": NOW + 5}),
        json!({"exp": NOW + 86_400}),
        json!({"sub": "ann", "unknown": {"claim": 1}}),
        json!({"lanecast": {"rights": [{"allow": ["a later verb"], "rooms": ["a"]}], "later": 1}}),
    ];
    for changes in good {
        assert_eq!(code(&hs256(changes.clone())), Ok("ann".to_owned()), "{changes}");
    }
    let expired = [
        json!({"exp": NOW - 6}),
        json!({"exp": NOW - 5}),
        json!({"exp": 0}),
        json!({"nbf": NOW + 6}),
        json!({"iat": NOW + 6}),
        json!({"nbf": 4_102_444_800_u64, "exp": 4_102_448_400_u64}),
    ];
    for changes in expired {
        assert_eq!(code(&hs256(changes.clone())), Err(Code::TokenExpired), "{changes}");
    }
    let long = "x".repeat(201);
    let bad = [
        json!({"exp": null}),
        json!({"exp": "soon"}),
        json!({"exp": -1}),
        json!({"exp": NOW + 86_402}),
        json!({"exp": 9e14}),
        json!({"nbf": "now"}),
        json!({"jti": ""}),
        json!({"jti": "x".repeat(129)}),
        json!({"jti": 7}),
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
        json!({"alg": "EdDSA"}),
        json!({"alg": "PS256"}),
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "jwk": {"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)}}),
        json!({"alg": "HS256", "jku": "https://evil.example/keys"}),
        json!({"alg": "HS256", "x5u": "https://evil.example/cert"}),
        json!({"alg": "HS256", "x5c": ["AAAA"]}),
        json!({"alg": "HS256", "kid": 7}),
    ] {
        assert_eq!(code(&sign(header.clone(), &claims, SECRET)), Err(Code::BadToken), "{header}");
    }
    let unsigned = format!("{}.{}.", encode(&json!({"alg": "none"})), encode(&claims));
    assert_eq!(code(&unsigned), Err(Code::BadToken));
    let stripped = format!("{}.{}.", encode(&json!({"alg": "HS256"})), encode(&claims));
    assert_eq!(code(&stripped), Err(Code::BadToken));
}

#[test]
fn a_key_is_found_by_its_id_and_checks_its_own_algorithm() {
    // LC-AUTH-030, LC-AUTH-033
    let claims = claims(json!({}));
    let rsa = EncodingKey::from_rsa_pem(RSA_PEM).unwrap();
    let secret = |kid: Value, secret: &[u8]| sign(json!({"alg": "HS256", "kid": kid}), &claims, secret);
    let by_rsa =
        |kid: Value| sign_with(json!({"alg": "RS256", "kid": kid}), &claims, &rsa, jsonwebtoken::Algorithm::RS256);
    let plain = sign(json!({"alg": "HS256"}), &claims, NEXT_SECRET);
    for (what, token, good) in [
        ("without a kid any key of the algorithm", plain, true),
        ("by its kid", secret(json!("next"), NEXT_SECRET), true),
        ("RSA by its kid", by_rsa(json!("rsa")), true),
        ("the wrong key for the kid", secret(json!("next"), SECRET), false),
        ("an unknown kid with a key that has none", secret(json!("other"), SECRET), false),
        ("an empty kid", secret(json!(""), SECRET), false),
        ("a kid that is absurdly long", secret(json!("k".repeat(300)), SECRET), false),
        ("a rotated key under its kid", secret(json!("former"), RETIRED_SECRET), false),
        ("a rotated key without a kid", sign(json!({"alg": "HS256"}), &claims, RETIRED_SECRET), false),
        ("an unknown kid for RSA", by_rsa(json!("next")), false),
        // The classic confusion: HMAC with the public key, which everybody has.
        ("the public key as a secret", sign(json!({"alg": "HS256"}), &claims, RSA_PUB), false),
        ("the public key as a secret, by its kid", secret(json!("rsa"), RSA_PUB), false),
        ("the public key as a secret, trimmed", secret(json!("rsa"), RSA_PUB.trim_ascii()), false),
        (
            "RS256 in the header, signed with the secret",
            sign(json!({"alg": "RS256", "kid": "rsa"}), &claims, SECRET),
            false,
        ),
    ] {
        let expected = if good { Ok("ann".to_owned()) } else { Err(Code::BadToken) };
        assert_eq!(code(&token), expected, "{what}");
    }
    assert_eq!(verify(&by_rsa(json!("gone"))).unwrap_err(), TokenError::UnknownKey);
}

#[test]
fn a_token_without_a_kid_is_not_tried_with_many_keys() {
    // LC-SEC-009
    let key = |at: usize| Key::from_secret(Some(&at.to_string()), Secret::new(format!("{SECRET:?}{at}").as_bytes()));
    let mut keys: Vec<Key> = (0..TRIED_MAX).map(|at| key(at).unwrap()).collect();
    let token = sign(json!({"alg": "HS256"}), &claims(json!({})), keys[0].secret().unwrap().expose());
    assert!(verifier().verify(keys.iter(), &token, NOW_MS).is_ok());
    keys.push(key(TRIED_MAX).unwrap());
    assert!(verifier().verify(keys.iter(), &token, NOW_MS).is_err());
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
    assert_eq!(verify(&large).unwrap_err(), TokenError::TooLarge);
    let padded = hs256(json!({"sub": "ann", "pad": "x".repeat(TOKEN_BYTES_MAX)}));
    assert_eq!(verify(&padded).unwrap_err(), TokenError::TooLarge);
    for token in ["", ".", "..", "...", "a.b.c", "é", "dev:ann", &"x".repeat(TOKEN_BYTES_MAX)] {
        assert_eq!(code(token), Err(Code::BadToken), "{token:?}");
    }
}

#[test]
fn a_node_without_an_audience_takes_no_token_made_for_one() {
    let plain = Verifier::new(&TokenOptions::default());
    assert!(plain.verify(keys().iter(), &hs256(json!({"aud": null})), NOW_MS).is_ok());
    assert!(plain.verify(keys().iter(), &hs256(json!({})), NOW_MS).is_err());
}

#[test]
fn a_minted_token_verifies() {
    let claims: Claims = serde_json::from_value(claims(json!({}))).unwrap();
    let secret = EncodingKey::from_secret(SECRET);
    assert_eq!(code(&mint(&claims, Algorithm::Hs256, None, &secret).unwrap()), Ok("ann".to_owned()));
    let rsa = EncodingKey::from_rsa_pem(RSA_PEM).unwrap();
    assert_eq!(code(&mint(&claims, Algorithm::Rs256, Some("rsa".into()), &rsa).unwrap()), Ok("ann".to_owned()));
}
