//! Reads TOML tables into values and collects every mistake on the way, instead of stopping at the first.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Date, Datetime, Offset};

use super::mistake::{Mistake, suggest};

/// The file being read, and what is wrong with it so far.
pub(crate) struct Reader<'a> {
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, mistakes: Vec::new() }
    }

    /// Notes a mistake at a byte of the file.
    pub(crate) fn mistake(&mut self, at: Option<usize>, path: &str, sentence: impl Into<String>) {
        let line =
            at.map(|at| 1 + self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|b| **b == b'\n').count());
        self.mistakes.push(Mistake { line, path: path.to_owned(), sentence: sentence.into() });
    }

    pub(crate) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }

    /// The value as a table; notes a mistake if it is something else.
    pub(crate) fn table<'v, 't>(&mut self, value: &'v Spanned<DeValue<'t>>, path: &str) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.mistake(Some(value.span().start), path, expected("a table", value.get_ref()));
        }
        table
    }

    /// The value as a list of tables; notes a mistake for everything that is something else.
    pub(crate) fn tables<'v, 't>(
        &mut self,
        value: &'v Spanned<DeValue<'t>>,
        path: &str,
    ) -> Vec<(Place, &'v DeTable<'t>)> {
        let Some(items) = value.get_ref().as_array() else {
            let sentence = expected(&format!("a list of tables: write [[{path}]]"), value.get_ref());
            self.mistake(Some(value.span().start), path, sentence);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = Place { path: format!("{path}[{index}]"), at: item.span().start };
            if let Some(table) = self.table(item, &place.path) {
                tables.push((place, table));
            }
        }
        tables
    }

    /// Notes every key of the table that is not known.
    pub(crate) fn refuse_unknown(&mut self, table: &DeTable<'_>, prefix: &str, known: &[&str]) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = match suggest(name, known.iter().copied()) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => format!("; known here: {}", known.join(", ")),
            };
            self.mistake(Some(key.span().start), &join(prefix, name), format!("unknown key{hint}"));
        }
    }

    /// Reads one option; `None` after noting why it cannot be read.
    pub(crate) fn value<T: Value>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        path: &str,
        bounds: Option<RangeInclusive<u64>>,
    ) -> Option<T> {
        T::read(value.get_ref(), bounds).map_err(|why| self.mistake(Some(value.span().start), path, why)).ok()
    }
}

/// Where a table stands.
pub(crate) struct Place {
    pub(crate) path: String,
    pub(crate) at: usize,
}

/// The path of a key below a prefix.
pub(crate) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn expected(what: &str, got: &DeValue<'_>) -> String {
    format!("expected {what}, got {}", describe(got))
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => format!("{flag}"),
        other => format!("a value of type {}", other.type_str()),
    }
}

/// A type that an option can have.
pub(crate) trait Value: Sized {
    /// What may be written, for the reference.
    fn describe() -> String;

    /// Reads a value, or says what was expected.
    fn read(value: &DeValue<'_>, bounds: Option<RangeInclusive<u64>>) -> Result<Self, String>;
}

fn number(value: &DeValue<'_>, bounds: Option<RangeInclusive<u64>>) -> Result<u64, String> {
    let bounds = bounds.unwrap_or(0..=u64::MAX);
    let read = value.as_integer().and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
    match read {
        Some(number) if bounds.contains(&number) => Ok(number),
        _ => Err(expected(&format!("a whole number from {} to {}", bounds.start(), bounds.end()), value)),
    }
}

macro_rules! numbers {
    ($($ty:ty),*) => {
        $(impl Value for $ty {
            fn describe() -> String {
                "whole number".to_owned()
            }

            fn read(value: &DeValue<'_>, bounds: Option<RangeInclusive<u64>>) -> Result<Self, String> {
                let bounds = bounds.unwrap_or(0..=u64::from(u32::MAX));
                number(value, Some(bounds)).and_then(|n| Self::try_from(n).map_err(|_| expected("a smaller number", value)))
            }
        })*
    };
}
numbers!(u32, u64, usize);

impl Value for String {
    fn describe() -> String {
        "text".to_owned()
    }

