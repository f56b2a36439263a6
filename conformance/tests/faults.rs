//! Proof that the fault checker sees what a server does wrong, from end to end: the reference server passes, and
//! mutants of it, each of which breaks one rule, are found for what they do.

use std::process::Command;

/// Runs the checker on the reference server, or a mutant of it, and returns whether it passed and what it said.
fn cuts(mutant: Option<&str>) -> (bool, String) {
    let conform = env!("CARGO_BIN_EXE_lanecast-conform");
    let mut command = Command::new(conform);
    command
        .args(["faults", "--redis-server", "none", "--nodes", "1", "--fault", "cuts"])
        .args(["--publishers", "2", "--subscribers", "2", "--rooms", "2", "--rooms-each", "2", "--rate", "50"])
        .args(["--out", &format!("{}/faults-{}", env!("CARGO_TARGET_TMPDIR"), mutant.unwrap_or("none"))])
        .args(["--", conform, "reference", "--port", "{port}"]);
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant]);
    }
    let output = command.output().expect("the checker runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    (output.status.success(), said)
}

#[test]
fn the_reference_passes() {
    let (passed, said) = cuts(None);
    assert!(passed, "{said}");
}

#[test]
fn mutants_are_found_for_what_they_do() {
    let mutants = [
        ("catch-up-skips-one", "lost, client"),
        ("catch-up-repeats-one", "doubled, client"),
        ("duplicate-stored", "doubled, room"),
    ];
    let runs = mutants.map(|(mutant, finding)| (mutant, finding, std::thread::spawn(move || cuts(Some(mutant)))));
    for (mutant, finding, run) in runs {
        let (passed, said) = run.join().expect("no panic");
        assert!(!passed && said.contains(finding), "{mutant}: {said}");
    }
}
