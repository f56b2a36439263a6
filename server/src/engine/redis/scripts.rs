//! The scripts, and how they are called.

use redis::Cmd;

/// A script. All are loaded when a connection is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    text: &'static str,
    /// Place in [`ALL`].
    index: usize,
}

macro_rules! scripts {
    ($($name:ident = $index:literal, $file:literal;)*) => {
        $(pub(super) const $name: Script = Script {
            text: concat!(include_str!("lua/common.lua"), include_str!(concat!("lua/", $file))),
            index: $index,
        };)*
        /// All of them.
        pub(super) const ALL: &[Script] = &[$($name),*];
    };
}

scripts! {
    APPEND = 0, "append.lua";
    OPEN = 1, "open.lua";
    READ = 2, "read.lua";
    HISTORY = 3, "history.lua";
    TRANSIENT = 4, "transient.lua";
    SIGNAL = 5, "signal.lua";
    AUDIT = 6, "audit.lua";
}

/// The names under which a Redis has the scripts, in the order of [`ALL`].
#[derive(Clone, Debug, Default)]
pub(super) struct Loaded(pub(super) Vec<String>);

impl Script {
    /// The command that loads it; its answer is the name.
    pub(super) fn load(self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(self.text);
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
    fn each_stands_at_its_index() {
        assert!(ALL.iter().enumerate().all(|(at, script)| script.index == at));
    }
}
