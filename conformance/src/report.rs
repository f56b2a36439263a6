//! Reports of a run: JUnit for CI systems, JSON for programs, HTML for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::runner::Report;
use crate::spec;
use crate::verdict::Verdict;

/// A form of report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JUnit XML.
    Junit,
    /// JSON.
    Json,
    /// One HTML page.
    Html,
}

/// Parses `junit=FILE`.
pub fn parse(text: &str) -> Result<(Form, String), String> {
    let (form, file) = text.split_once('=').ok_or("write junit=FILE, json=FILE or html=FILE")?;
    let form = match form {
        "junit" => Form::Junit,
        "json" => Form::Json,
        "html" => Form::Html,
        other => return Err(format!("{other} is no form of report: junit, json or html")),
    };
    Ok((form, file.to_owned()))
}

/// The report in that form.
pub fn render(report: &Report, form: Form) -> String {
    match form {
        Form::Junit => junit(report),
        Form::Json => serde_json::to_string_pretty(report).unwrap_or_default(),
        Form::Html => html(report),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(character),
            // XML 1.0 has no way to write other control characters.
            character if character.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

fn junit(report: &Report) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuite name=\"lanecast-conform\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.3}\">",
        report.results.len(),
        report.results.iter().filter(|result| result.is_bad() && result.verdict != Verdict::Harness).count(),
        report.count(Verdict::Harness),
        report.count(Verdict::Skipped) + report.count(Verdict::Unsupported),
        report.ms as f64 / 1e3
    );
    for result in &report.results {
        let _ = write!(
            out,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
            escape(result.requirements.first().map_or("", String::as_str)),
            escape(&result.id),
            result.ms as f64 / 1e3
        );
        let (tag, text) = match result.verdict {
            Verdict::Pass if result.known => ("failure", "passed, but is listed as known to fail"),
            Verdict::Pass => ("", ""),
            Verdict::Fail if result.known => ("skipped", result.text.as_str()),
            Verdict::Fail => ("failure", result.text.as_str()),
            Verdict::Harness => ("error", result.text.as_str()),
            Verdict::Unsupported | Verdict::Skipped => ("skipped", result.text.as_str()),
        };
        if !tag.is_empty() {
            let _ = write!(out, "<{tag} message=\"{}\">{}</{tag}>", escape(text), escape(&result.wire));
        }
        out.push_str("</testcase>\n");
    }
    out.push_str("</testsuite>\n");
    out
}

/// Verdicts of the cases of each requirement that has some.
fn by_requirement(report: &Report) -> BTreeMap<&str, Vec<(&str, Verdict)>> {
    let mut table: BTreeMap<&str, Vec<(&str, Verdict)>> = BTreeMap::new();
    for result in &report.results {
        for requirement in &result.requirements {
            table.entry(requirement).or_default().push((&result.id, result.verdict));
        }
    }
    table
}

fn html(report: &Report) -> String {
    let mut out = String::from(
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>lanecast-conform</title>\
         <style>body{font:15px/1.5 system-ui;max-width:70rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}\
         table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;vertical-align:top;\
         border-bottom:1px solid #8884}pre{overflow:auto;background:#8881;padding:.6rem}.pass{color:#188038}\
         .fail,.harness{color:#d93025;font-weight:600}.unsupported,.skipped{color:#888}</style>",
    );
    let _ = write!(
        out,
        "<h1>lanecast-conform</h1><p>{} · {} · {:.1} s</p><h2>Requirements</h2><table><tr><th>Requirement<th>Cases",
        escape(&report.server),
        escape(&report.summary()),
        report.ms as f64 / 1e3
    );
    for (requirement, cases) in by_requirement(report) {
        let text = spec::find(requirement).map_or("", |requirement| requirement.text);
        let _ = write!(out, "<tr><td title=\"{}\">{requirement}<td>", escape(text));
        for (id, verdict) in cases {
            let class = verdict.name().split(' ').next().unwrap_or("");
            let _ = write!(out, "<span class={class}>{}: {}</span><br>", escape(id), verdict.name());
        }
    }
    out.push_str("</table><h2>What did not pass</h2>");
    for result in report.results.iter().filter(|result| result.verdict != Verdict::Pass) {
        let _ = write!(
            out,
            "<details><summary>{}: {}</summary><p>{}<pre>{}</pre></details>",
            escape(&result.id),
            result.verdict.name(),
            escape(&result.text),
            escape(&result.wire)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::CaseResult;

    fn report() -> Report {
        let result = |verdict, known| CaseResult {
            id: "server/LC-HS-002/x [binary]".into(),
            title: "t".into(),
            requirements: vec!["LC-HS-002".into()],
            verdict,
            text: "a < b".into(),
            rule: None,
            known,
            ms: 5,
            wire: "→ \u{1}".into(),
        };
        let results = vec![
            result(Verdict::Pass, false),
            result(Verdict::Fail, false),
            result(Verdict::Fail, true),
            result(Verdict::Pass, true),
            result(Verdict::Unsupported, false),
        ];
        Report { server: "s".into(), results, ms: 10 }
    }

    #[test]
    fn known_failures_do_not_fail_and_their_passing_does() {
        let report = report();
        assert_eq!(report.results.iter().filter(|result| result.is_bad()).count(), 2);
        assert!(!report.is_good());
        assert_eq!(
            report.summary(),
            "2 passed, 2 failed, 0 skipped, 1 unsupported, 1 passed that are listed as known to fail"
        );
        let closing = report.closing();
        let lines: Vec<&str> = closing.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "fail          server/LC-HS-002/x [binary]: a < b"));
        assert_eq!(lines[2], report.summary());
    }

    #[test]
    fn forms_escape_what_servers_say() {
        let report = report();
        let junit = render(&report, Form::Junit);
        assert!(junit.contains("a &lt; b") && junit.contains("→ \u{fffd}"));
        assert_eq!(junit.matches("<failure").count(), 2);
        assert!(render(&report, Form::Html).contains("a &lt; b"));
        let json: serde_json::Value = serde_json::from_str(&render(&report, Form::Json)).unwrap();
        assert_eq!(json["results"][1]["verdict"], "fail");
    }
}
