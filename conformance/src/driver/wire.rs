//! Frames between the suite and a driver, and the two ways to write a message.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::schema::{self, CodecError};

/// Bytes of a frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
const COMMAND: &str = "lanecast.driver.v1.Command";
const REPORT: &str = "lanecast.driver.v1.Report";

/// How a driver writes messages, as its first one shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Protobuf.
    #[default]
    Protobuf,
    /// Canonical JSON.
    Json,
}

impl Form {
    /// The form of a message: no message of ours begins with `{` in protobuf.
    pub fn of(message: &[u8]) -> Self {
        if message.first() == Some(&b'{') { Self::Json } else { Self::Protobuf }
    }

    /// Writes a command.
    pub fn command(self, command: &Value) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Protobuf => schema::encode(COMMAND, command),
            Self::Json => Ok(schema::to_text(COMMAND, command)?.into_bytes()),
        }
    }

    /// Reads a command, as a driver does.
    pub fn read_command(self, message: &[u8]) -> Result<Value, CodecError> {
        self.read(COMMAND, message)
    }

    /// Writes a report, as a driver does.
    pub fn report(self, report: &Value) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Protobuf => schema::encode(REPORT, report),
            Self::Json => Ok(schema::to_text(REPORT, report)?.into_bytes()),
        }
    }

    /// Reads a report.
    pub fn read_report(self, message: &[u8]) -> Result<Value, CodecError> {
        self.read(REPORT, message)
    }

    fn read(self, name: &str, message: &[u8]) -> Result<Value, CodecError> {
        match self {
            Self::Protobuf => schema::decode(name, message),
            Self::Json => {
                let text = std::str::from_utf8(message).map_err(|error| CodecError(error.to_string()))?;
                schema::from_text(name, text)
            }
        }
    }
}

/// Reads a frame of a stream; `None`: the stream ended between frames.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, CodecError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(CodecError(error.to_string())),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(CodecError(format!("a frame of {length} bytes; {FRAME_BYTES_MAX} are the most")));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.map_err(|error| CodecError(format!("a frame was cut off: {error}")))?;
    Ok(Some(frame))
}

/// Writes a frame on a stream.
pub async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let command = json!({"id": 3, "publish": {"room": "r", "type": "msg", "body": {"data": "AAE="}}});
        for form in [Form::Protobuf, Form::Json] {
            let written = form.command(&command).unwrap();
            assert_eq!(Form::of(&written), form);
            let read = form.read_command(&written).unwrap();
            assert_eq!((&read["publish"]["room"], &read["publish"]["ttlMs"]), (&json!("r"), &json!(0)));
            let report = json!({"event": {"room": "r", "seq": 9_007_199_254_740_991_u64}});
            let read = form.read_report(&form.report(&report).unwrap()).unwrap();
            assert_eq!(read["event"]["seq"], 9_007_199_254_740_991_u64, "64-bit numbers are numbers to the suite");
        }
        let read = Form::Json.read_report(br#"{"event":{"seq":7,"later":{}},"later":1}"#).unwrap();
        assert_eq!(read["event"]["seq"], 7, "numbers need no quotes, and what the suite does not know is passed over");
        assert!(Form::Json.read_report(br#"{"event":{"seq":[]}}"#).is_err(), "a field of another type is told");
    }

    #[tokio::test]
    async fn frames_have_a_length_and_a_bound() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, b"abc").await.unwrap();
        assert_eq!(bytes, [0, 0, 0, 3, b'a', b'b', b'c']);
        assert_eq!(read_frame(&mut bytes.as_slice()).await.unwrap().unwrap(), b"abc");
        assert!(read_frame(&mut [].as_slice()).await.unwrap().is_none());
        assert!(read_frame(&mut [0xff; 8].as_slice()).await.is_err());
        assert!(read_frame(&mut [0, 0, 0, 3, 1].as_slice()).await.is_err());
    }
}
