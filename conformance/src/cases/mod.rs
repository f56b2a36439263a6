//! The cases: files of steps in `conformance/cases`, and functions for what steps cannot say.

mod code;

use crate::case::Case;
use crate::spec;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// The files of steps.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../cases/", $name)))),*];
    };
}

files!(
    "handshake.yaml",
    "tokens.yaml",
    "framing.yaml",
    "streams.yaml",
    "rooms.yaml",
    "publish.yaml",
    "state.yaml",
    "api.yaml",
    "operate.yaml"
);

/// All cases.
///
/// # Errors
/// A file that is not a list of cases.
pub fn all() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (name, text) in FILES {
        cases.extend(Case::parse_file(name, text)?);
    }
    cases.extend(code::all());
    Ok(cases)
}

/// The requirements of the smallest profile: what an implementer of an afternoon's server keeps.
pub const HELLO: &[&str] = &[
    "LC-HS-001",
    "LC-HS-002",
    "LC-HS-003",
    "LC-HS-004",
    "LC-HS-005",
    "LC-HS-006",
    "LC-HS-010",
    "LC-HS-011",
    "LC-HS-012",
    "LC-FRM-001",
    "LC-FRM-002",
    "LC-FRM-003",
    "LC-FRM-004",
    "LC-FRM-010",
    "LC-FRM-011",
    "LC-WS-001",
    "LC-WS-003",
    "LC-WS-004",
    "LC-LIFE-002",
    "LC-LIFE-011",
    "LC-AUTH-001",
    "LC-AUTH-010",
    "LC-ROOM-001",
    "LC-SUB-001",
    "LC-SUB-007",
];

/// The cases whose first requirement is in the smallest profile.
pub fn smoke(cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().filter(|case| HELLO.contains(&case.requirements[0].as_str())).collect()
}

/// The cases that cite a requirement.
pub fn citing<'a>(cases: &'a [Case], id: &'a str) -> impl Iterator<Item = &'a Case> {
    cases.iter().filter(move |case| case.requirements.iter().any(|cited| cited == id))
}

/// Served MUSTs of a server that no case cites.
pub fn uncovered(cases: &[Case]) -> Vec<&'static str> {
    spec::due().map(|requirement| requirement.id).filter(|id| citing(cases, id).next().is_none()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_cites_known_requirements_and_has_its_own_id() {
        let cases = all().unwrap();
        let mut seen = std::collections::HashSet::new();
        for case in &cases {
            assert!(seen.insert(case.id.clone()), "{} stands twice", case.id);
            for id in &case.requirements {
                assert!(spec::find(id).is_some(), "{} cites {id}, which the spec does not have", case.id);
            }
        }
    }

    #[test]
    fn every_served_must_of_a_server_has_a_case() {
        let missing = uncovered(&all().unwrap());
        assert!(missing.is_empty(), "{} without a case: {}", missing.len(), missing.join(" "));
    }

    #[test]
    fn the_smallest_profile_is_small() {
        assert!(HELLO.len() <= 25);
        assert!(HELLO.iter().all(|id| spec::find(id).is_some()));
        assert!(!smoke(all().unwrap()).is_empty());
    }
}
