//! The requirements of the spec, embedded at build time from `protocol/spec`.

/// One requirement.
#[derive(Debug)]
pub struct Requirement {
    /// `LC-<AREA>-<nnn>`.
    pub id: &'static str,
    /// MUST, SHOULD or MAY.
    pub level: &'static str,
    /// server, client or both.
    pub role: &'static str,
    /// all, or the transports it holds for.
    pub transports: &'static str,
    /// False: marked `unserved`, which a node may answer with UNIMPLEMENTED.
    pub served: bool,
    /// File in `protocol/spec`.
    pub file: &'static str,
    /// Line in that file.
    pub line: u32,
    /// What is required.
    pub text: &'static str,
}

/// All requirements, in the order of the files.
pub static REQUIREMENTS: &[Requirement] = include!(concat!(env!("OUT_DIR"), "/requirements.rs"));

/// The requirement with that id.
pub fn find(id: &str) -> Option<&'static Requirement> {
    REQUIREMENTS.iter().find(|requirement| requirement.id == id)
}

/// The requirements that must each have a case: MUSTs of a server that are served.
pub fn due() -> impl Iterator<Item = &'static Requirement> {
    REQUIREMENTS.iter().filter(|requirement| {
        requirement.level == "MUST" && requirement.served && matches!(requirement.role, "server" | "both")
    })
}

/// The requirements of which a client must have a case, or a reason why it has none: MUSTs of a client that SDKs serve.
pub fn due_of_clients() -> impl Iterator<Item = &'static Requirement> {
    REQUIREMENTS.iter().filter(|requirement| {
        requirement.level == "MUST" && requirement.served && matches!(requirement.role, "client" | "both")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_words_are_known() {
        let mut seen = std::collections::HashSet::new();
        for requirement in REQUIREMENTS {
            let place = format!("{} in {}:{}", requirement.id, requirement.file, requirement.line);
            assert!(seen.insert(requirement.id), "{place} stands twice");
            assert!(["MUST", "MUST NOT", "SHOULD", "MAY"].contains(&requirement.level), "{place}");
            assert!(["server", "client", "both"].contains(&requirement.role), "{place}");
            assert!(!requirement.text.is_empty(), "{place}");
        }
    }
}
