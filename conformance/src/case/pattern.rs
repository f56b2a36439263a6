//! Variables, templates and patterns of the step language (see `cases/README.md`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The variables of a case.
#[derive(Clone, Debug, Default)]
pub struct Vars(BTreeMap<String, Value>);

impl Vars {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// A variable, or a field of one: `sub.position.normal`.
    pub fn find(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let mut value = self.0.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        Some(value)
    }

    /// The value with every `${…}` in its strings replaced.
    pub fn fill(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => self.fill_text(text)?,
            Value::Array(items) => Value::Array(items.iter().map(|item| self.fill(item)).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let mut filled = Map::new();
                for (name, value) in fields {
                    let name = match self.fill_text(name)? {
                        Value::String(name) => name,
                        other => other.to_string(),
                    };
                    filled.insert(name, self.fill(value)?);
                }
                Value::Object(filled)
            }
            other => other.clone(),
        })
    }

    /// A text that is one `${…}` becomes its value; one that holds some gets their text.
    pub fn fill_text(&self, text: &str) -> Result<Value, String> {
        if let Some(inner) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
            && !inner.contains('}')
        {
            return self.expression(inner);
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let end = rest[start..].find('}').ok_or_else(|| format!("{text}: no closing brace"))? + start;
            out.push_str(&rest[..start]);
            match self.expression(&rest[start + 2..end])? {
                Value::String(inner) => out.push_str(&inner),
                other => out.push_str(&other.to_string()),
            }
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Ok(Value::String(out))
    }

    /// `name`, `name.field`, `name + 1`, `name - 1`, `repeat(text, count)`.
    fn expression(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        if let Some(inner) = text.strip_prefix("repeat(").and_then(|rest| rest.strip_suffix(')')) {
            let (piece, count) = inner.rsplit_once(',').ok_or_else(|| format!("{text}: repeat needs two arguments"))?;
            let count = match count.trim().parse() {
                Ok(count) => count,
                Err(_) => self.number(count)? as usize,
            };
            return Ok(Value::String(piece.trim().repeat(count)));
        }
        for (sign, factor) in [(" + ", 1), (" - ", -1)] {
            if let Some((left, right)) = text.split_once(sign) {
                return Ok(json!(self.number(left)? + factor * self.number(right)?));
            }
        }
        self.find(text).cloned().ok_or_else(|| format!("there is no variable {text}"))
    }

    fn number(&self, text: &str) -> Result<i64, String> {
        let text = text.trim();
        if let Ok(number) = text.parse() {
            return Ok(number);
        }
        self.find(text).and_then(Value::as_i64).ok_or_else(|| format!("{text} is no number"))
    }
}

/// Whether a value fits a pattern; if so the captures of the pattern are set. `Err` says where it does not.
pub fn matches(pattern: &Value, actual: &Value, vars: &mut Vars) -> Result<(), String> {
    let mut captured = Vec::new();
    compare(pattern, Some(actual), "", vars, &mut captured)?;
    for (name, value) in captured {
        vars.set(&name, value);
    }
    Ok(())
}

type Captures = Vec<(String, Value)>;

