//! The part of the schema that a client needs, in a form that a generator walks over.

use std::collections::BTreeSet;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};

/// The frames that a client sends or understands. It skips all others, as the protocol asks (LC-FRM-003).
const FRAMES: &[&str] = &[
    "hello",
    "welcome",
    "error",
    "ping",
    "pong",
    "subscribe",
    "subscribed",
    "unsubscribe",
    "unsubscribed",
    "publish",
    "published",
    "event",
    "gap",
    "signal",
    "history",
    "history_page",
    "done",
    "refresh_token",
    "token_refreshed",
    "limits",
    "go_away",
    "credit",
    "focus",
    "fragment",
    "fragment_abort",
];

/// Fields of these frames that a client neither sends nor reads: it skips them like unknown ones, and a page need not load
/// their names.
const UNUSED: &[&str] = &[
    "Start.live",
    "Start.marker",
    "Subscribe.members",
    "Subscribe.presence",
    "Subscribe.markers",
    "Subscribe.unread",
    "Heartbeat.idle_close_ms",
    "Limits.message_bytes",
    "Limits.history_page",
    "Welcome.version",
    "Welcome.device",
    "Welcome.instance",
    "Subscribed.head_order",
    "Subscribed.recovered",
    "Publish.ack",
    "HistoryPage.head_order",
    "GoAway.reason",
    "GoAway.closes_in_ms",
    "FragmentAbort.code",
    "StreamHeader.transfer",
];

/// Messages, each after those that it contains, and the enums that they use.
pub(crate) struct Schema {
    pub(crate) messages: Vec<Message>,
    pub(crate) enums: Vec<Enum>,
}

/// A message.
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) fields: Vec<Field>,
}

/// A field.
pub(crate) struct Field {
    pub(crate) number: i32,
    /// As in the .proto file.
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    /// The oneof that it belongs to.
    pub(crate) oneof: Option<String>,
}

/// The type of a field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    U32,
    U64,
    Bool,
    String,
    Bytes,
    Enum(String),
    Message(String),
    /// From string to string; the only kind of map in the schema.
    Map,
}

/// An enum.
pub(crate) struct Enum {
    pub(crate) name: String,
    pub(crate) doc: String,
    /// Name without the enum's prefix, number, comment.
    pub(crate) values: Vec<(String, i32, String)>,
}

/// Why the schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The .proto files do not compile.
    #[error(transparent)]
    Compile(#[from] protox::Error),
    /// A message or enum is not there.
    #[error("{0} is not in the schema")]
    Missing(String),
    /// A field has a type that no generator knows.
    #[error("{0} has a type that the generators do not know")]
    Type(String),
    /// Messages contain one another.
    #[error("{0} contains itself")]
    Cycle(String),
}

/// Compiles the .proto files and picks what a client needs.
pub(crate) fn load(proto: &Path) -> Result<Schema, Error> {
    let set = protox::compile(["lanecast/v1/packet.proto"], [proto])?;
    let mut walk = Walk { files: &set.file, schema: Schema { messages: vec![], enums: vec![] }, open: BTreeSet::new() };
    walk.message("Frame")?;
    walk.message("StreamHeader")?;
    Ok(walk.schema)
}

/// The fields of messages and the values of enums with these names: `Event.seq`, `GapCause.TRIMMED`. Without the value of an
/// enum that says nothing.
pub(crate) fn members(proto: &Path, names: &[&str]) -> Result<BTreeSet<String>, Error> {
    let set = protox::compile(["lanecast/v1/packet.proto"], [proto])?;
    let walk = Walk { files: &set.file, schema: Schema { messages: vec![], enums: vec![] }, open: BTreeSet::new() };
    let mut members = BTreeSet::new();
    for name in names {
        if let Ok((_, _, message)) = walk.find(name, |file| &file.message_type, |message| message.name()) {
            members.extend(message.field.iter().map(|field| format!("{name}.{}", field.name())));
        } else {
            let (_, _, found) = walk.find(name, |file| &file.enum_type, |found| found.name())?;
            let (values, prefix) = (found.value.iter().filter(|value| value.number() != 0), prefix(name));
            members.extend(
                values.map(|value| format!("{name}.{}", value.name().strip_prefix(&prefix).unwrap_or_default())),
            );
        }
    }
    Ok(members)
}

struct Walk<'a> {
    files: &'a [FileDescriptorProto],
    schema: Schema,
    /// Messages whose fields are being walked over.
    open: BTreeSet<String>,
}

