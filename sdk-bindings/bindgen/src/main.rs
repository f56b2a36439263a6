//! Generates what other languages need from the schema and the table of codes, so that there is one source of both.
//!
//! `lanecast-bindgen write` writes the generated files, `lanecast-bindgen check` fails if one of them is stale. The
//! files are committed: whoever builds an SDK needs no Rust. A test runs `check`.
//!
//! - [`schema`]: the messages that a client needs, from the .proto files.
//! - [`typescript`]: the codec's tables and the codes for `sdk-bindings/web`.
//! - [`markdown`]: the table of codes in `protocol/spec/errors.md`.
//! - [`files`]: which file comes from what, and how it is compared and written.
//! - [`native`], a feature: the inner layers of the Kotlin and Swift SDKs.
//!
//! A further language is one module beside [`typescript`] and its lines in [`files::generate`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod files;
mod markdown;
#[cfg(feature = "native")]
mod native;
mod schema;
mod typescript;

const USAGE: &str = "usage: lanecast-bindgen write|check
       lanecast-bindgen native generate LIBRARY FOLDER    (with the feature `native`)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let problems = match arguments[..] {
        ["write"] => files::write(&files::repository()).map_err(|error| error.to_string()),
        ["check"] => files::check(&files::repository()).map_err(|error| error.to_string()),
        #[cfg(feature = "native")]
        ["native", "generate", library, folder] => {
            let generated = native::generate(&files::repository(), library.into(), folder.into());
            generated.map(|()| Vec::new()).map_err(|error| format!("{error:#}"))
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
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
