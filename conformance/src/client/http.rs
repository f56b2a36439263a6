//! HTTP/1.1 by hand, for the API and for streams of server-sent events.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, timeout_at};

use super::log::WireLog;
use super::socket::Socket;
use crate::target::Endpoint;
use crate::verdict::{Outcome, Stop};

/// Bytes of a body that are read at most.
const BODY_BYTES_MAX: usize = 8 << 20;

/// A request to make.
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Headers besides Host, Connection and Content-Length.
    pub headers: &'a [(String, String)],
    /// Body.
    pub body: Option<Vec<u8>>,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, as text.
    pub body: String,
    /// Body, as it came.
    pub bytes: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

enum Length {
    Bytes(usize),
    Chunked,
    ToEnd,
}

struct Reader {
    stream: BufReader<Socket>,
    length: Length,
    deadline: Instant,
}

impl Reader {
    async fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match timeout_at(self.deadline, self.stream.read_line(&mut line)).await {
            Err(_) => Err(Stop::fail("no HTTP answer in time")),
            Ok(Err(error)) => Err(Stop::fail(format!("reading an HTTP answer: {error}"))),
            Ok(Ok(_)) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }

    /// The next piece of the body; empty: its end.
    async fn piece(&mut self) -> Outcome<Vec<u8>> {
        let size = match &mut self.length {
            Length::Bytes(left) => std::mem::take(left),
            Length::ToEnd => 0,
            Length::Chunked => {
                let line = self.line().await?;
                usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
                    .map_err(|_| Stop::fail(format!("the size of a chunk is {line:?}")))?
            }
        };
        if size > BODY_BYTES_MAX {
            return Err(Stop::fail(format!("a body of {size} bytes")));
        }
        let mut piece = vec![0; size];
        let stopped = |error| Stop::fail(format!("reading an HTTP body: {error}"));
        if matches!(self.length, Length::ToEnd) {
            let mut take = (&mut self.stream).take(BODY_BYTES_MAX as u64);
            timeout_at(self.deadline, take.read_to_end(&mut piece)).await.map_err(|_| late())?.map_err(stopped)?;
        } else {
            timeout_at(self.deadline, self.stream.read_exact(&mut piece))
                .await
                .map_err(|_| late())?
                .map_err(stopped)?;
        }
        if matches!(self.length, Length::Chunked) {
            self.line().await?;
        }
        Ok(piece)
    }
}

fn late() -> Stop {
    Stop::fail("an HTTP body did not come in time")
}

async fn start(
    endpoint: &Endpoint,
    request: &Request<'_>,
    within: Duration,
    log: &WireLog,
) -> Outcome<(Response, Reader)> {
    let stream = Socket::connect(endpoint, None).await.map_err(Stop::harness)?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
        request.method,
        request.path,
        endpoint.authority()
    );
    for (name, value) in request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = request.body.as_deref().unwrap_or_default();
    if request.body.is_some() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let shown = String::from_utf8_lossy(body);
    log.add("http", "→", &format!("{} {} {shown}", request.method, request.path));
    let mut reader =
        Reader { stream: BufReader::new(stream), length: Length::ToEnd, deadline: Instant::now() + within };
    // A refusal may come before the whole body is written; the answer then says why.
    let _ = reader.stream.get_mut().write_all(&[head.as_bytes(), b"\r\n", body].concat()).await;
    let line = reader.line().await?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let Some(status) = status else { return Err(Stop::fail(format!("not an HTTP status line: {line:?}"))) };
    let mut headers = Vec::new();
    loop {
        let line = reader.line().await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    reader.length = match header(&headers, "content-length").and_then(|length| length.parse().ok()) {
        Some(bytes) => Length::Bytes(bytes),
        None if header(&headers, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) => {
            Length::Chunked
        }
        None => Length::ToEnd,
    };
    Ok((Response { status, headers, body: String::new(), bytes: Vec::new() }, reader))
}

/// Makes a request and reads the whole answer.
pub async fn request(endpoint: &Endpoint, request: &Request<'_>, within: Duration, log: &WireLog) -> Outcome<Response> {
    let (mut response, mut reader) = start(endpoint, request, within, log).await?;
    let mut body = Vec::new();
    loop {
        let piece = reader.piece().await?;
        body.extend_from_slice(&piece);
        if piece.is_empty() || !matches!(reader.length, Length::Chunked) {
            break;
        }
    }
    response.body = String::from_utf8_lossy(&body).into_owned();
    response.bytes = body;
    log.add("http", "←", &format!("{} {}", response.status, response.body));
    Ok(response)
}

/// An item of a stream of server-sent events.
#[derive(Clone, Debug, Default)]
pub struct SseItem {
    /// `event:`.
    pub event: String,
    /// `id:`, if the item has one.
    pub id: Option<String>,
    /// `data:`.
    pub data: String,
}

impl SseItem {
    /// The data as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or(Value::Null)
    }
}

/// A stream of server-sent events.
pub struct Sse {
    /// Status and headers.
    pub response: Response,
    /// Comments that came.
    pub comments: u64,
    /// The retry time that the stream said, ms.
    pub retry_ms: Option<u64>,
    reader: Reader,
    text: String,
    log: WireLog,
}

impl Sse {
    /// Opens the stream. An answer with another status than 200 is returned too; it then has no items.
    pub async fn open(endpoint: &Endpoint, path: &str, headers: &[(String, String)], log: &WireLog) -> Outcome<Self> {
        let mut headers = headers.to_vec();
        headers.push(("Accept".into(), "text/event-stream".into()));
        let request = Request { method: "GET", path, headers: &headers, body: None };
        let (response, reader) = start(endpoint, &request, Duration::from_secs(10), log).await?;
        Ok(Self { response, comments: 0, retry_ms: None, reader, text: String::new(), log: log.clone() })
    }

    /// The next item, comments and retry hints left out; `None`: the stream ended.
    pub async fn next(&mut self, within: Duration) -> Outcome<Option<SseItem>> {
        self.reader.deadline = Instant::now() + within;
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                self.comments += block.lines().filter(|line| line.starts_with(':')).count() as u64;
                let retry = block.lines().find_map(|line| line.strip_prefix("retry:")?.trim().parse().ok());
                self.retry_ms = self.retry_ms.or(retry);
                if let Some(item) = parse_item(&block) {
                    self.log.add("sse", "←", &format!("{} id={:?} {}", item.event, item.id, item.data));
                    return Ok(Some(item));
                }
            }
            let piece = self.reader.piece().await?;
            if piece.is_empty() {
                return Ok(None);
            }
            self.text.push_str(&String::from_utf8_lossy(&piece).replace("\r\n", "\n"));
        }
    }
}

fn parse_item(block: &str) -> Option<SseItem> {
    let mut item = SseItem::default();
    let mut any = false;
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => item.event = value.to_owned(),
            "id" => item.id = Some(value.to_owned()),
            "data" => {
                if !item.data.is_empty() {
                    item.data.push('\n');
                }
                item.data.push_str(value);
            }
            _ => continue,
        }
        any = true;
    }
    any.then_some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_parsed() {
        let item = parse_item("event: gap\nid: 1-2-3-4\ndata: {\"a\":\ndata: 1}\n\n").unwrap();
        assert_eq!((item.event.as_str(), item.id.as_deref()), ("gap", Some("1-2-3-4")));
        assert_eq!(item.json(), serde_json::json!({"a": 1}));
        assert!(parse_item(": comment\n\n").is_none());
        assert!(parse_item("retry: 5\n\n").is_none());
    }
}
