use super::*;
use crate::tls::testing::{Authority, write as tls_files};

fn mistakes(text: &str) -> Vec<String> {
    Config::parse("test.toml", text).unwrap_err().list.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = Config::parse("test.toml", "").unwrap();
    assert_eq!(config.limits.record_bytes, 262_144);
    assert_eq!(config.heartbeat.ping_after_ms, 25_000);
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.policies.of("a").retention_events, 10_000);
    assert!(!config.dev);
}

#[test]
fn the_reference_is_a_file_that_says_the_defaults() {
    let text = reference();
    let config = Config::parse("reference", &text).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
    // The reference lists a policy for `**`, which is what the defaults say without one.
    let strip = |config: &Config| format!("{:?}", Config { policies: Policies::default(), ..config.clone() });
    assert_eq!(strip(&config), strip(&Config::default()));
    assert_eq!(format!("{:?}", config.policies.of("a")), format!("{:?}", Config::default().policies.of("a")));
    for section in SECTIONS {
        assert!(text.contains(&format!("[{section}]")), "{section}");
    }
}

/// What may be written in a table, as the complaint about a key that may not says it.
fn known_in(text: &str) -> Vec<String> {
    let found = mistakes(&format!("{text}zzzzzzzzzzzz = 1\n"));
    let keys = found.iter().find_map(|mistake| mistake.split_once("known here: "));
    keys.unwrap_or_else(|| panic!("{text}: {found:?}")).1.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_reference_has_everything_that_can_be_written() {
    let text = reference();
    let plain: Vec<&str> = text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    assert_eq!(known_in(""), SECTIONS);
    for section in SECTIONS {
        let is_list = plain.contains(&&*format!("[[{section}]]"));
        let head = if is_list { format!("[[{section}]]") } else { format!("[{section}]") };
        let from = plain.iter().position(|line| *line == head).unwrap_or_else(|| panic!("{head}"));
        let rows: Vec<&str> = plain[from + 1..].iter().take_while(|line| !line.starts_with('[')).copied().collect();
        for key in known_in(&format!("{head}\n")) {
            let is_section = plain.contains(&&*format!("[[{section}.{key}]]"));
            let is_row = rows.iter().any(|row| row.starts_with(&format!("{key} = ")));
            assert!(is_section || is_row, "{section}.{key}");
        }
    }
    let from = plain.iter().position(|line| *line == "[[tokens.keys]]").unwrap();
    let rows: Vec<&str> = plain[from + 1..].iter().take_while(|line| !line.starts_with('[')).copied().collect();
    for key in known_in("[[tokens.keys]]\n") {
        assert!(rows.iter().any(|row| row.starts_with(&format!("{key} = "))), "tokens.keys.{key}");
    }
    // What stands within an API key is shown in a line, or named above it.
    let (_, api_key) = text.split_once("# [[api_keys]]\n").unwrap();
    for list in ["rights", "keys"] {
        for key in known_in(&format!("[[api_keys]]\n[[api_keys.{list}]]\n")) {
            let is_shown = api_key.contains(&format!(" {key} = ")) || api_key.contains(&format!("`{key}`"));
            assert!(is_shown, "{list}.{key}");
        }
    }
}

#[test]
fn the_example_of_an_api_key_is_one_when_its_blanks_are_filled() {
    let text = reference();
    let (_, example) = text.split_once("# [[api_keys]]\n").unwrap();
    let rows = example.lines().filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")));
    let rows = rows.filter(|line| line.split(" = ").next().is_some_and(|key| !key.contains(' ')));
    let filled: String = rows
        .map(|row| match row {
            "name = \"\"" => "name = \"billing\"\n".to_owned(),
            "sha256 = \"\"" => format!("sha256 = \"{}\"\n", "0".repeat(64)),
            row => format!("{}\n", row.replace("64 hex digits", &"1".repeat(64))),
        })
        .collect();
    let config = Config::parse("example", &format!("[[api_keys]]\n{filled}"));
    assert_eq!(config.unwrap_or_else(|mistakes| panic!("{mistakes}\n{filled}")).api_keys.len(), 1);
}

#[test]
fn limits_rates_and_proxies_are_checked() {
    let text = r#"
[listen]
trusted_proxies = ["10.0.0.0/8", "2001:db8::7", "10.0.0.300/8"]

[rates]
user_events_per_minute = -1
node_events_burst = 0

[[policies]]
rooms = "a"
lanes = ["bulk"]

[[policies]]
rooms = "b"
lanes = []

[[policies]]
rooms = "c"
lanes = ["signal"]
"#;
    let expected = [
        "line 3: listen.trusted_proxies: expected a network, such as \"10.0.0.0/8\" or \"2001:db8::7\", got the text \"10.0.0.300/8\"",
        "line 6: rates.user_events_per_minute: expected a whole number from 0 to 60000000, got the number -1",
        "line 7: rates.node_events_burst: expected a whole number from 1 to 1000000, got the number 0",
        "line 11: policies[0].lanes: must have default_lane among them",
        "line 15: policies[1].lanes: expected 1 to 3 entries, got 0",
        "line 19: policies[2].lanes: expected one of urgent, normal, bulk, got the text \"signal\"",
    ];
    assert_eq!(mistakes(text), expected);
    let found = mistakes("[listen]\nproxy_protocol = true\n");
    assert!(found[0].contains("listen.proxy_protocol: needs trusted_proxies"), "{found:?}");
    let text = "[listen]\nproxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\", \"::ffff:192.0.2.1\"]\n";
    let proxies = Config::parse("t", text).unwrap().listen.trusted_proxies;
    assert_eq!(proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "192.0.2.1/32"]);
}

