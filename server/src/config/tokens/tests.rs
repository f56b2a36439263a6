use crate::auth::keys::Algorithm;
use crate::config::Config;

const RSA_PUB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/testdata/rsa.pub.pem");
const RSA_PEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/testdata/rsa.pem");

fn mistakes(text: &str) -> Vec<String> {
    Config::parse("test.toml", text).unwrap_err().list.iter().map(ToString::to_string).collect()
}

#[test]
fn several_keys_stand_side_by_side() {
    // LC-AUTH-033
    let text = format!(
        "[tokens]\nhs256_secret = \"0123456789abcdef0123456789abcdef\"\n\
         [[tokens.keys]]\nkid = \"next\"\nsecret = \"fedcba9876543210fedcba9876543210\"\n\
         [[tokens.keys]]\nkid = \"next\"\nalgorithm = \"RS256\"\npublic_key_file = \"{RSA_PUB}\"\n"
    );
    let config = Config::parse("t", &text).unwrap();
    let keys: Vec<_> = config.token_keys.iter().map(|key| (key.kid(), key.algorithm())).collect();
    let expected = [(None, Algorithm::Hs256), (Some("next"), Algorithm::Hs256), (Some("next"), Algorithm::Rs256)];
    assert_eq!(keys, expected);
    assert!(!format!("{config:?}").contains("fedcba"), "a secret is not printed");
}

#[test]
fn what_is_wrong_with_keys_is_said_all_at_once() {
    let text = format!(
        "[tokens]\n\
         jwks_file = \"{RSA_PUB}\"\n\
         jwks_url = \"ftp://id.example/keys\"\n\
         [[tokens.keys]]\n\
         kid = \"a\"\n\
         secret = \"short\"\n\
         [[tokens.keys]]\n\
         algorithm = \"RS256\"\n\
         public_key_file = \"{RSA_PEM}\"\n\
         [[tokens.keys]]\n\
         algorithm = \"ES256\"\n\
         public_key_file = \"{RSA_PUB}\"\n\
         [[tokens.keys]]\n\
         algorithm = \"ES256\"\n\
         secret = \"fedcba9876543210fedcba9876543210\"\n\
         [[tokens.keys]]\n\
         algorithm = \"HS512\"\n\
         [[tokens.keys]]\n\
         kid = \"b\"\n\
         secret = \"fedcba9876543210fedcba9876543210\"\n\
         [[tokens.keys]]\n\
         kid = \"b\"\n\
         secret = \"0123456789abcdef0123456789abcdef\"\n\
         [[tokens.keys]]\n\
         keyid = \"b\"\n\
         public_key_file = \"/nowhere\"\n"
    );
    let found = mistakes(&text);
    for (start, word) in [
        ("line 2: tokens.jwks_file: ", "is no JSON Web Key Set"),
        ("line 3: tokens.jwks_url: ", "stands beside jwks_file"),
        ("line 3: tokens.jwks_url: ", "expected an https or http URL"),
        ("line 6: tokens.keys[0].secret: ", "has 5 bytes"),
        ("line 9: tokens.keys[1].public_key_file: ", "private key"),
        ("line 12: tokens.keys[2].public_key_file: ", "no public key for ES256"),
        ("line 14: tokens.keys[3].algorithm: ", "takes public_key_file"),
        ("line 17: tokens.keys[4].algorithm: ", "expected one of HS256, RS256, ES256, EdDSA"),
        ("line 23: tokens.keys[6].secret: ", "same kid and algorithm"),
        ("line 25: tokens.keys[7].keyid: ", "unknown key"),
        ("line 24: tokens.keys[7].algorithm: ", "takes either secret or secret_file"),
    ] {
        let fits = |mistake: &&String| mistake.starts_with(start) && mistake.contains(word);
        assert!(found.iter().find(fits).is_some(), "{start}{word} is not in {found:#?}");
    }
}

#[test]
fn api_keys_have_several_hashes_and_ends() {
    // LC-API-060
    let hash = |digit: &str| digit.repeat(64);
    let text = format!(
        "[[api_keys]]\nname = \"billing\"\nkeys = [\n  {{ sha256 = \"{}\" }},\n  {{ sha256 = \"{}\", not_after = 2027-01-31T01:00:00+01:00 }},\n]\n\
         rights = [{{ allow = [\"publish\"], rooms = [\"a\"] }}]\n",
        hash("1"),
        hash("2"),
    );
    assert_eq!(Config::parse("t", &text).unwrap().api_keys.len(), 1);
    let found = mistakes(&text.replace("2027-01-31T01:00:00+01:00", "\"soon\"").replace(&hash("2"), &hash("1")));
    assert!(found[0].starts_with("line 5: api_keys[0].keys[1].not_after: expected a date and time"), "{found:?}");
    assert!(found[1].starts_with("line 5: api_keys[0].keys[1].sha256: the same key stands elsewhere"), "{found:?}");
    let none = mistakes("[[api_keys]]\nname = \"x\"\nrights = []\n");
    assert!(none[0].contains("api_keys[0].sha256: give either"), "{none:?}");
}

#[test]
fn a_moment_is_read_with_its_zone() {
    use crate::config::read::{Moment, Value as _};
    let read = |text: &str| Moment::read(toml::de::DeValue::parse(text).unwrap().get_ref(), None).ok().map(|at| at.0);
    for (text, expected) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2000-02-29T12:00:00Z", Some(951_825_600_000)),
        ("2027-01-31T01:00:00+01:00", Some(1_801_353_600_000)),
        ("2024-12-31T23:59:59.5-00:30", Some(1_735_691_399_000)),
        ("2027-01-31", None),
        ("2027-01-31T00:00:00", None),
        ("1969-12-31T23:59:59Z", None),
        ("7", None),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}
