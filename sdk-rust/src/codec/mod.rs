//! How a payload becomes a value: the seam of [`Room::typed`](crate::Room::typed).

use std::fmt;

use bytes::Bytes;

use crate::event::Body;

#[cfg(feature = "json")]
mod json;
mod protobuf;

#[cfg(feature = "json")]
pub use self::json::Json;
pub use self::protobuf::Protobuf;

/// A payload that cannot be encoded or decoded.
#[derive(Debug)]
pub struct CodecError(Box<dyn std::error::Error + Send + Sync>);

impl CodecError {
    /// An error of a codec.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the payload does not fit its type: {}", self.0)
    }
}

impl std::error::Error for CodecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// Turns values into payloads and back.
pub trait Codec: Send + Sync + 'static {
    /// What the payloads are.
    type Value;

    /// MIME type that published events bear.
    fn content_type(&self) -> &str;

    /// Encodes a value.
    ///
    /// # Errors
    /// If it has no encoding.
    fn encode(&self, value: &Self::Value) -> Result<Body, CodecError>;

    /// Decodes a payload.
    ///
    /// # Errors
    /// If it is not one of this codec and type.
    fn decode(&self, body: &Body) -> Result<Self::Value, CodecError>;
}

/// Bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Value = Bytes;

    fn content_type(&self) -> &str {
        "application/octet-stream"
    }

    fn encode(&self, value: &Bytes) -> Result<Body, CodecError> {
        Ok(Body::Bytes(value.clone()))
    }

    fn decode(&self, body: &Body) -> Result<Bytes, CodecError> {
        Ok(match body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        })
    }
}
