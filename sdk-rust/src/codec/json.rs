//! JSON through serde.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError};
use crate::event::Body;

/// JSON of a serde type, as text.
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> Json<T> {
    /// The codec.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Json")
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec for Json<T> {
    type Value = T;

    fn content_type(&self) -> &str {
        "application/json"
    }

    fn encode(&self, value: &T) -> Result<Body, CodecError> {
        serde_json::to_string(value).map(Body::Text).map_err(CodecError::new)
    }

    fn decode(&self, body: &Body) -> Result<T, CodecError> {
        serde_json::from_slice(body.as_bytes()).map_err(CodecError::new)
    }
}
