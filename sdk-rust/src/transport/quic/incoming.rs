//! What comes from the node: streams and datagrams to packets of one lane each.

use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use lanecast_protocol::binding::{Piece, StreamReader};
use lanecast_protocol::codec::CodecError;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::session::client::RECORD_BYTES_MAX;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, VarInt};

use super::super::Turn;
use super::over;

/// Bytes read from a stream at a time, so that a long one lets the others have their turn.
const CHUNK_BYTES: usize = 16 * 1024;

struct In {
    stream: RecvStream,
    reader: StreamReader,
}

/// What a stream gave.
enum Got {
    Turn(Turn),
    /// It is read to its end, or not worth reading.
    Done,
}

/// The receiving side. Streams are as many as the transport's configuration lets the node open.
pub(super) struct Incoming {
    control: In,
    streams: Vec<In>,
    /// The stream that is asked first next time: each has its turn.
    turn: usize,
    accepting: BoxStream<'static, Result<RecvStream, ConnectionError>>,
    datagrams: BoxStream<'static, Result<Bytes, ConnectionError>>,
}

impl Incoming {
    pub(super) fn new(connection: &Connection, control: RecvStream) -> Self {
        // The connection's own futures keep their place in a queue of wakers, so they are kept and not made anew.
        let accepting = stream::unfold(connection.clone(), |connection| async move {
            let accepted = connection.accept_uni().await;
            Some((accepted, connection))
        });
        let datagrams = stream::unfold(connection.clone(), |connection| async move {
            let datagram = connection.read_datagram().await;
            Some((datagram, connection))
        });
        Self {
            control: In { stream: control, reader: StreamReader::control(RECORD_BYTES_MAX) },
            streams: Vec::new(),
            turn: 0,
            accepting: accepting.boxed(),
            datagrams: datagrams.boxed(),
        }
    }

    /// The next packet, or the end. Control first: it says what the others are about.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        match self.control.poll(cx) {
            Poll::Ready(Got::Turn(turn)) => return Poll::Ready(turn),
            Poll::Ready(Got::Done) => {
                let detail = "the node ended control".to_owned();
                return Poll::Ready(Turn::Over { code: None, detail });
            }
            Poll::Pending => {}
        }
        while let Poll::Ready(Some(accepted)) = self.accepting.poll_next_unpin(cx) {
            match accepted {
                Ok(stream) => self.streams.push(In { stream, reader: StreamReader::unidirectional(RECORD_BYTES_MAX) }),
                Err(error) => return Poll::Ready(over(&error)),
            }
        }
        if let Poll::Ready(turn) = self.poll_streams(cx) {
            return Poll::Ready(turn);
        }
        match ready!(self.datagrams.poll_next_unpin(cx)) {
            Some(Ok(datagram)) => Poll::Ready(Turn::Packet(Some(Lane::Signal), datagram)),
            Some(Err(error)) => Poll::Ready(over(&error)),
            // It never ends.
            None => Poll::Pending,
        }
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let mut left = self.streams.len();
        while left > 0 {
            left -= 1;
            self.turn %= self.streams.len();
            match self.streams[self.turn].poll(cx) {
                Poll::Ready(Got::Turn(turn)) => {
                    self.turn += 1;
                    return Poll::Ready(turn);
                }
                Poll::Ready(Got::Done) => drop(self.streams.swap_remove(self.turn)),
                Poll::Pending => self.turn += 1,
            }
        }
        Poll::Pending
    }
}

impl In {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Got> {
        loop {
            let read = ready!(pin!(self.stream.read_chunk(CHUNK_BYTES, true)).poll_unpin(cx));
            let turn = match read {
                Ok(Some(chunk)) => match self.reader.feed(chunk.bytes) {
                    Ok(Piece::Nothing) => continue,
                    Ok(Piece::Records(lane, records)) => Turn::Packet(Some(lane), records),
                    Ok(Piece::Unknown) => {
                        // LC-QUIC-001
                        let _ = self.stream.stop(VarInt::from_u32(0));
                        return Poll::Ready(Got::Done);
                    }
                    Err(error) => fault(&error),
                },
                Ok(None) => match self.reader.finish() {
                    Ok(()) => return Poll::Ready(Got::Done),
                    Err(error) => fault(&error),
                },
                Err(ReadError::ConnectionLost(error)) => over(&error),
                // LC-QUIC-013: a signal that was superseded. Of another lane the next seq shows what is missing.
                Err(ReadError::Reset(_)) => return Poll::Ready(Got::Done),
                Err(error) => Turn::Over { code: None, detail: format!("a stream broke: {error}") },
            };
            return Poll::Ready(Got::Turn(turn));
        }
    }
}

fn fault(error: &CodecError) -> Turn {
    tracing::debug!(%error, "a stream of the node");
    Turn::Fault(error.code)
}