#[test]
fn every_mistake_is_reported_with_its_line_and_path() {
    let text = r#"
[listen]
adress = "127.0.0.1:80"
connections_max = 0

[limits]
record_bytes = "256 KiB"
history_page = -1

[heartbeat]
idle_close_ms = 1_000

[colours]

[tokens]
hs256_secret = "short"

[engine]
kind = "rocks"

[[policies]]
rooms = "chat.**.x"
retention_events = 10

[[policies]]
rooms = "chat.{user}"
default_lane = "control"

[[policies]]
message_bytes = 10

[[api_keys]]
name = "billing"
sha256 = "abc"
rights = [{ allow = ["fly"], rooms = ["**"] }]

[log]
filter = "info,=,"
"#;
    let expected = [
        "line 3: listen.adress: unknown key; did you mean `address`?",
        "line 4: listen.connections_max: expected a whole number from 1 to 1000000, got the number 0",
        "line 7: limits.record_bytes: expected a whole number from 4096 to 16777216, got the text \"256 KiB\"",
        "line 8: limits.history_page: expected a whole number from 1 to 10000, got the number -1",
        "line 11: heartbeat.idle_close_ms: must be at least ping_after_ms + pong_within_ms (35000), or live clients are closed",
        "line 13: colours: unknown key; known here: listen, tls, lanes, limits, rates, heartbeat, reconnect, origins, tokens, api_keys, engine, redis, policies, drain, readiness, log, telemetry",
        "line 16: tokens.hs256_secret: the secret has 5 bytes; HS256 needs at least 32",
        "line 19: engine.kind: expected one of memory, redis, got the text \"rocks\"",
        "line 22: policies[0].rooms: `**` stands at the end only",
        "line 26: policies[1].rooms: a policy knows no user: write `*` instead of `{user}`",
        "line 27: policies[1].default_lane: expected one of urgent, normal, bulk, got the text \"control\"",
        "line 29: policies[2].rooms: must be given: the pattern of the rooms",
        "line 34: api_keys[0].sha256: expected 64 hex digits",
    ];
    let found = mistakes(text);
    for line in expected {
        assert!(found.iter().any(|mistake| mistake == line), "missing: {line}\nfound: {found:#?}");
    }
    assert!(
        found.iter().any(|mistake| mistake.starts_with("line 35: api_keys[0].rights[0]: `allow` has \"fly\"")),
        "{found:#?}"
    );
    assert!(found.iter().any(|mistake| mistake.starts_with("line 38: log.filter: is no tracing filter")), "{found:#?}");
    assert_eq!(found.len(), expected.len() + 2, "{found:#?}");
}

