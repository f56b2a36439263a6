use serde_json::{Value, json};

use super::*;

const RSA_PEM: &[u8] = include_bytes!("../testdata/rsa.pem");
const RSA_PUB: &[u8] = include_bytes!("../testdata/rsa.pub.pem");
const RSA_PUB_PKCS1: &[u8] = include_bytes!("../testdata/rsa.pkcs1.pub.pem");
const RSA_1024_PUB: &[u8] = include_bytes!("../testdata/rsa1024.pub.pem");
const P384_PUB: &[u8] = include_bytes!("../testdata/p384.pub.pem");

fn pair(kind: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let pair = rcgen::KeyPair::generate_for(kind).unwrap();
    (pair.serialize_pem(), pair.public_key_pem())
}

#[test]
fn a_public_key_is_taken_for_its_own_algorithm_only() {
    // LC-AUTH-030
    let (ec, ed) = (pair(&rcgen::PKCS_ECDSA_P256_SHA256), pair(&rcgen::PKCS_ED25519));
    let keys = [
        (Algorithm::Rs256, RSA_PUB),
        (Algorithm::Rs256, RSA_PUB_PKCS1),
        (Algorithm::Es256, ec.1.as_bytes()),
        (Algorithm::EdDsa, ed.1.as_bytes()),
    ];
    for (own, pem) in keys {
        for (name, algorithm) in Algorithm::NAMES {
            let read = Key::from_pem(Some("k"), algorithm, pem);
            assert_eq!(read.is_ok(), algorithm == own, "{name}: {:?}", read.err());
        }
    }
    for (algorithm, pem, word) in [
        (Algorithm::Rs256, RSA_PEM, "private key"),
        (Algorithm::Es256, ec.0.as_bytes(), "private key"),
        (Algorithm::Rs256, RSA_1024_PUB, "1024 bits"),
        (Algorithm::Es256, P384_PUB, "no public key for ES256"),
        (Algorithm::EdDsa, b"no PEM".as_slice(), "no PEM"),
        (Algorithm::Rs256, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key for RS256"),
        (Algorithm::Hs256, RSA_PUB, "HS256 takes a secret"),
    ] {
        let why = Key::from_pem(None, algorithm, pem).unwrap_err();
        assert!(why.contains(word), "{why}");
    }
    assert!(Key::from_secret(None, Secret::new(b"short")).is_err());
}

#[test]
fn a_private_key_says_with_what_it_signs() {
    let (ec, ed) = (pair(&rcgen::PKCS_ECDSA_P256_SHA256).0, pair(&rcgen::PKCS_ED25519).0);
    for (pem, algorithm) in
        [(RSA_PEM, Algorithm::Rs256), (ec.as_bytes(), Algorithm::Es256), (ed.as_bytes(), Algorithm::EdDsa)]
    {
        assert_eq!(signing_key(pem).unwrap().0, algorithm);
    }
    for bad in [RSA_PUB, P384_PUB, b"".as_slice()] {
        assert!(signing_key(bad).is_err());
    }
}

/// The public keys of a pair of each kind, as members of a set.
pub(crate) fn jwk(pem: &str, algorithm: Algorithm, kid: &str) -> Value {
    let key = Key::from_pem(None, algorithm, pem.as_bytes()).unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(key.decoding(), Some(algorithm.to_library())).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    jwk["kid"] = json!(kid);
    jwk
}

#[test]
fn the_keys_of_a_set_that_check_tokens_are_taken() {
    // LC-AUTH-034
    let ec = jwk(&pair(&rcgen::PKCS_ECDSA_P256_SHA256).1, Algorithm::Es256, "ec");
    let ed = jwk(&pair(&rcgen::PKCS_ED25519).1, Algorithm::EdDsa, "ed");
    let rsa = jwk(std::str::from_utf8(RSA_PUB).unwrap(), Algorithm::Rs256, "rsa");
    let with = |jwk: &Value, name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        jwk
    };
    let set = json!({"keys": [
        rsa, ec, ed,
        with(&ed, "kid", json!("for verifying")),
        with(&with(&ed, "kid", json!("enc")), "use", json!("enc")),
        with(&with(&ed, "kid", json!("ops")), "key_ops", json!(["sign"])),
        with(&with(&rsa, "kid", json!("pss")), "alg", json!("PS256")),
        with(&with(&ec, "kid", json!("p384")), "crv", json!("P-384")),
        with(&with(&ed, "kid", json!("short")), "x", json!("AAAA")),
        with(&with(&ec, "kid", json!("off the curve")), "x", json!("A".repeat(43))),
        with(&ed, "kid", json!("k".repeat(KID_BYTES_MAX + 1))),
        with(&ed, "kid", json!("ed")),
        {"kty": "oct", "kid": "secret", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
        {"kty": "later"}, 7,
    ]});
    let keys = read_set(set.to_string().as_bytes()).unwrap();
    let ids: Vec<_> = keys.iter().map(|key| (key.kid().unwrap(), key.algorithm().name())).collect();
    assert_eq!(ids, [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA"), ("for verifying", "EdDSA")]);
    let many = json!({"keys": vec![ed.clone(); SET_KEYS_MAX + 1]}).to_string();
    for (text, word) in
        [("", "no JSON Web Key Set"), ("{\"keys\":{}}", "no JSON"), ("{\"keys\":[]}", "no key"), (&many, "101 keys")]
    {
        assert!(read_set(text.as_bytes()).unwrap_err().contains(word), "{text:.40}");
    }
}
