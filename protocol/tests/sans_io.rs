//! The crate asks for time, bytes and randomness and never takes them: what it depends on has none to give.
//!
//! The other half of the proof is `clippy.toml` beside Cargo.toml, which bans the clocks, sockets, files, threads and
//! randomly seeded maps of the standard library in `src`.
#![allow(missing_docs, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "asks cargo")]

use std::collections::BTreeSet;
use std::process::Command;

fn dependencies(features: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "lanecast-protocol", "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let names = String::from_utf8(tree.stdout).unwrap();
    names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn nothing_that_does_io_is_among_the_dependencies() {
    const BANNED: [&str; 9] =
        ["tokio", "mio", "socket2", "getrandom", "rand", "fastrand", "async-std", "polling", "rustix"];
    for features in ["", "json"] {
        let found = dependencies(features);
        assert!(found.contains("prost"), "cargo answered: {found:?}");
        for banned in BANNED {
            assert!(!found.contains(banned), "{banned} with features {features:?}");
        }
    }
}

#[test]
fn the_lint_bans_the_ways_out() {
    let lint = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/clippy.toml")).unwrap();
    for banned in
        ["std::time::Instant", "std::time::SystemTime", "std::net::TcpStream", "std::thread::spawn", "std::fs::File"]
    {
        assert!(lint.contains(banned), "{banned}");
    }
}
