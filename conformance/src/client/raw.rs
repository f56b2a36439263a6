//! A TCP connection on which a case writes what bytes it likes: slow handshakes, cut frames, lying lengths.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::socket::Socket;
use crate::target::Endpoint;
use crate::verdict::{Outcome, Stop};

/// Bytes of an HTTP head that are read at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A TCP connection to the server.
pub struct RawSocket {
    /// The stream, for whatever a case wants to do with it.
    pub stream: Socket,
    buffer: Vec<u8>,
}

/// A WebSocket frame as it came from the server.
#[derive(Debug)]
pub struct RawFrame {
    /// First byte: FIN, reserved bits and opcode.
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl RawSocket {
    /// Connects.
    pub async fn connect(endpoint: &Endpoint) -> Outcome<Self> {
        let stream = Socket::connect(endpoint, None).await.map_err(Stop::harness)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Writes all bytes. A server may have closed already, which the next read shows.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Makes the WebSocket handshake.
    pub async fn upgrade(&mut self, endpoint: &Endpoint, subprotocol: &str, within: Duration) -> Outcome {
        self.write(handshake(endpoint, subprotocol).as_bytes()).await;
        let head = self.head(within).await?;
        if head.starts_with("HTTP/1.1 101") {
            Ok(())
        } else {
            Err(Stop::fail(format!("the handshake was answered with {:?}", head.lines().next().unwrap_or(""))))
        }
    }

    /// Reads the head of an HTTP answer.
    pub async fn head(&mut self, within: Duration) -> Outcome<String> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return Ok(head);
            }
            if self.buffer.len() > HEAD_BYTES_MAX || !self.fill(deadline).await? {
                return Err(Stop::fail("the connection ended before the head of an answer"));
            }
        }
    }

    /// Waits for the server to end the connection; false: it did not in time.
    pub async fn ends(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            match self.fill(deadline).await {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }

    /// What was read and not taken yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads the next WebSocket frame; `None`: the connection ended.
    pub async fn frame(&mut self, within: Duration) -> Outcome<Option<RawFrame>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some((frame, used)) = parse_frame(&self.buffer) {
                self.buffer.drain(..used);
                return Ok(Some(frame));
            }
            if !self.fill(deadline).await? {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self, deadline: Instant) -> Outcome<bool> {
        let mut chunk = [0; 4096];
        match timeout_at(deadline, self.stream.read(&mut chunk)).await {
            Err(_) => Err(Stop::fail("nothing came in time")),
            Ok(Err(_) | Ok(0)) => Ok(false),
            Ok(Ok(read)) => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(true)
            }
        }
    }
}

/// The bytes of a WebSocket handshake.
pub fn handshake(endpoint: &Endpoint, subprotocol: &str) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
        endpoint.path,
        endpoint.authority()
    )
}

/// A masked WebSocket frame. The mask is zero, so that the bytes on the wire are the payload's own.
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = frame_head(first, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

/// The head of a masked frame that declares a length.
pub fn frame_head(first: u8, length: u64) -> Vec<u8> {
    let mut out = vec![first];
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out
}

fn parse_frame(bytes: &[u8]) -> Option<(RawFrame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, head): (usize, usize) = match second & 0x7f {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(head..head.checked_add(length)?)?.to_vec();
    Some((RawFrame { first, payload }, head + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_whole() {
        let mut bytes = vec![0x82, 3, 1, 2, 3];
        assert_eq!(parse_frame(&bytes).unwrap().0.payload, [1, 2, 3]);
        bytes.pop();
        assert!(parse_frame(&bytes).is_none());
        assert_eq!(client_frame(0x82, &[7; 200])[..4], [0x82, 0xfe, 0, 200]);
    }
}
