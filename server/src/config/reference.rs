//! `lanecast config reference`: every option, from the table that parses them.

use std::fmt::Write as _;

use super::options::Row;
use super::sections::{
    ApiKeyOptions, Drain, EngineOptions, Heartbeat, LaneOptions, Limits, Listen, Log, Origins, PolicyOptions,
    RateOptions, ReadinessOptions, Reconnect, Redis, TelemetryOptions, TlsOptions, TokenKeyOptions, TokenOptions,
};

/// The whole reference: a file that holds every option with its default, and parses.
pub fn reference() -> String {
    let mut out = String::from(
        "# Lanecast: every option with its default.\n# A file needs only the options that differ. Times are in \
         milliseconds, sizes in bytes.\n",
    );
    macro_rules! sections {
        ($($ty:ident $head:literal),* $(,)?) => {
            $(section(&mut out, $head, $ty::ABOUT, &$ty::rows());)*
        };
    }
    sections!(
        Listen "[listen]",
        TlsOptions "[tls]",
        LaneOptions "[lanes]",
        Limits "[limits]",
        RateOptions "[rates]",
        Heartbeat "[heartbeat]",
        Reconnect "[reconnect]",
        Origins "[origins]",
        TokenOptions "[tokens]",
        EngineOptions "[engine]",
        Redis "[redis]",
        Drain "[drain]",
        ReadinessOptions "[readiness]",
        Log "[log]",
        TelemetryOptions "[telemetry]",
        PolicyOptions "[[policies]]",
    );
    // What must be given has no default to show: these sections are examples in comments.
    let mut keys = String::new();
    section(&mut keys, "[[tokens.keys]]", TokenKeyOptions::ABOUT, &TokenKeyOptions::rows());
    section(&mut keys, "[[api_keys]]", ApiKeyOptions::ABOUT, &ApiKeyOptions::rows());
    keys.push_str(
        "\n# Further keys of the service, so that the next one is known before the former one ends. Each has `sha256` or \
         `key_file`,\n# and `not_after` if it ends by itself.\n\
         # list of tables\n\
         keys = [{ sha256 = \"64 hex digits\", not_after = 2027-01-31T00:00:00Z }]\n\
         \n# What the service may do: rights of the same form as in tokens. `types` and `lane` are optional.\n\
         # list of tables\n\
         # Commands to connections and nodes: { allow = [\"control\"], rooms = [\"$connections\", \"$nodes\"] }.\n\
         rights = [{ allow = [\"publish\", \"history\"], rooms = [\"chat.**\"], types = [\"msg.*\"], lane = \"normal\" }]\n",
    );
    for line in keys.lines() {
        let _ =
            if line.is_empty() || line.starts_with('#') { writeln!(out, "{line}") } else { writeln!(out, "# {line}") };
    }
    out
}

fn section(out: &mut String, head: &str, about: &[&str], rows: &[Row]) {
    out.push('\n');
    for line in about {
        let _ = writeln!(out, "#{line}");
    }
    let _ = writeln!(out, "{head}");
    for row in rows {
        let bounds = match &row.bounds {
            Some(bounds) => format!(", {} to {}", bounds.start(), bounds.end()),
            None => String::new(),
        };
        let _ = writeln!(out, "\n# {}", row.doc);
        let _ = writeln!(out, "# {}{bounds}. Default: {}.", row.kind, row.reason);
        let _ = writeln!(out, "{} = {}", row.key, row.default);
    }
}
