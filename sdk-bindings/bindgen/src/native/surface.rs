//! The listing of what the library exports: one line for each item, in an order that does not depend on the build.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use camino::Utf8Path;
use uniffi_bindgen::macro_metadata::extract_from_library;
use uniffi_meta::{EnumMetadata, EnumShape, FieldMetadata, FnParamMetadata, Metadata, Type, VariantMetadata};

const HEADER: &str = "\
# What the library exports, read out of it by `lanecast-bindgen native write`; do not edit. A change here is a change of both
# wrappers: `lanecast-bindgen check` finds what they do not use.
";

/// The listing of a library that is not stripped.
pub(crate) fn list(library: &Utf8Path) -> Result<String> {
    let items = extract_from_library(library).with_context(|| format!("{library}: nothing is described in it"))?;
    anyhow::ensure!(!items.is_empty(), "{library}: nothing is described in it; was it stripped?");
    let mut blocks = Blocks::default();
    for item in items {
        blocks.add(item)?;
    }
    Ok(blocks.text())
}

/// Head line → lines below it.
#[derive(Default)]
struct Blocks(BTreeMap<String, Vec<String>>);

impl Blocks {
    fn add(&mut self, item: Metadata) -> Result<()> {
        match item {
            Metadata::Namespace(_) => {}
            Metadata::Func(item) => {
                let signature = signature(&item.inputs, item.is_async, item.throws.as_ref(), item.return_type.as_ref());
                self.block(format!("function {}{signature}", item.name));
            }
            Metadata::Object(item) if item.imp.is_trait_interface() => self.block(format!("trait {}", item.name)),
            Metadata::Object(item) => self.block(format!("object {}", item.name)),
            Metadata::Constructor(item) => {
                let signature = signature(&item.inputs, item.is_async, item.throws.as_ref(), None);
                self.line(format!("object {}", item.self_name), format!("constructor {}{signature}", item.name));
            }
            Metadata::Method(item) => {
                let signature = signature(&item.inputs, item.is_async, item.throws.as_ref(), item.return_type.as_ref());
                self.line(format!("object {}", item.self_name), format!("method {}{signature}", item.name));
            }
            Metadata::TraitMethod(item) => {
                let signature = signature(&item.inputs, item.is_async, item.throws.as_ref(), item.return_type.as_ref());
                self.line(format!("trait {}", item.trait_name), format!("method {}{signature}", item.name));
            }
            Metadata::Record(item) => {
                let fields = item.fields.iter().map(field);
                self.0.insert(format!("record {}", item.name), fields.collect());
            }
            Metadata::Enum(item) => self.enumeration(&item),
            other => anyhow::bail!("the listing has no words for {other:?}"),
        }
        Ok(())
    }

    fn enumeration(&mut self, item: &EnumMetadata) {
        let word = if item.shape == EnumShape::Enum { "enum" } else { "error" };
        self.0.insert(format!("{word} {}", item.name), item.variants.iter().map(variant).collect());
    }

    fn block(&mut self, head: String) {
        self.0.entry(head).or_default();
    }

    fn line(&mut self, head: String, line: String) {
        let lines = self.0.entry(head).or_default();
        lines.push(line);
        lines.sort();
    }

    fn text(&self) -> String {
        let mut text = String::from(HEADER);
        for (head, lines) in &self.0 {
            let _ = writeln!(text, "\n{head}");
            for line in lines {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}

fn signature(inputs: &[FnParamMetadata], is_async: bool, throws: Option<&Type>, returns: Option<&Type>) -> String {
    let inputs: Vec<_> = inputs.iter().map(|input| format!("{}: {}", input.name, type_of(&input.ty))).collect();
    let mut text = format!("({})", inputs.join(", "));
    text.push_str(if is_async { " async" } else { "" });
    if let Some(error) = throws {
        let _ = write!(text, " throws {}", type_of(error));
    }
    if let Some(returned) = returns {
        let _ = write!(text, " -> {}", type_of(returned));
    }
    text
}

fn field(field: &FieldMetadata) -> String {
    format!("{}: {}", field.name, type_of(&field.ty))
}

/// A variant with its fields; or, since its wrappers' enums are generated from this listing, with its sentence.
fn variant(variant: &VariantMetadata) -> String {
    if variant.fields.is_empty() {
        let sentence =
            variant.docstring.iter().flat_map(|doc| doc.lines()).map(str::trim).collect::<Vec<_>>().join(" ");
        return format!("{} -- {sentence}", variant.name);
    }
    let fields: Vec<_> = variant.fields.iter().map(field).collect();
    format!("{} {{ {} }}", variant.name, fields.join(", "))
}

fn type_of(of: &Type) -> String {
    match of {
        Type::UInt32 => "u32".into(),
        Type::UInt64 => "u64".into(),
        Type::Boolean => "bool".into(),
        Type::String => "string".into(),
        Type::Bytes => "bytes".into(),
        Type::Optional { inner_type } => format!("{}?", type_of(inner_type)),
        Type::Sequence { inner_type } => format!("[{}]", type_of(inner_type)),
        Type::Map { key_type, value_type } => format!("[{}: {}]", type_of(key_type), type_of(value_type)),
        other => other.name().map_or_else(|| format!("{other:?}"), str::to_owned),
    }
}
