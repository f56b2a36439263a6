//! Which file is generated from what, and how it is compared and written.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::surface::{self, Surface};
use crate::{kotlin, markdown, schema, swift, typescript};

/// What a generated file consists of.
enum Content {
    /// The whole file.
    Whole(String),
    /// What stands between two markers of a file that is otherwise written by hand.
    Between { begin: &'static str, end: &'static str, text: String },
}

struct Target {
    path: &'static str,
    content: Content,
}

/// A file that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The file differs from what would be generated.
    Stale(&'static str),
    /// The file has no place for what is generated.
    NoMarkers(&'static str, &'static str),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(path) => write!(f, "{path}: stale; run `cargo run -p lanecast-bindgen write`"),
            Self::NoMarkers(path, marker) => write!(f, "{path}: missing, or without the line {marker}"),
        }
    }
}

/// Why nothing could be generated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The schema cannot be read, or has something that the generators do not know.
    #[error("schema: {0}")]
    Schema(#[from] schema::Error),
    /// The listing of what the library for Kotlin and Swift exports is missing or damaged.
    #[error("{path}: missing or damaged; `lanecast-bindgen native write` makes it", path = surface::PATH)]
    Surface,
    /// A file cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, std::io::Error),
}

/// The root of the repository that this binary was built in.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn generate(root: &Path) -> Result<Vec<Target>, Error> {
    let schema = schema::load(&root.join("protocol/proto"))?;
    let surface = Surface::load(root).ok_or(Error::Surface)?;
    Ok(vec![
        Target { path: "sdk-bindings/web/src/gen/wire.ts", content: Content::Whole(typescript::wire(&schema)) },
        Target { path: "sdk-bindings/web/src/gen/codes.ts", content: Content::Whole(typescript::codes()) },
        Target {
            path: "sdk-bindings/kotlin/src/main/kotlin/io/lanecast/Code.kt",
            content: Content::Whole(kotlin::codes(&surface)),
        },
        Target {
            path: "sdk-bindings/swift/Sources/Lanecast/Code.swift",
            content: Content::Whole(swift::codes(&surface)),
        },
        Target {
            path: "protocol/spec/errors.md",
            content: Content::Between {
                begin: "<!-- codes:begin -->",
                end: "<!-- codes:end -->",
                text: markdown::codes(),
            },
        },
    ])
}

/// The wanted text of a file, given the present one; `Err` if a marker is missing.
fn wanted(target: &Target, present: Option<&str>) -> Result<String, Problem> {
    match &target.content {
        Content::Whole(text) => Ok(text.clone()),
        Content::Between { begin, end, text } => {
            let present = present.unwrap_or_default();
            let (head, rest) = present.split_once(begin).ok_or(Problem::NoMarkers(target.path, begin))?;
            let (_, tail) = rest.split_once(end).ok_or(Problem::NoMarkers(target.path, end))?;
            Ok(format!("{head}{begin}\n{text}{end}{tail}"))
        }
    }
}

/// Compares every generated file with what would be generated.
pub(crate) fn check(root: &Path) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    for target in generate(root)? {
        let present = std::fs::read_to_string(root.join(target.path)).ok();
        match wanted(&target, present.as_deref()) {
            Ok(text) if present.as_deref() == Some(&text) => {}
            Ok(_) => problems.push(Problem::Stale(target.path)),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(problems)
}

/// Writes every generated file that differs; returns what could not be placed.
pub(crate) fn write(root: &Path) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    for target in generate(root)? {
        let path = root.join(target.path);
        let present = std::fs::read_to_string(&path).ok();
        match wanted(&target, present.as_deref()) {
            Ok(text) if present.as_deref() == Some(&text) => {}
            Ok(text) => {
                let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
                folder.and_then(|()| std::fs::write(&path, text)).map_err(|error| Error::Write(path, error))?;
            }
            Err(problem) => problems.push(problem),
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_generated_file_is_stale() {
        assert_eq!(check(&repository()).unwrap(), []);
    }

    #[test]
    fn text_around_the_markers_is_kept() {
        let content = Content::Between { begin: "<a>", end: "<b>", text: "new\n".into() };
        let target = Target { path: "x.md", content };
        assert_eq!(wanted(&target, Some("1\n<a>\nold\n<b>\n2\n")), Ok("1\n<a>\nnew\n<b>\n2\n".into()));
        assert_eq!(wanted(&target, Some("1\n<a>\n")), Err(Problem::NoMarkers("x.md", "<b>")));
        assert_eq!(wanted(&target, None), Err(Problem::NoMarkers("x.md", "<a>")));
    }
}
