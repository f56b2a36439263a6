//! In which form bodies come and go: canonical protobuf JSON, or protobuf itself (LC-API-011).

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::json::{message_from_json, message_to_json};
use prost::Message;

use super::error::Refused;

/// The media type of protobuf bodies.
pub const PROTOBUF: &str = "application/x-protobuf";
/// Under which names protobuf comes.
const PROTOBUF_NAMES: [&str; 3] = [PROTOBUF, "application/protobuf", "application/vnd.google.protobuf"];

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Canonical protobuf JSON.
    Json,
    /// Protobuf.
    Protobuf,
}

impl Encoding {
    fn named(media_type: &str) -> Option<Self> {
        let name = media_type.split(';').next().unwrap_or_default().trim();
        if PROTOBUF_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            return Some(Self::Protobuf);
        }
        name.eq_ignore_ascii_case("application/json").then_some(Self::Json)
    }

    /// The form of a request's body: JSON unless it says protobuf, since the tools of a shell say anything.
    pub fn of_body(headers: &HeaderMap) -> Self {
        let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        named.and_then(Self::named).unwrap_or(Self::Json)
    }

    /// The form in which the answer is wanted: the first of both that Accept names, else that of the body.
    pub fn of_answer(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut named = accepted.flat_map(|value| value.split(',')).filter_map(Self::named);
        named.next().unwrap_or_else(|| Self::of_body(headers))
    }

    /// Reads a message whose name in the schema is `name`.
    ///
    /// # Errors
    /// INVALID for anything else.
    pub fn decode<M: Message + Default>(self, name: &str, bytes: Bytes) -> Result<M, Refused> {
        let read = match self {
            Self::Json => message_from_json(name, &bytes).ok(),
            Self::Protobuf => M::decode(bytes).ok(),
        };
        let form = if self == Self::Json { "JSON" } else { "protobuf" };
        read.ok_or_else(|| Refused::new(Code::Invalid, format!("The body is not the {form} of a {name}.")))
    }

    /// An answer: a message whose name in the schema is `name`.
    pub fn answer(self, name: &str, message: &impl Message) -> Response {
        let (media_type, body) = match self {
            Self::Json => ("application/json", message_to_json(name, message).into_bytes()),
            Self::Protobuf => (PROTOBUF, message.encode_to_vec()),
        };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (headers, body).into_response()
    }
}

/// The form in which the answer is wanted.
impl<S: Sync> FromRequestParts<S> for Encoding {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of_answer(&parts.headers))
    }
}

/// Gives refusals the form that was asked for, wherever they were made: they are JSON until they come by here.
pub(super) async fn encode_refusals(request: Request, next: Next) -> Response {
    let wanted = Encoding::of_answer(request.headers());
    let mut response = next.run(request).await;
    if wanted == Encoding::Protobuf
        && let Some(refused) = response.extensions_mut().remove::<Refused>()
    {
        let (mut parts, _) = response.into_parts();
        let body = refused.to_message().encode_to_vec();
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        return Response::from_parts(parts, body.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(header::HeaderName, &str)]) -> Encoding {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        Encoding::of_answer(&headers.collect())
    }

    #[test]
    fn the_answer_is_in_the_form_that_was_asked_for() {
        // LC-API-011
        let (accept, content) = (header::ACCEPT, header::CONTENT_TYPE);
        assert_eq!(answer(&[]), Encoding::Json);
        assert_eq!(answer(&[(content.clone(), PROTOBUF)]), Encoding::Protobuf);
        assert_eq!(answer(&[(content.clone(), "Application/X-Protobuf; charset=x")]), Encoding::Protobuf);
        assert_eq!(answer(&[(content.clone(), PROTOBUF), (accept.clone(), "*/*")]), Encoding::Protobuf);
        assert_eq!(answer(&[(content.clone(), PROTOBUF), (accept.clone(), "application/json")]), Encoding::Json);
        assert_eq!(answer(&[(accept.clone(), "text/html, application/protobuf;q=0.9, */*")]), Encoding::Protobuf);
        assert_eq!(answer(&[(content, "application/x-www-form-urlencoded"), (accept, "*/*")]), Encoding::Json);
    }
}
