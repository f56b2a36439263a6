//! A room whose payloads are of one Rust type.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};

use crate::codec::{Codec, CodecError};
use crate::event::{Event, Gap};
use crate::publish::Publish;
use crate::room::Room;
use crate::subscription::Subscription;

/// A room whose payloads are of one Rust type, made by [`Room::typed`].
#[derive(Debug)]
pub struct TypedRoom<C> {
    room: Room,
    codec: Arc<C>,
}

impl<C> Clone for TypedRoom<C> {
    fn clone(&self) -> Self {
        Self { room: self.room.clone(), codec: self.codec.clone() }
    }
}

impl<C: Codec> TypedRoom<C> {
    pub(crate) fn new(room: Room, codec: C) -> Self {
        Self { room, codec: Arc::new(codec) }
    }

    /// The room.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Publishes a value.
    ///
    /// # Errors
    ///
    /// If it has no encoding; the publish's own errors come when it is awaited.
    pub fn publish(&self, r#type: impl Into<String>, value: &C::Value) -> Result<Publish, CodecError> {
        let body = self.codec.encode(value)?;
        Ok(self.room.publish(r#type, body).content_type(self.codec.content_type()))
    }

    /// Reads a subscription of the room.
    pub fn read(&self, subscription: Subscription) -> TypedSubscription<C> {
        TypedSubscription::new(subscription, self.codec.clone())
    }

    /// Reads the payload of an event.
    ///
    /// # Errors
    ///
    /// If it is not one of this codec and type.
    pub fn decode(&self, event: &Event) -> Result<C::Value, CodecError> {
        self.codec.decode(&event.body)
    }
}

/// An event with its value. That a payload does not fit says nothing about the events after it, so it is no end.
#[derive(Debug)]
pub struct TypedEvent<T> {
    /// The event.
    pub event: Event,
    /// Its value.
    pub value: Result<T, CodecError>,
}

/// A [`Subscription`] whose payloads are read with a codec.
#[derive(Debug)]
pub struct TypedSubscription<C> {
    subscription: Subscription,
    codec: Arc<C>,
}

impl<C: Codec> TypedSubscription<C> {
    pub(crate) fn new(subscription: Subscription, codec: Arc<C>) -> Self {
        Self { subscription, codec }
    }

    /// The subscription, with its position and state.
    pub fn subscription(&mut self) -> &mut Subscription {
        &mut self.subscription
    }

    /// As [`Subscription::next_batch`], with the same cancel safety.
    pub async fn next_batch(&mut self, max: usize) -> Vec<Result<TypedEvent<C::Value>, Gap>> {
        let batch = self.subscription.next_batch(max).await;
        batch.into_iter().map(|item| item.map(|event| self.typed(event))).collect()
    }

    /// As [`Subscription::next`], with the same cancel safety.
    pub async fn next(&mut self) -> Option<Result<TypedEvent<C::Value>, Gap>> {
        StreamExt::next(self).await
    }

    fn typed(&self, event: Event) -> TypedEvent<C::Value> {
        TypedEvent { value: self.codec.decode(&event.body), event }
    }
}

impl<C: Codec> Stream for TypedSubscription<C> {
    type Item = Result<TypedEvent<C::Value>, Gap>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(Pin::new(&mut self.subscription).poll_next(cx));
        Poll::Ready(item.map(|item| item.map(|event| self.typed(event))))
    }
}
