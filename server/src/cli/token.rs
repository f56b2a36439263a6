//! `lanecast token`: mints user tokens, for trying things out and for backends without a JWT library.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lanecast_protocol::room::check_user;

use super::Failure;
use crate::auth::rights::RightSpec;
use crate::auth::token::{Claims, LanecastClaim, OneOrMany, Seconds, is_device, mint};
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
    /// File with the secret.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Configuration of the node: secret, audience and issuer.
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
        let secret = match &self.secret_file {
            Some(file) => {
                let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
                Secret::new(&bytes)
            }
            None => config.hs256_secret.ok_or("give --secret-file, or --config with a secret")?,
        };
        if secret.expose().len() < crate::auth::token::SECRET_BYTES_MIN {
            return Err("the secret has fewer than 32 bytes: the node would refuse it".into());
        }
        check_user(&self.user)?;
        if self.device.as_ref().is_some_and(|device| !is_device(device)) {
            return Err("a device has 1 to 128 bytes and no control characters".into());
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
            jti: Some(format!("{:016x}", rand::random::<u64>())),
            lanecast: Some(LanecastClaim { rights: rights(&self.rights)? }),
        };
        Ok(mint(&claims, &secret)?)
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

fn duration(text: &str) -> Result<Duration, String> {
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

    #[test]
    fn a_minted_token_is_taken_by_the_node_with_the_secret() {
        let folder = std::env::temp_dir().join(format!("lanecast-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("lanecast.toml");
        let text = "[tokens]\nhs256_secret = \"0123456789abcdef0123456789abcdef\"\naudience = \"chat\"\n";
        std::fs::write(&file, text).unwrap();
        let clock = Clock::manual(1_800_000_000_000);
        let token = Token {
            user: "ann".into(),
            device: None,
            rights: vec!["subscribe,history@chat.*,room.{user}.**".into()],
            ttl: duration("90m").unwrap(),
            secret_file: None,
            config: Some(file),
        };
        let token = token.mint(&clock).unwrap();
        let auth = Auth::new(&Config::parse("test", text).unwrap(), clock);
        let ann = auth.user(&token, [192, 0, 2, 1].into()).unwrap();
        assert!(ann.allows(Verb::Subscribe, "room.ann.x") && !ann.allows(Verb::Publish, "room.ann.x"));
        assert_eq!(ann.expires_at_ms, 1_800_000_000_000 + 5_400_000);
        std::fs::remove_dir_all(folder).unwrap();
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
