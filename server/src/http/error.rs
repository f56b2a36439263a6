//! How HTTP requests are refused: the status and an `ApiError` of the table of errors.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lanecast_protocol::codes::Code;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::v1;

/// A refused request.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The code, which has an HTTP status.
    pub code: Code,
    /// One sentence for developers.
    pub detail: Cow<'static, str>,
    /// When to try again; 0: not said.
    pub retry_after_ms: u32,
}

impl Refused {
    /// A refusal with one sentence for developers.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), retry_after_ms: 0 }
    }

    /// A refusal that says when to try again.
    #[must_use]
    pub fn retry_after(mut self, ms: u32) -> Self {
        self.retry_after_ms = ms;
        self
    }

    /// The refusal as a message.
    pub fn to_message(&self) -> v1::ApiError {
        v1::ApiError {
            code: self.code.number().into(),
            name: self.code.row().name.to_owned(),
            detail: self.detail.to_string(),
            retry_after_ms: self.retry_after_ms,
        }
    }

    /// The canonical JSON of the `ApiError`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut body = serde_json::json!({
            "code": self.code.number(),
            "name": self.code.row().name,
            "detail": self.detail,
        });
        if self.retry_after_ms > 0 {
            body["retryAfterMs"] = self.retry_after_ms.into();
        }
        body
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, detail: refusal.detail.into(), retry_after_ms: refusal.retry_after_ms }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.row().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.to_json())).into_response();
        // LC-API-003
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let seconds = self.retry_after_ms.div_ceil(1_000).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For whoever wants it in another form.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_status_and_code() {
        let refused = Refused::new(Code::RateLimited, "slow down").retry_after(1_200);
        let json = refused.to_json();
        assert_eq!((json["code"].as_u64(), json["name"].as_str()), (Some(4400), Some("RATE_LIMITED")));
        assert_eq!(json["retryAfterMs"], 1_200);
        let response = refused.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let unauthorised = Refused::new(Code::BadToken, "who?").into_response();
        assert_eq!(unauthorised.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
