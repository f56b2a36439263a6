//! Generates what other languages need from the schema and the table of codes, so that there is one source of both.
//!
//! `lanecast-bindgen write` writes the generated files, `lanecast-bindgen check` fails if one of them is stale. The
//! files are committed: whoever builds an SDK needs no Rust. A test runs `check`.
//!
//! - [`schema`]: the messages that a client needs, from the .proto files.
//! - [`typescript`]: the codec's tables and the codes for `sdk-bindings/web`.
//! - [`kotlin`] and [`swift`]: the codes, lanes and causes for `sdk-bindings/kotlin` and `sdk-bindings/swift`.
//! - [`markdown`]: the table of codes in `protocol/spec/errors.md`.
//! - [`fields`]: whether an application sees what the protocol tells it.
//! - [`reach`]: whether the wrappers use everything that the library exports.
//! - [`files`]: which file comes from what, and how it is compared and written.
//! - [`native`], a feature: the inner layers of the Kotlin and Swift SDKs.
//!
//! A further language is one module beside [`typescript`] and its lines in [`files::generate`].
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use crate::surface::Surface;

mod fields;
mod files;
mod kotlin;
mod markdown;
mod names;
#[cfg(feature = "native")]
mod native;
mod ranges;
mod reach;
mod schema;
mod surface;
mod swift;
mod typescript;

const USAGE: &str = "usage: lanecast-bindgen write|check
       lanecast-bindgen reach kotlin|swift
       lanecast-bindgen native write LIBRARY              (native: with the feature of that name)
       lanecast-bindgen native check LIBRARY [LIBRARY]
       lanecast-bindgen native generate LIBRARY FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let problems = match arguments[..] {
        ["write"] => words(files::write(&files::repository())),
        ["check"] => check(&files::repository()),
        ["reach", language] => match reach::Language::of(language) {
            Some(language) => reach(&files::repository(), language),
            None => return usage(),
        },
        #[cfg(feature = "native")]
        ["native", command, library, ref rest @ ..] => {
            match native::run(&files::repository(), command, library, rest) {
                Some(done) => done.map(|()| Vec::new()).map_err(|error| format!("{error:#}")),
                None => return usage(),
            }
        }
        _ => return usage(),
    };
    match problems {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn words(problems: Result<Vec<files::Problem>, files::Error>) -> Result<Vec<String>, String> {
    let problems = problems.map_err(|error| error.to_string())?;
    Ok(problems.iter().map(ToString::to_string).collect())
}

fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut problems = words(files::check(root))?;
    problems.extend(fields::check(root, &surface(root)?).map_err(|error| error.to_string())?);
    Ok(problems)
}

fn reach(root: &Path, language: reach::Language) -> Result<Vec<String>, String> {
    reach::check(root, &surface(root)?, language).map_err(|error| format!("{language:?}: {error}"))
}

fn surface(root: &Path) -> Result<Surface, String> {
    Surface::load(root).ok_or_else(|| files::Error::Surface.to_string())
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
