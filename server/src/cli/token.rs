//! `lanecast token`: mints user tokens, for trying things out and for backends without a JWT library.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jsonwebtoken::EncodingKey;
use lanecast_protocol::room::check_user;

use super::Failure;
use crate::auth::keys::{Algorithm, Key, SECRET_BYTES_MIN, signing_key};
use crate::auth::rights::RightSpec;
use crate::auth::token::{
    Claims, LanecastClaim, OneOrMany, SIGNALS_PER_SECOND_MAX, Seconds, is_device, is_token_id, mint,
};
use crate::clock::Clock;
use crate::config::{Config, Secret};

#[derive(Debug, Args)]
pub(super) struct Token {
    /// The user.
    #[arg(long)]
    user: String,
    /// The device of the user.
    #[arg(long)]
    device: Option<String>,
    /// What the token allows, once for each right: VERBS@PATTERNS, such as
    /// "subscribe,publish,history@chat.*,room.{user}.**", or the JSON list of the claim `lanecast.rights`.
    #[arg(long = "rights", value_name = "RIGHTS")]
    rights: Vec<String>,
    /// For how long: a number with s, m, h or d.
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// File with the secret, for HS256.
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    secret_file: Option<PathBuf>,
    /// PEM file (PKCS#8) with the private key, for RS256, ES256 or EdDSA: the key says which.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Id of the key, for the token's header; without a file, which secret of the configuration signs.
    #[arg(long)]
    kid: Option<String>,
    /// Id of the token, by which it can be revoked alone; else one at random.
    #[arg(long)]
    jti: Option<String>,
    /// Signals that a connection with it may send in a second, instead of what the node's limits say.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SIGNALS_PER_SECOND_MAX.into()))]
    signals_per_second: Option<u32>,
    /// Configuration of the node: secrets, audience and issuer.
    #[arg(long, value_name = "FILE", env = "LANECAST_CONFIG")]
    config: Option<PathBuf>,
}

impl Token {
    pub(super) fn run(self) -> Result<(), Failure> {
        println!("{}", self.mint(&Clock::system())?);
        Ok(())
    }

    fn mint(self, clock: &Clock) -> Result<String, Failure> {
        let config = match &self.config {
            Some(file) => Config::load(file)?,
            None => Config::default(),
        };
        let (algorithm, key) = self.signing_key(&config)?;
        check_user(&self.user)?;
        if self.device.as_ref().is_some_and(|device| !is_device(device)) {
            return Err("a device has 1 to 128 bytes and no control characters".into());
        }
        if self.jti.as_ref().is_some_and(|id| !is_token_id(id)) {
            return Err("the id of a token has 1 to 128 bytes and no control characters".into());
        }
        let now = clock.now_ms() / 1_000;
        let claims = Claims {
            sub: self.user,
            device: self.device,
            exp: Seconds(now.saturating_add(self.ttl.as_secs())),
            nbf: None,
            iat: Some(Seconds(now)),
            aud: config.tokens.audience.map(OneOrMany::One),
            iss: config.tokens.issuer,
            jti: self.jti.or_else(|| Some(format!("{:016x}", rand::random::<u64>()))),
            lanecast: Some(LanecastClaim {
                rights: rights(&self.rights)?,
                signals_per_second: self.signals_per_second,
            }),
        };
        Ok(mint(&claims, algorithm, self.kid, &key)?)
    }

    /// The key that signs: from a file, or the secret of the configuration.
    fn signing_key(&self, config: &Config) -> Result<(Algorithm, EncodingKey), Failure> {
        let read = |file: &PathBuf| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
        if let Some(file) = &self.key_file {
            return Ok(signing_key(&read(file)?).map_err(|why| format!("{}: {why}", file.display()))?);
        }
        let secret = match &self.secret_file {
            Some(file) => Secret::new(&read(file)?),
            None => {
                let mut keys = config.token_keys.iter().filter(|key| key.kid() == self.kid.as_deref());
                let secret = keys.find_map(Key::secret).cloned();
                secret.ok_or("give --secret-file, --key-file, or --config with a secret (--kid says which)")?
            }
        };
        if secret.expose().len() < SECRET_BYTES_MIN {
            return Err("the secret has fewer than 32 bytes: the node would refuse it".into());
        }
        Ok((Algorithm::Hs256, EncodingKey::from_secret(secret.expose())))
    }
}

