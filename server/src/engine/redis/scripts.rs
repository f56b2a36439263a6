//! The scripts, and how they are called.

use lanecast_protocol::log::{IDEMPOTENCY_KEYS_MAX, PUBLISHERS_MAX};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError};

use super::INLINE_RECORD_BYTES_MAX;

/// A script. All are loaded when a connection is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    /// What all scripts share, or nothing.
    common: &'static str,
    text: &'static str,
    /// Place in [`ALL`].
    index: usize,
}

/// What most scripts share.
const COMMON: &str = include_str!("lua/common.lua");
/// Defining what is shared would cost each append a tenth, so that one shares nothing.
const NOTHING: &str = "";

macro_rules! scripts {
    ($($name:ident = $index:literal, $common:ident, $file:literal;)*) => {
        $(pub(super) const $name: Script =
            Script { common: $common, text: include_str!(concat!("lua/", $file)), index: $index };)*
        /// All of them.
        pub(super) const ALL: &[Script] = &[$($name),*];
    };
}

scripts! {
    APPEND = 0, NOTHING, "append.lua";
    OPEN = 1, COMMON, "open.lua";
    READ = 2, COMMON, "read.lua";
    HISTORY = 3, COMMON, "history.lua";
    TRANSIENT = 4, COMMON, "transient.lua";
    SIGNAL = 5, COMMON, "signal.lua";
    AUDIT = 6, COMMON, "audit.lua";
    TIDY = 7, COMMON, "tidy.lua";
    REVOKE = 8, COMMON, "revoke.lua";
}

/// Tries what the others do. It is called once, so it is loaded by itself, and its place is the first.
pub(super) const TRIAL: Script = Script { common: NOTHING, text: include_str!("lua/trial.lua"), index: 0 };

/// Loads all of them.
pub(super) async fn load_all(connection: &mut MultiplexedConnection) -> Result<Loaded, RedisError> {
    let mut pipeline = redis::pipe();
    for script in ALL {
        pipeline.add_command(script.load());
    }
    pipeline.query_async(connection).await.map(Loaded)
}

/// The names under which a Redis has the scripts, in the order of [`ALL`].
#[derive(Clone, Debug, Default)]
pub(super) struct Loaded(pub(super) Vec<String>);

impl Script {
    /// The command that loads it, with its constants; its answer is the name.
    pub(super) fn load(self) -> Cmd {
        let text = [self.common, self.text].concat();
        let text = text.replace("PUBLISHERS_MAX", &PUBLISHERS_MAX.to_string());
        let text = text.replace("IDEMPOTENCY_KEYS_MAX", &IDEMPOTENCY_KEYS_MAX.to_string());
        let text = text.replace("INLINE_RECORD_BYTES_MAX", &INLINE_RECORD_BYTES_MAX.to_string());
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(text);
        cmd
    }

    /// The beginning of a call: keys, to be followed by arguments.
    pub(super) fn call<K: AsRef<[u8]>>(self, loaded: &Loaded, keys: &[K]) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(loaded.0.get(self.index).map_or("", String::as_str)).arg(keys.len());
        keys.iter().for_each(|key| {
            cmd.arg(key.as_ref());
        });
        cmd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_scripts_is_tried() {
        for script in ALL {
            let text = [script.common, script.text].concat();
            for call in text.split("call('").skip(1) {
                let name = call.split('\'').next().unwrap();
                assert!(TRIAL.text.contains(&format!("try('{name}'")), "{name}");
            }
        }
    }

    #[test]
    fn each_stands_at_its_index() {
        assert!(ALL.iter().enumerate().all(|(at, script)| script.index == at));
    }
}
