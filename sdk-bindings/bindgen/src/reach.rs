//! Whether the wrappers use everything that the library exports.
//!
//! `lanecast-bindgen reach kotlin|swift` looks for each item of the listing in the sources of a wrapper, in that language's
//! spelling: a method as a call, a field or a variant as a word of its own, a type by its name. It does not know of types: two
//! methods of one name are found by one call. What a wrapper leaves out on purpose stands in `sdk-bindings/ffi/unreached.txt`,
//! with the reason.

use std::collections::BTreeSet;
use std::path::Path;

use crate::names::{camel, lower_camel, shout};
use crate::surface::{Block, Member, Surface};

/// What wrappers leave out: `language item -- reason`, an item as in [`Surface::items`].
const EXEMPT: &str = "sdk-bindings/ffi/unreached.txt";

/// A language with its wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Kotlin,
    Swift,
}

impl Language {
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Kotlin, Self::Swift].into_iter().find(|language| language.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Kotlin => "kotlin",
            Self::Swift => "swift",
        }
    }

    /// The folder of the sources, how their names end, and the one that is generated.
    const fn sources(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Kotlin => ("sdk-bindings/kotlin/src/main/kotlin/io/lanecast", "kt", "Code.kt"),
            Self::Swift => ("sdk-bindings/swift/Sources/Lanecast", "swift", "Code.swift"),
        }
    }

    /// A variant of an enum of which none, or one, has fields.
    fn variant(self, name: &str, is_flat: bool) -> String {
        match self {
            Self::Kotlin if is_flat => shout(name),
            Self::Kotlin => name.to_owned(),
            Self::Swift => lower_camel(name),
        }
    }

    /// An error in Kotlin is an exception, and its variants are classes in both.
    fn error(self, name: &str) -> String {
        match self {
            Self::Kotlin => name.replace("Error", "Exception"),
            Self::Swift => name.to_owned(),
        }
    }
}

/// What a wrapper does not use and has no reason for; also reasons for what it does use.
///
/// # Errors
///
/// If its sources cannot be read.
pub(crate) fn check(root: &Path, surface: &Surface, language: Language) -> std::io::Result<Vec<String>> {
    let (folder, ending, generated) = language.sources();
    let source = read(&root.join(folder), ending, generated)?;
    let exempt = std::fs::read_to_string(root.join(EXEMPT)).unwrap_or_default();
    Ok(problems(surface, language, &source, &exempt))
}

/// All sources as one text.
fn read(folder: &Path, ending: &str, generated: &str) -> std::io::Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            // The generated layer, should it lie in here, uses all of itself.
            if !path.ends_with("ffi") {
                text += &read(&path, ending, generated)?;
            }
        } else if path.extension().is_some_and(|found| found == ending) && !path.ends_with(generated) {
            text += &code(&std::fs::read_to_string(path)?);
        }
    }
    Ok(text)
}

/// The text without lines that are comments: a name in a sentence is no use.
fn code(text: &str) -> String {
    let is_code = |line: &&str| !["//", "/*", "*"].iter().any(|sign| line.trim_start().starts_with(sign));
    text.lines().filter(is_code).flat_map(|line| [line, "\n"]).collect()
}

fn problems(surface: &Surface, language: Language, source: &str, exempt: &str) -> Vec<String> {
    let name = language.name();
    let mut reasons: BTreeSet<&str> = exempt
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split_once(" -- "))
        .map(|(item, _)| item)
        .collect();
    let mut problems = Vec::new();
    for (item, spelling, is_call) in surface.blocks.iter().flat_map(|block| uses(block, language)) {
        let is_used = if is_call { has_call(source, &spelling) } else { has_word(source, &spelling) };
        let has_reason = reasons.remove(item.as_str());
        match (is_used, has_reason) {
            (false, false) => {
                problems.push(format!("{name}: {item} (`{spelling}`) is not used, and {EXEMPT} has no reason"))
            }
            (true, true) => problems.push(format!("{EXEMPT}: {name} uses {item}")),
            _ => {}
        }
    }
    problems.extend(reasons.into_iter().map(|item| format!("{EXEMPT}: {item} is not exported")));
    problems
}

