//! A client of the HTTP API for the commands of operators: one request, one answer, protobuf both ways.

use std::time::Duration;

use axum::body::Body;
use clap::Args;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use lanecast_protocol::json::message_to_json;
use lanecast_protocol::v1;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;

use super::Failure;
use super::dial::Address;
use super::link::refused;
use crate::http::encoding::PROTOBUF;

/// A node that says nothing for this long is not there.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Which node to ask, and as whom.
#[derive(Debug, Args)]
pub(super) struct Api {
    /// The HTTP API of any node.
    #[arg(long, env = "LANECAST_API", default_value = "http://127.0.0.1:8080")]
    api: String,
    /// The API key, with the right `control`; a node with --dev takes "dev-key".
    #[arg(long, env = "LANECAST_API_KEY", default_value = "dev-key", hide_env_values = true)]
    key: String,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Api {
    /// Sends a request and waits for its answer.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<A, Failure> {
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.exchange(method, path, body));
        let (status, body) =
            asked.await.map_err(|_| format!("{} gave no answer within {ANSWER_WITHIN:?}", self.api))??;
        if (200..300).contains(&status) {
            return A::decode(body.as_slice()).map_err(|_| format!("{} does not speak this API", self.api).into());
        }
        match v1::ApiError::decode(body.as_slice()) {
            Ok(error) if error.code > 0 => Err(refused(error.code, &error.detail)),
            _ => Err(format!("{} answered with status {status}; is it a node?", self.api).into()),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), Failure> {
        let address = address(&self.api)?;
        let authority = address.authority();
        let connected = address.connect().await;
        let stream = connected.map_err(|Failure(error)| format!("cannot reach {authority}: {error}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &authority)
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header(CONTENT_TYPE, PROTOBUF)
            .header(ACCEPT, PROTOBUF)
            .body(Body::from(body))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await?;
            Ok((status, body.to_vec()))
        };
        let mut exchange = std::pin::pin!(exchange);
        let exchanged: Result<_, axum::BoxError> = tokio::select! {
            answer = &mut exchange => answer,
            // What was read before the end may still hold the answer.
            _ = connection => exchange.await,
        };
        exchanged.map_err(|error| format!("{authority} does not answer as a node does: {error}").into())
    }

    /// Prints an answer: as JSON if that is wanted, else as `told` says it.
    pub(super) fn print(&self, name: &str, answer: &impl Message, told: impl FnOnce()) {
        if self.json {
            println!("{}", message_to_json(name, answer));
        } else {
            told();
        }
    }
}

/// A text as a part of a path or query.
pub(super) fn quoted(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Where the API is.
fn address(api: &str) -> Result<Address, Failure> {
    let web = !api.starts_with("ws");
    let address = Address::parse(api).filter(|address| web && matches!(address.path.as_str(), "/" | ""));
    address.ok_or_else(|| {
        format!("--api {api:?} is no address of a node: expected one such as http://127.0.0.1:8080").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_explained() {
        let good = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://node.internal/", "node.internal"),
            ("node:9", "node:9"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("https://node", "node"),
        ];
        for (api, expected) in good {
            assert_eq!(address(api).unwrap().authority(), expected);
        }
        assert!(address("https://node").unwrap().tls);
        for bad in ["", "http://", "ws://node:8080", "http://node:8080/v1", "http://no de"] {
            assert!(address(bad).unwrap_err().0.contains("expected"), "{bad}");
        }
        assert_eq!(quoted("a b&c=ä"), "a%20b%26c%3D%C3%A4");
    }
}