fn rights(texts: &[String]) -> Result<Vec<RightSpec>, Failure> {
    let mut specs = Vec::new();
    for text in texts {
        if text.trim_start().starts_with('[') {
            specs.extend(serde_json::from_str::<Vec<RightSpec>>(text)?);
            continue;
        }
        let (verbs, rooms) = text.split_once('@').ok_or_else(|| format!("{text:?} is not VERBS@PATTERNS"))?;
        let list = |words: &str| words.split(',').map(|word| word.trim().to_owned()).collect();
        specs.push(RightSpec { allow: list(verbs), rooms: list(rooms), types: None, lane: None });
    }
    for spec in &specs {
        spec.check_strictly()?;
    }
    Ok(specs)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.chars().next_back().unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err("expected a number with s, m, h or d, such as 90m".to_owned()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| "expected a number before the unit".to_owned())?;
    number.checked_mul(seconds).filter(|s| *s > 0).map(Duration::from_secs).ok_or("out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Auth;
    use crate::auth::rights::Verb;

    const NOW_MS: u64 = 1_800_000_000_000;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("lanecast-token-{:016x}", rand::random::<u64>()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn token(change: impl FnOnce(&mut Token)) -> Token {
        let mut token = Token {
            user: "ann".into(),
            device: None,
            rights: vec!["subscribe,history@chat.*,room.{user}.**".into()],
            ttl: duration("90m").unwrap(),
            secret_file: None,
            key_file: None,
            kid: None,
            signals_per_second: None,
            jti: None,
            config: None,
        };
        change(&mut token);
        token
    }

    async fn user(config: &str, token: &str) -> Result<crate::auth::Identity, crate::auth::token::TokenError> {
        let auth = Auth::new(&Config::parse("test", config).unwrap(), Clock::manual(NOW_MS));
        auth.user(token, "", [192, 0, 2, 1].into()).await
    }

    #[tokio::test]
    async fn a_minted_token_is_taken_by_the_node_with_the_secret() {
        let folder = Folder::new();
        let text = "[tokens]\nhs256_secret = \"0123456789abcdef0123456789abcdef\"\naudience = \"chat\"\nleeway_ms = 0\n\
                    [[tokens.keys]]\nkid = \"next\"\nsecret = \"fedcba9876543210fedcba9876543210\"\n";
        let file = folder.write("lanecast.toml", text);
        for kid in [None, Some("next".to_owned())] {
            let change =
                |token: &mut Token| (token.config, token.kid, token.jti) = (Some(file.clone()), kid, Some("t1".into()));
            let minted = token(change).mint(&Clock::manual(NOW_MS)).unwrap();
            let ann = user(text, &minted).await.unwrap();
            assert!(ann.allows(Verb::Subscribe, "room.ann.x") && !ann.allows(Verb::Publish, "room.ann.x"));
            assert_eq!(ann.expires_at_ms, NOW_MS + 5_400_000);
            assert_eq!((ann.mark.token_id.as_deref(), ann.mark.issued_at_ms), (Some("t1"), NOW_MS));
        }
        let unknown = token(|token| (token.config, token.kid) = (Some(file), Some("other".into())));
        assert!(unknown.mint(&Clock::manual(NOW_MS)).is_err());
    }

    #[tokio::test]
    async fn a_token_minted_with_a_private_key_is_taken_by_the_node_with_the_public_one() {
        let folder = Folder::new();
        for (name, kind) in [("ES256", &rcgen::PKCS_ECDSA_P256_SHA256), ("EdDSA", &rcgen::PKCS_ED25519)] {
            let pair = rcgen::KeyPair::generate_for(kind).unwrap();
            let private = folder.write("private.pem", &pair.serialize_pem());
            let public = folder.write("public.pem", &pair.public_key_pem());
            let change = |token: &mut Token| (token.key_file, token.kid) = (Some(private), Some("k".into()));
            let minted = token(change).mint(&Clock::manual(NOW_MS)).unwrap();
            let key = |kid: &str| {
                let file = public.display();
                format!("[[tokens.keys]]\nkid = \"{kid}\"\nalgorithm = \"{name}\"\npublic_key_file = \"{file}\"\n")
            };
            assert_eq!(&*user(&key("k"), &minted).await.unwrap().user, "ann", "{name}");
            assert_eq!(user(&key("other"), &minted).await.unwrap_err().code().number(), 4100, "{name}");
        }
    }

    #[test]
    fn rights_are_read_in_both_forms_and_typos_refused() {
        let spec = rights(&["subscribe@a,b@x".into(), r#"[{"allow":["mark"],"rooms":["a"]}]"#.into()]).unwrap();
        assert_eq!(spec.len(), 2);
        assert_eq!(spec[0].rooms, ["a", "b@x"]);
        for bad in ["subscribe", "fly@a", "@a", "subscribe@", "subscribe@a*", "[{}]"] {
            assert!(rights(&[bad.into()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("45s"), Ok(Duration::from_secs(45)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "1", "h", "1.5h", "-1h", "1é", "0s", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
