//! Generates what other languages need from the schema and the table of codes, so that there is one source of both.
//!
//! `lanecast-bindgen write` writes the generated files, `lanecast-bindgen check` fails if one of them is stale. The
//! files are committed: whoever builds an SDK needs no Rust. A test runs `check`.
//!
//! - [`schema`]: the messages that a client needs, from the .proto files.
//! - [`typescript`]: the codec's tables and the codes for `sdk-bindings/web`.
//! - [`kotlin`] and [`swift`]: the codes, lanes and causes for `sdk-bindings/kotlin` and `sdk-bindings/swift`.
//! - [`markdown`]: the table of codes in `protocol/spec/errors.md`.
//! - [`files`]: which file comes from what, and how it is compared and written.
//! - [`native`], a feature: the inner layers of the Kotlin and Swift SDKs.
//!
//! A further language is one module beside [`typescript`] and its lines in [`files::generate`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod files;
mod kotlin;
mod markdown;
mod names;
#[cfg(feature = "native")]
mod native;
mod ranges;
mod schema;
mod surface;
mod swift;
mod typescript;

const USAGE: &str = "usage: lanecast-bindgen write|check
       lanecast-bindgen native write LIBRARY              (native: with the feature of that name)
       lanecast-bindgen native check LIBRARY [LIBRARY]
       lanecast-bindgen native generate LIBRARY FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let problems = match arguments[..] {
        ["write"] => files::write(&files::repository()).map_err(|error| error.to_string()),
        ["check"] => files::check(&files::repository()).map_err(|error| error.to_string()),
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

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