#[test]
fn what_is_no_toml_is_reported_with_its_line() {
    let found = mistakes("[listen]\naddress = \n");
    assert!(found[0].starts_with("line 2: "), "{found:?}");
}

#[test]
fn a_section_of_another_type_is_a_mistake() {
    let found = mistakes("listen = 5\npolicies = \"x\"\napi_keys = [1]\n");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn a_message_must_fit_a_record() {
    let found = mistakes("[[policies]]\nrooms = \"files.**\"\nmessage_bytes = 1_000_000\n");
    assert!(found[0].contains("limits.record_bytes: must be at least 2048 more"), "{found:?}");
}

#[test]
fn a_missing_file_and_a_missing_secret_file_are_said() {
    let error = Config::load(Path::new("/nowhere/lanecast.toml")).unwrap_err().to_string();
    assert!(error.starts_with("1 mistake in /nowhere/lanecast.toml"), "{error}");
    let found = mistakes("[tokens]\nhs256_secret_file = \"/nowhere/secret\"\n");
    assert!(found[0].starts_with("line 2: tokens.hs256_secret_file: /nowhere/secret cannot be read"), "{found:?}");
}

#[test]
fn mistakes_in_the_files_of_the_certificate_have_the_lines_of_their_options() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = tls_files(folder.path(), &authority.issue());
    let section = |certificate: &Path, key: &Path| {
        format!("[tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\nhttp = false\n")
    };
    let config = Config::parse("t", &section(&files.certificate, &files.key)).unwrap();
    assert!(config.certificate.is_some() && !config.tls.http);

    let found = mistakes(&section(Path::new("/nowhere/crt"), Path::new("/nowhere/key")));
    assert!(found[0].starts_with("line 2: tls.certificate_file: /nowhere/crt cannot be read"), "{found:?}");
    assert!(found[1].starts_with("line 3: tls.key_file: /nowhere/key cannot be read"), "{found:?}");

    std::fs::write(&files.key, authority.issue().1).unwrap();
    let found = mistakes(&section(&files.certificate, &files.key));
    assert_eq!(found, ["line 3: tls.key_file: is not the key of the certificate"]);

    let found = mistakes("[tls]\nkey_file = \"key\"\n");
    assert_eq!(found, ["line 1: tls.certificate_file: must be given beside key_file"]);
}

#[test]
fn a_secret_is_not_printed_and_loses_its_line_end() {
    let secret = Secret::new(b"0123456789abcdef0123456789abcdef\r\n");
    assert_eq!(secret.expose().len(), 32);
    assert!(!format!("{secret:?}").contains("0123"));
    let config = Config::parse("t", "[tokens]\nhs256_secret = \"0123456789abcdef0123456789abcdef\"\n").unwrap();
    assert!(!format!("{config:?}").contains("0123"));
}

#[test]
fn an_advertised_address_is_a_host_and_a_port() {
    for good in ["node-1.internal:8080", "10.0.0.7:80", "[fd00::7]:8080"] {
        let config = Config::parse("t", &format!("[listen]\nadvertised = {good:?}\n")).unwrap();
        assert_eq!(config.listen.advertised.as_deref(), Some(good));
    }
    for bad in ["node-1", ":8080", "node-1:0", "node-1:http", "http://node-1:8080", "node 1:80"] {
        let found = mistakes(&format!("[listen]\nadvertised = {bad:?}\n"));
        assert!(found[0].contains("listen.advertised: expected a host and a port"), "{bad}: {found:?}");
    }
}