/// The items of a block with their spelling, and whether they are called.
fn uses(block: &Block, language: Language) -> Vec<(String, String, bool)> {
    let name = &block.name;
    match block.word.as_str() {
        "function" => return vec![(name.clone(), camel(name), true)],
        "error" => {
            let fields = block.members.iter().flat_map(|variant| &variant.fields);
            let fields = fields.map(|field| (format!("{name}.{field}"), camel(field), false));
            return [(name.clone(), language.error(name), false)].into_iter().chain(fields).collect();
        }
        _ => {}
    }
    let is_flat = block.members.iter().all(|member| member.fields.is_empty());
    let members = block.members.iter().flat_map(|member| member_uses(block, member, is_flat, language));
    members.collect()
}

fn member_uses(block: &Block, member: &Member, is_flat: bool, language: Language) -> Vec<(String, String, bool)> {
    let item = format!("{}.{}", block.name, member.name);
    match member.word {
        // A constructor is called by the name of its class.
        "constructor" => vec![(item, block.name.clone(), true)],
        "method" if block.word == "trait" => vec![(item, camel(&member.name), false)],
        "method" => vec![(item, camel(&member.name), true)],
        "field" => vec![(item, camel(&member.name), false)],
        _ => {
            let fields = member.fields.iter().map(|field| (format!("{item}.{field}"), camel(field), false));
            let variant = (item.clone(), language.variant(&member.name, is_flat), false);
            // Swift binds what a variant holds by its place, so only Kotlin has to name the fields.
            let fields = fields.filter(|_| language == Language::Kotlin);
            [variant].into_iter().chain(fields).collect()
        }
    }
}

fn has_word(text: &str, word: &str) -> bool {
    ends_of(text, word).next().is_some()
}

fn has_call(text: &str, name: &str) -> bool {
    ends_of(text, name).any(|end| text[end..].trim_start_matches('`').trim_start().starts_with(['(', '{']))
}

/// Where a word that stands alone ends.
fn ends_of<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).map(move |(at, _)| (at, at + word.len())).filter_map(move |(begin, end)| {
        let alone = !text[..begin].ends_with(is_letter) && !text[end..].starts_with(is_letter);
        alone.then_some(end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "function live() -> Live\n\nobject Client\n    method next_state()\n\nrecord Page\n    \
        page_size: u32\n\nenum Focus\n    Foreground -- Looks.\n\nenum Item\n    Gap { gap: Gap }\n\nerror FfiError\n    \
        Failed { retry_after_ms: u64? }\n";

    fn found(language: Language, source: &str, exempt: &str) -> Vec<String> {
        let surface = Surface::parse(LISTING).unwrap();
        problems(&surface, language, source, exempt)
    }

    #[test]
    fn what_is_used_is_found_in_its_spelling() {
        let kotlin = "live() nextState(null) pageSize = 1 FOREGROUND is Item.Gap -> it.gap FfiException retryAfterMs";
        assert_eq!(found(Language::Kotlin, kotlin, ""), Vec::<String>::new());
        let swift = "live() x.nextState(a) pageSize: 1 .foreground case .gap(let gap) FfiError retryAfterMs";
        assert_eq!(found(Language::Swift, swift, ""), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_used_needs_a_reason_and_only_that() {
        let kotlin = "live() nextStates(null) pageSize FOREGROUND Item.Gap gap FfiException retryAfterMs";
        assert_eq!(found(Language::Kotlin, kotlin, "").len(), 1, "a longer word is another one");
        assert_eq!(found(Language::Kotlin, kotlin, "kotlin Client.next_state -- not yet"), Vec::<String>::new());
        let needless =
            "kotlin Client.next_state -- a\nkotlin Page.page_size -- b\nkotlin Gone.x -- c\nswift Page.page_size -- d";
        assert_eq!(found(Language::Kotlin, kotlin, needless).len(), 2);
        assert_eq!(code("a\n  // live()\n /** b */\n* c\nd"), "a\nd\n");
    }
}