fn compare(
    pattern: &Value,
    actual: Option<&Value>,
    path: &str,
    vars: &Vars,
    captured: &mut Captures,
) -> Result<(), String> {
    match pattern {
        Value::Object(fields) => {
            let Some(actual) = actual.filter(|actual| actual.is_object()) else {
                return Err(format!("{path} is {}", shown(actual)));
            };
            for (name, pattern) in fields {
                compare(pattern, actual.get(name), &format!("{path}.{name}"), vars, captured)?;
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(list) = actual.and_then(Value::as_array) else {
                return Err(format!("{path} is {}, not a list", shown(actual)));
            };
            if list.len() != items.len() {
                return Err(format!("{path} has {} entries, not {}: {}", list.len(), items.len(), shown(actual)));
            }
            for (index, (pattern, actual)) in items.iter().zip(list).enumerate() {
                compare(pattern, Some(actual), &format!("{path}[{index}]"), vars, captured)?;
            }
            Ok(())
        }
        Value::String(text) if text.starts_with('$') && !text.starts_with("${") => {
            operator(text, actual, path, vars, captured)
        }
        Value::String(text) if text.contains("${") => compare_plain(&vars.fill_text(text)?, actual, path),
        plain => compare_plain(plain, actual, path),
    }
}

fn operator(
    text: &str,
    actual: Option<&Value>,
    path: &str,
    vars: &Vars,
    captured: &mut Captures,
) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{path} is {}, {what}", shown(actual)));
    if text == "$present" {
        return if actual.is_some_and(|actual| !is_default(actual)) { Ok(()) } else { fail("must be present") };
    }
    if text == "$absent" {
        return if actual.is_none_or(is_default) { Ok(()) } else { fail("must be absent") };
    }
    if let Some(name) = text.strip_prefix("$=") {
        captured.push((name.to_owned(), actual.cloned().unwrap_or(Value::Null)));
        return Ok(());
    }
    if let Some(piece) = text.strip_prefix("$~") {
        let piece = vars.fill_text(piece)?;
        let found =
            actual.and_then(Value::as_str).zip(piece.as_str()).is_some_and(|(text, piece)| text.contains(piece));
        return if found { Ok(()) } else { fail(&format!("must contain {piece}")) };
    }
    if let Some(other) = text.strip_prefix("$!") {
        let other = vars.fill_text(other)?;
        return if compare_plain(&other, actual, path).is_err() { Ok(()) } else { fail("must differ") };
    }
    if let Some(rest) = text.strip_prefix("$has ") {
        let wanted = vars.fill_text(rest)?;
        let found = actual.and_then(Value::as_array).is_some_and(|list| list.contains(&wanted));
        return if found { Ok(()) } else { fail(&format!("must hold {wanted}")) };
    }
    if let Some(rest) = text.strip_prefix("$length ") {
        let wanted = vars.number(rest)? as usize;
        let length =
            actual.and_then(|actual| actual.as_array().map(Vec::len).or_else(|| actual.as_str().map(str::len)));
        return if length == Some(wanted) { Ok(()) } else { fail(&format!("must have length {wanted}")) };
    }
    for (sign, holds) in [
        ("$>=", (|a, b| a >= b) as fn(i64, i64) -> bool),
        ("$<=", |a, b| a <= b),
        ("$>", |a, b| a > b),
        ("$<", |a, b| a < b),
    ] {
        if let Some(rest) = text.strip_prefix(sign) {
            let bound = vars.fill_text(rest)?;
            let bound = bound.as_i64().or_else(|| bound.as_str().and_then(|text| text.trim().parse().ok()));
            let bound = bound.ok_or_else(|| format!("{rest} is no number"))?;
            let number = actual.map_or(Some(0), |actual| {
                actual.as_i64().or_else(|| actual.as_str().and_then(|text| text.parse().ok()))
            });
            let fits = number.is_some_and(|number| holds(number, bound));
            return if fits { Ok(()) } else { fail(&format!("must be {} {bound}", &sign[1..])) };
        }
    }
    Err(format!("{text} is no operator"))
}

fn compare_plain(expected: &Value, actual: Option<&Value>, path: &str) -> Result<(), String> {
    let equal = match actual {
        Some(actual) => actual == expected || scalar(actual) == scalar(expected) && scalar(actual).is_some(),
        None => is_default(expected),
    };
    if equal { Ok(()) } else { Err(format!("{path} is {}, not {expected}", shown(actual))) }
}

/// Numbers compare the same as numbers and as text: canonical JSON of the API has 64-bit integers as text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0" || text.ends_with("_UNSPECIFIED"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_default),
        Value::Bool(true) => false,
    }
}

fn shown(actual: Option<&Value>) -> String {
    actual.map_or_else(|| "absent".into(), crate::client::short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_subsets_with_captures() {
        let mut vars = Vars::default();
        let actual = json!({"id": 3, "subscribed": {"handle": 9, "position": {"normal": 4}, "recovered": false}});
        let pattern = json!({"subscribed": {"handle": "$=h", "position": {"normal": "$>=4"}, "recovered": false,
            "cause": "X_UNSPECIFIED"}});
        matches(&pattern, &actual, &mut vars).unwrap();
        assert_eq!(vars.find("h"), Some(&json!(9)));
        let pattern = json!({"subscribed": {"handle": "${h}", "position": {"normal": "${h + 1}"}}});
        let complaint = matches(&pattern, &actual, &mut vars).unwrap_err();
        assert_eq!(complaint, ".subscribed.position.normal is 4, not 10");
        assert!(matches(&json!({"event": {}}), &actual, &mut vars).is_err());
        assert!(matches(&json!({"id": "$!3"}), &actual, &mut vars).is_err());
    }

    #[test]
    fn templates_are_filled() {
        let mut vars = Vars::default();
        vars.set("room", json!("r1"));
        vars.set("n", json!(4));
        assert_eq!(
            vars.fill(&json!({"a": ["${room}.x", "${n}", "${n - 1}", "${repeat(ab, 2)}"]})).unwrap(),
            json!({"a": ["r1.x", 4, 3, "abab"]})
        );
        assert!(vars.fill(&json!("${nothing}")).is_err());
    }
}