    fn read(value: &DeValue<'_>, bounds: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| expected("a text in quotes", value))?;
        match bounds {
            Some(bounds) if !bounds.contains(&(text.len() as u64)) => {
                Err(format!("expected {} to {} bytes, got {}", bounds.start(), bounds.end(), text.len()))
            }
            _ => Ok(text.to_owned()),
        }
    }
}

impl Value for bool {
    fn describe() -> String {
        "true or false".to_owned()
    }

    fn read(value: &DeValue<'_>, _: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| expected("true or false", value))
    }
}

/// An optional value is absent as the empty text, so that the reference can show it.
impl<T: Value> Value for Option<T> {
    fn describe() -> String {
        format!("{}, empty for none", T::describe())
    }

    fn read(value: &DeValue<'_>, bounds: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        if value.as_str() == Some("") { Ok(None) } else { T::read(value, bounds).map(Some) }
    }
}

impl Value for PathBuf {
    fn describe() -> String {
        "path of a file".to_owned()
    }

    fn read(value: &DeValue<'_>, bounds: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        String::read(value, bounds).map(Self::from)
    }
}

impl Value for SocketAddr {
    fn describe() -> String {
        "address and port".to_owned()
    }

    fn read(value: &DeValue<'_>, _: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| expected("an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"", value))
    }
}

impl Value for IpNet {
    fn describe() -> String {
        "network".to_owned()
    }

    fn read(value: &DeValue<'_>, _: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        let text = value.as_str().unwrap_or_default();
        let one = |ip: IpAddr| IpNet::from(ip.to_canonical());
        let network = text.parse().ok().or_else(|| text.parse().ok().map(one));
        network.ok_or_else(|| expected("a network, such as \"10.0.0.0/8\" or \"2001:db8::7\"", value))
    }
}

/// Bounds are of the number of entries.
impl<T: Value> Value for Vec<T> {
    fn describe() -> String {
        format!("list, each: {}", T::describe())
    }

    fn read(value: &DeValue<'_>, bounds: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| expected("a list", value))?;
        if let Some(bounds) = bounds
            && !bounds.contains(&(items.len() as u64))
        {
            return Err(format!("expected {} to {} entries, got {}", bounds.start(), bounds.end(), items.len()));
        }
        items.iter().map(|item| T::read(item.get_ref(), None)).collect()
    }
}

/// A moment, ms since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) u64);

impl Value for Moment {
    fn describe() -> String {
        "date and time with a zone".to_owned()
    }

    fn read(value: &DeValue<'_>, _: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        let read = || {
            let DeValue::Datetime(Datetime { date: Some(date), time: Some(time), offset: Some(offset) }) = value else {
                return None;
            };
            let offset_minutes = match offset {
                Offset::Z => 0,
                Offset::Custom { minutes } => i64::from(*minutes),
            };
            let minutes = days_since_1970(date) * 24 * 60 + i64::from(time.hour) * 60 + i64::from(time.minute);
            let seconds = (minutes - offset_minutes) * 60 + i64::from(time.second.unwrap_or(0));
            u64::try_from(seconds).ok().map(|seconds| Self(seconds * 1_000))
        };
        read().ok_or_else(|| expected("a date and time with its zone, such as 2027-01-31T00:00:00Z", value))
    }
}

/// Years begin in March here, so that the day that some have more is their last.
fn days_since_1970(date: &Date) -> i64 {
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    // 719,468 days lie between 1 March of the year 0 and 1970.
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// A closed set of words.
pub(crate) trait Choice: Copy + 'static {
    /// All of them.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Choice> Value for T {
    fn describe() -> String {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    }

    fn read(value: &DeValue<'_>, _: Option<RangeInclusive<u64>>) -> Result<Self, String> {
        let word = value.as_str().unwrap_or_default();
        let found = T::WORDS.iter().find(|(known, _)| *known == word);
        found.map(|(_, choice)| *choice).ok_or_else(|| expected(&Self::describe(), value))
    }
}
