//! Generates what other languages need from the schema and the table of codes, so that there is one source of both.
//!
//! `lanecast-bindgen write` writes the generated files, `lanecast-bindgen check` fails if one of them is stale. The
//! files are committed: whoever builds an SDK needs no Rust. A test runs `check`.
//!
//! - [`schema`]: the messages that a client needs, from the .proto files.
//! - [`typescript`]: the codec's tables and the codes for `sdk-bindings/web`.
//! - [`markdown`]: the table of codes in `protocol/spec/errors.md`.
//! - [`files`]: which file comes from what, and how it is compared and written.
//!
//! A further language is one module beside [`typescript`] and its lines in [`files::generate`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod files;
mod markdown;
mod schema;
mod typescript;

fn main() -> ExitCode {
    let run = match std::env::args().nth(1).as_deref() {
        Some("write") => files::write,
        Some("check") => files::check,
        _ => {
            eprintln!("usage: lanecast-bindgen write|check");
            return ExitCode::from(2);
        }
    };
    match run(&files::repository()) {
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