impl Walk<'_> {
    fn message(&mut self, name: &str) -> Result<(), Error> {
        if self.schema.messages.iter().any(|message| message.name == name) {
            return Ok(());
        }
        if !self.open.insert(name.into()) {
            return Err(Error::Cycle(name.into()));
        }
        let (file, index, descriptor) = self.find(name, |file| &file.message_type, |message| message.name())?;
        let mut fields = Vec::new();
        for (at, field) in descriptor.field.iter().enumerate() {
            let unknown = name == "Frame" && field.oneof_index.is_some() && !FRAMES.contains(&field.name());
            if unknown || UNUSED.contains(&format!("{name}.{}", field.name()).as_str()) {
                continue;
            }
            let kind = kind(descriptor, field).ok_or_else(|| Error::Type(format!("{name}.{}", field.name())))?;
            match &kind {
                Kind::Message(inner) => self.message(inner)?,
                Kind::Enum(inner) => self.enumeration(inner)?,
                _ => {}
            }
            let oneof = field.oneof_index.and_then(|index| descriptor.oneof_decl.get(usize::try_from(index).ok()?));
            fields.push(Field {
                number: field.number(),
                name: field.name().into(),
                doc: doc(file, &[4, index, 2, path(at)]),
                repeated: field.label() == Label::Repeated && kind != Kind::Map,
                kind,
                oneof: oneof.map(|oneof| oneof.name().into()),
            });
        }
        self.open.remove(name);
        let doc = doc(file, &[4, index]);
        self.schema.messages.push(Message { name: name.into(), doc, fields });
        Ok(())
    }

    fn enumeration(&mut self, name: &str) -> Result<(), Error> {
        if self.schema.enums.iter().any(|known| known.name == name) {
            return Ok(());
        }
        let (file, index, descriptor): (_, _, &EnumDescriptorProto) =
            self.find(name, |file| &file.enum_type, |found| found.name())?;
        let prefix = prefix(name);
        let value = |(at, value): (usize, &prost_types::EnumValueDescriptorProto)| {
            let short = value.name().strip_prefix(&prefix).unwrap_or(value.name());
            (short.to_owned(), value.number(), doc(file, &[5, index, 2, path(at)]))
        };
        let values = descriptor.value.iter().enumerate().map(value).collect();
        self.schema.enums.push(Enum { name: name.into(), doc: doc(file, &[5, index]), values });
        Ok(())
    }

    fn find<'a, T>(
        &self,
        name: &str,
        list: impl Fn(&'a FileDescriptorProto) -> &'a Vec<T>,
        name_of: impl Fn(&T) -> &str,
    ) -> Result<(&'a FileDescriptorProto, i32, &'a T), Error>
    where
        Self: 'a,
    {
        // The lifetime of the files outlives the walk; `self` is only borrowed for this call.
        for file in self.files {
            if let Some(index) = list(file).iter().position(|item| name_of(item) == name) {
                return Ok((file, path(index), &list(file)[index]));
            }
        }
        Err(Error::Missing(name.into()))
    }
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> Option<Kind> {
    let short = || field.type_name().rsplit('.').next().unwrap_or_default().to_owned();
    Some(match field.r#type() {
        Type::Uint32 => Kind::U32,
        Type::Uint64 => Kind::U64,
        Type::Bool => Kind::Bool,
        Type::String => Kind::String,
        Type::Bytes => Kind::Bytes,
        Type::Enum => Kind::Enum(short()),
        Type::Message => match message.nested_type.iter().find(|nested| nested.name() == short()) {
            None => Kind::Message(short()),
            Some(entry) => {
                let strings = entry.field.iter().all(|field| field.r#type() == Type::String);
                (entry.options.as_ref()?.map_entry() && strings).then_some(Kind::Map)?
            }
        },
        _ => return None,
    })
}

/// `GoAwayReason` → `GO_AWAY_REASON_`.
fn prefix(name: &str) -> String {
    let mut prefix = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix.push('_');
    prefix
}

fn path(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

/// The comment above a declaration, as one paragraph per line.
fn doc(file: &FileDescriptorProto, path: &[i32]) -> String {
    let info = file.source_code_info.iter().flat_map(|info| &info.location);
    let comment = info.filter(|location| location.path == path).find_map(|location| location.leading_comments.clone());
    comment.unwrap_or_default().lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
}
