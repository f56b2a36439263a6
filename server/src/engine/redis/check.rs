//! What a Redis must be like before rooms are entrusted to it, in clear words where it is not.

use std::collections::HashMap;

/// The oldest version that has what the scripts use.
const VERSION_MIN: (u32, u32) = (7, 0);
/// Below this a subscriber of a busy node is cut off for a pause of a second or two, bytes.
const PUBSUB_LIMIT_MIN: u64 = 8 * 1024 * 1024;

/// Why a Redis cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It will not pass by itself: somebody has to change something.
    Fatal(String),
    /// It may pass: try again.
    Passing(String),
}

impl Problem {
    pub(super) fn sentence(&self) -> &str {
        match self {
            Self::Fatal(sentence) | Self::Passing(sentence) => sentence,
        }
    }
}

/// What `INFO` says.
#[derive(Debug, Default)]
pub(super) struct Info(HashMap<String, String>);

impl Info {
    pub(super) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Names one life of the data: another one means that something may be lost.
    pub(super) fn replication_id(&self) -> &str {
        self.get("master_replid")
    }

    /// Whether it still takes writes, and goes on the life of the data that is named.
    pub(super) fn is_primary_of(&self, replication_id: &str) -> bool {
        self.get("role") == "master" && self.replication_id() == replication_id
    }

    /// What it is and which version, for the log.
    pub(super) fn name(&self) -> String {
        match self.get("valkey_version") {
            "" => format!("Redis {}", self.get("redis_version")),
            version => format!("Valkey {version}"),
        }
    }

    /// Whether it can be used.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.get("loading") == "1" {
            return Err(Problem::Passing("it is loading its data; the node waits".into()));
        }
        let version = self.get("redis_version");
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if found < VERSION_MIN {
            let (major, minor) = VERSION_MIN;
            return Err(Problem::Fatal(format!(
                "it is version {version}, and Lanecast needs Redis {major}.{minor} or newer, or Valkey"
            )));
        }
        if self.get("cluster_enabled") == "1" {
            return Err(Problem::Fatal(
                "it runs in cluster mode, which this version of Lanecast does not support".into(),
            ));
        }
        if self.get("role") != "master" {
            return Err(Problem::Passing(
                "it is a read-only replica; name the primary in redis.url, or promote this one".into(),
            ));
        }
        if self.replication_id().is_empty() {
            return Err(Problem::Fatal("its INFO names no master_replid, without which a loss cannot be seen".into()));
        }
        Ok(())
    }

    /// What its owner should know, though it can be used.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let policy = self.get("maxmemory_policy");
        if self.get("maxmemory") != "0" && policy != "noeviction" && !policy.is_empty() {
            warnings.push(format!(
                "maxmemory-policy is {policy}: when memory is full Redis deletes logs, which readers see as gaps, and \
                 forgets idempotency keys; set it to noeviction"
            ));
        } else if policy != "noeviction" && !policy.is_empty() {
            warnings.push(format!("maxmemory-policy is {policy}: set it to noeviction before you set maxmemory"));
        }
        if self.get("aof_enabled") != "1" {
            warnings.push(
                "appendonly is off: a restart of Redis loses what was stored since its last snapshot, which clients are \
                 told as rolled back; set appendonly yes"
                    .into(),
            );
        }
        warnings
    }
}

/// What `client-output-buffer-limit` and `min-replicas-to-write` mean for a node.
pub(super) fn config_warnings(info: &Info, config: &HashMap<String, String>) -> Vec<String> {
    let mut warnings = Vec::new();
    let has_replicas = !matches!(info.get("connected_slaves"), "" | "0");
    if has_replicas && config.get("min-replicas-to-write").is_some_and(|least| least == "0") {
        warnings.push(
            "min-replicas-to-write is 0: a primary that is cut off from its replicas goes on storing what a failover \
             loses, which clients are told as rolled back; set it to 1"
                .into(),
        );
    }
    let limits = config.get("client-output-buffer-limit").map_or("", String::as_str);
    let words: Vec<&str> = limits.split(' ').collect();
    let pubsub = words.iter().position(|word| *word == "pubsub").and_then(|at| words.get(at + 1)?.parse::<u64>().ok());
    if let Some(hard) = pubsub
        && hard != 0
        && hard < PUBSUB_LIMIT_MIN
    {
        warnings.push(format!(
            "client-output-buffer-limit allows {hard} bytes for pubsub: nodes are cut off at every burst and read the \
             log again; allow at least {PUBSUB_LIMIT_MIN}"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "redis_version:7.0.15\r\nrole:master\r\nmaster_replid:abc\r\nloading:0\r\naof_enabled:1\r\n\
                        maxmemory:0\r\nmaxmemory_policy:noeviction\r\n";

    fn with(change: (&str, &str)) -> Info {
        Info::parse(&GOOD.replace(change.0, change.1))
    }

    #[test]
    fn a_good_one_is_taken_in_silence() {
        let info = Info::parse(GOOD);
        assert_eq!((info.check(), info.warnings()), (Ok(()), vec![]));
        assert_eq!((info.replication_id(), &*info.name()), ("abc", "Redis 7.0.15"));
    }

    #[test]
    fn each_fault_has_its_sentence() {
        for (change, fatal, word) in [
            (("7.0.15", "6.2.7"), true, "7.0 or newer"),
            (("7.0.15", "soon"), true, "7.0 or newer"),
            (("loading:0", "loading:1"), false, "loading"),
            (("role:master", "role:slave"), false, "read-only replica"),
            (("master_replid:abc", ""), true, "master_replid"),
            (("role:master", "role:master\r\ncluster_enabled:1"), true, "cluster mode"),
        ] {
            let problem = with(change).check().unwrap_err();
            assert!(problem.sentence().contains(word), "{problem:?}");
            assert_eq!(matches!(problem, Problem::Fatal(_)), fatal, "{problem:?}");
        }
        for (change, word) in [
            (("noeviction", "allkeys-lru"), "before you set maxmemory"),
            (
                ("maxmemory:0\r\nmaxmemory_policy:noeviction", "maxmemory:9\r\nmaxmemory_policy:allkeys-lru"),
                "deletes logs",
            ),
            (("aof_enabled:1", "aof_enabled:0"), "appendonly"),
        ] {
            let warnings = with(change).warnings();
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{warnings:?}");
        }
    }

    #[test]
    fn a_narrow_output_limit_is_warned_of() {
        let warnings = |limits: &str| {
            let config = [("client-output-buffer-limit".to_owned(), limits.to_owned())].into();
            config_warnings(&Info::parse(GOOD), &config)
        };
        assert_eq!(warnings("normal 0 0 0 slave 256 64 60 pubsub 1024 8388608 60").len(), 1);
        for enough in ["normal 0 0 0 pubsub 33554432 8388608 60", "pubsub 0 0 0", ""] {
            assert_eq!(warnings(enough), Vec::<String>::new());
        }
    }

    #[test]
    fn a_primary_that_outlives_its_replicas_is_warned_of() {
        let warnings = |replicas: &str, least: &str| {
            let info = with(("loading:0", &format!("loading:0\r\nconnected_slaves:{replicas}")));
            config_warnings(&info, &[("min-replicas-to-write".to_owned(), least.to_owned())].into())
        };
        assert!(warnings("1", "0")[0].contains("min-replicas-to-write"));
        assert_eq!([warnings("0", "0"), warnings("1", "1")], [vec![], vec![]] as [Vec<String>; 2]);
    }
}
