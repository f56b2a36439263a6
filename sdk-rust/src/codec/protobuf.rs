//! Protobuf through prost.

use std::fmt;
use std::marker::PhantomData;

use super::{Codec, CodecError};
use crate::event::Body;

/// Protobuf of a prost message.
pub struct Protobuf<M>(PhantomData<fn() -> M>);

impl<M> Protobuf<M> {
    /// The codec.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<M> Default for Protobuf<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> fmt::Debug for Protobuf<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protobuf")
    }
}

impl<M: prost::Message + Default + 'static> Codec for Protobuf<M> {
    type Value = M;

    fn content_type(&self) -> &str {
        "application/protobuf"
    }

    fn encode(&self, value: &M) -> Result<Body, CodecError> {
        Ok(Body::Bytes(value.encode_to_vec().into()))
    }

    fn decode(&self, body: &Body) -> Result<M, CodecError> {
        M::decode(body.as_bytes()).map_err(CodecError::new)
    }
}
