//! The table of codes for the spec.

use std::fmt::Write as _;

use lanecast_protocol::codes::{Action, Fault, TABLE};

/// The table, one row per code.
pub(crate) fn codes() -> String {
    let mut text = String::from(
        "| code | name | meaning | at fault | the client should | HTTP | requirement |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in TABLE {
        let fault = match row.fault {
            Fault::Client => "client",
            Fault::Credential => "credential",
            Fault::Node => "node",
        };
        let action = match row.action {
            Action::Stop => "stop",
            Action::NewToken => "get a new token",
            Action::Retry => "retry with backoff",
            Action::RetryAfter => "retry after the stated time",
        };
        let (number, name, sentence, http) = (row.code.number(), row.name, row.sentence, row.http);
        let requirement = row.requirement;
        let _ = writeln!(text, "| {number} | {name} | {sentence} | {fault} | {action} | {http} | {requirement} |");
    }
    text
}
