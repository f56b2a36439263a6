//! `lanecast api-key`: makes an API key and says what the configuration needs to know of it, which is its hash.

use clap::Args;

use super::Failure;
use crate::auth::api_key::{ApiKey, hex_hash};
use crate::auth::rights::Rights;

/// `lanecast api-key`.
#[derive(Debug, Args)]
pub(super) struct MakeApiKey {
    /// Name of the service, as subscribers see it.
    name: String,
}

impl MakeApiKey {
    /// The key goes to standard output, alone, so that a script can put it where the service finds it.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let key = fresh();
        let told = self.told(&key)?;
        println!("{key}");
        eprintln!("{told}");
        Ok(())
    }

    fn told(&self, key: &str) -> Result<String, Failure> {
        ApiKey::new(&self.name, Rights::default()).map_err(|why| format!("the name {why}"))?;
        let (name, hash) = (&self.name, hex_hash(key));
        Ok(format!(
            "\n# The key is shown once. The configuration of the nodes gets its hash:\n\
             [[api_keys]]\nname = {name:?}\nsha256 = \"{hash}\"\n\
             rights = [{{ allow = [\"publish\"], rooms = [\"chat.**\"] }}]\n\
             \n# Or, for a service that has one, beside it until the former one is not used any more:\n\
             # keys = [{{ sha256 = \"{hash}\" }}, {{ sha256 = \"the former one\", not_after = 2027-01-31T00:00:00Z }}]"
        ))
    }
}

/// 256 bits at random, with a prefix by which scanners of leaked secrets know it.
fn fresh() -> String {
    format!("lanecast_{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_told_is_a_configuration_that_takes_the_key() {
        let key = fresh();
        assert_ne!(key, fresh());
        let told = MakeApiKey { name: "billing".into() }.told(&key).unwrap();
        let config = Config::parse("told", &told).unwrap();
        let found = crate::auth::api_key::find(&config.api_keys, &key, 0);
        assert!(matches!(found, crate::auth::api_key::Found::Holds(known) if known.name() == "billing"), "{told}");
        assert!(MakeApiKey { name: String::new() }.told(&key).is_err());
    }
}
