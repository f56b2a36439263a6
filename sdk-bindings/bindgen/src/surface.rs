//! The committed listing of what the library for Kotlin and Swift exports: see `sdk-bindings/ffi/surface.txt`.

use std::collections::BTreeSet;
use std::path::Path;

/// Where the listing is.
pub(crate) const PATH: &str = "sdk-bindings/ffi/surface.txt";

/// What is exported.
#[derive(Debug, Default)]
pub(crate) struct Surface {
    pub(crate) blocks: Vec<Block>,
}

/// Something that is exported, with what belongs to it.
#[derive(Debug)]
pub(crate) struct Block {
    /// `function`, `object`, `trait`, `record`, `enum` or `error`.
    pub(crate) word: String,
    pub(crate) name: String,
    pub(crate) members: Vec<Member>,
}

/// A method, a field or a variant.
#[derive(Debug)]
pub(crate) struct Member {
    /// `method`, `constructor`, `field` or `variant`.
    pub(crate) word: &'static str,
    pub(crate) name: String,
    /// Of a variant.
    pub(crate) fields: Vec<String>,
    /// Of a variant without fields.
    pub(crate) sentence: String,
}

impl Surface {
    /// Reads the listing; `None`: it is missing, or a line is none.
    pub(crate) fn load(root: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(root.join(PATH)).ok()?)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut blocks: Vec<Block> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix("    ") {
                Some(line) => blocks.last_mut()?.add(line)?,
                None => blocks.push(Block::parse(line)?),
            }
        }
        Some(Self { blocks })
    }

    /// The names of all items: `function`, `Object.method`, `Record.field`, `Enum.Variant`, `Enum.Variant.field`.
    pub(crate) fn items(&self) -> BTreeSet<String> {
        let mut items = BTreeSet::new();
        for block in &self.blocks {
            items.insert(block.name.clone());
            for member in &block.members {
                let item = format!("{}.{}", block.name, member.name);
                items.extend(member.fields.iter().map(|field| format!("{item}.{field}")));
                items.insert(item);
            }
        }
        items
    }

    /// The variants of an enum; none if there is no such enum.
    pub(crate) fn variants(&self, name: &str) -> &[Member] {
        let found = self.blocks.iter().find(|block| block.word == "enum" && block.name == name);
        found.map_or(&[], |block| &block.members)
    }
}

impl Block {
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let name = rest.split('(').next()?.to_owned();
        Some(Self { word: word.to_owned(), name, members: Vec::new() })
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let member = match self.word.as_str() {
            "object" | "trait" => Member::method(line)?,
            "record" => Member::new("field", line.split(':').next()?),
            "enum" | "error" => Member::variant(line)?,
            _ => return None,
        };
        self.members.push(member);
        Some(())
    }
}

impl Member {
    fn new(word: &'static str, name: &str) -> Self {
        Self { word, name: name.to_owned(), fields: Vec::new(), sentence: String::new() }
    }

    fn method(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let word = ["method", "constructor"].into_iter().find(|known| *known == word)?;
        Some(Self::new(word, rest.split('(').next()?))
    }

    fn variant(line: &str) -> Option<Self> {
        if let Some((name, sentence)) = line.split_once(" -- ") {
            return Some(Self { sentence: sentence.to_owned(), ..Self::new("variant", name) });
        }
        let (name, fields) = line.split_once(" { ")?;
        let fields =
            fields.strip_suffix(" }")?.split(", ").map(|field| field.split(':').next().unwrap_or(field).to_owned());
        Some(Self { fields: fields.collect(), ..Self::new("variant", name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let text = "# x\n\nfunction live() -> Live\n\nobject A\n    method b(c: u32) async -> D\n\nenum E\n    F -- Is f.\n    G { h: u32, i: [J: K] }\n";
        let surface = Surface::parse(text).unwrap();
        let names: Vec<_> = surface.blocks.iter().map(|block| (block.word.as_str(), block.name.as_str())).collect();
        assert_eq!(names, [("function", "live"), ("object", "A"), ("enum", "E")]);
        let [f, g] = surface.variants("E") else { panic!("two variants") };
        assert_eq!((f.name.as_str(), f.sentence.as_str()), ("F", "Is f."));
        assert_eq!((g.name.as_str(), &g.fields[..]), ("G", &["h".to_owned(), "i".to_owned()][..]));
        assert!(Surface::parse("    lost").is_none() && Surface::parse("object A\n    huh x()").is_none());
    }

    /// Names that Kotlin's or Swift's own classes have, and numbers that uniffi returns wrongly to Kotlin.
    #[test]
    fn nothing_is_exported_that_clashes() {
        let text = std::fs::read_to_string(crate::files::repository().join(PATH)).unwrap();
        let surface = Surface::parse(&text).unwrap();
        let names = surface.blocks.iter().flat_map(|block| {
            let members = block.members.iter().flat_map(|member| member.fields.iter().chain([&member.name]));
            members.chain([&block.name])
        });
        for name in names {
            let clashes = ["close", "destroy", "message", "to_string", "hash_code", "equals", "description", "self"];
            assert!(!clashes.contains(&name.as_str()), "{name}");
        }
        assert!(!text.contains("Int8") && !text.contains("Int16"));
    }
}
