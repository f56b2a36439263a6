//! The macro behind the table of options: one entry declares a field, its key, type, default, bounds, meaning and
//! reason, so that what is parsed and what `lanecast config reference` prints cannot differ.

use std::ops::RangeInclusive;

/// An option as the reference shows it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The key.
    pub key: &'static str,
    /// What may be written.
    pub kind: String,
    /// The default, as it would be written in the file.
    pub default: &'static str,
    /// Smallest and largest number, or number of entries.
    pub bounds: Option<RangeInclusive<u64>>,
    /// What it does.
    pub doc: String,
    /// Why the default is what it is.
    pub reason: &'static str,
}

/// Declares a section of the configuration.
macro_rules! options {
    (
        $(#[doc = $about:literal])*
        pub struct $section:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $ty:ty = $default:literal $(in $min:literal ..= $max:literal)?, because $reason:literal;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub struct $section {
            $(
                $(#[doc = $doc])+
                pub $key: $ty,
            )*
        }

        impl $section {
            /// The keys of the section.
            pub(crate) const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            /// What the section is for.
            pub(crate) const ABOUT: &'static [&'static str] = &[$($about),*];

            /// The options as the reference shows them.
            pub(crate) fn rows() -> Vec<$crate::config::options::Row> {
                vec![$($crate::config::options::Row {
                    key: stringify!($key),
                    kind: <$ty as $crate::config::read::Value>::describe(),
                    default: $default,
                    bounds: $crate::config::options::bounds!($($min ..= $max)?),
                    doc: [$($doc),+].map(str::trim).join(" "),
                    reason: $reason,
                }),*]
            }

            /// Reads the options that the table has; the others take their defaults. Unknown keys are the caller's.
            pub(crate) fn read(
                reader: &mut $crate::config::read::Reader<'_>,
                table: Option<&toml::de::DeTable<'_>>,
                path: &str,
            ) -> Self {
                Self {
                    $($key: {
                        let bounds: Option<std::ops::RangeInclusive<u64>> =
                            $crate::config::options::bounds!($($min ..= $max)?);
                        table
                            .and_then(|table| table.get(stringify!($key)))
                            .and_then(|value| {
                                let path = $crate::config::read::join(path, stringify!($key));
                                reader.value(value, &path, bounds.clone())
                            })
                            .unwrap_or_else(|| $crate::config::options::default_of($default, bounds))
                    },)*
                }
            }
        }

        impl Default for $section {
            fn default() -> Self {
                Self::read(&mut $crate::config::read::Reader::new(""), None, "")
            }
        }
    };
}
pub(crate) use options;

/// The bounds of an entry, if it has some.
macro_rules! bounds {
    () => {
        None
    };
    ($min:literal ..= $max:literal) => {
        Some($min..=$max)
    };
}
pub(crate) use bounds;

/// Reads the default of an entry, which is written as in the file and judged by the same rules.
pub(crate) fn default_of<T: super::read::Value>(text: &str, bounds: Option<RangeInclusive<u64>>) -> T {
    let value = toml::de::DeValue::parse(text).map_err(|error| error.to_string());
    let read = value.and_then(|value| T::read(value.get_ref(), bounds));
    read.unwrap_or_else(|why| panic!("the default {text} breaks its own rules: {why}"))
}
