//! The one table of error and close codes.
//!
//! An `Error` frame, a WebSocket close code, a QUIC application code and the body of a refused HTTP request carry
//! the same number. The tables of all other languages and `spec/errors.md` are generated from this file by
//! `lanecast-bindgen`. Numbers are never reused; the hundreds say what a client does with a code it does not know.
//!
//! | range | meaning |
//! | --- | --- |
//! | 4000–4099 | the connection cannot go on and connecting again as before will not help: stop |
//! | 4100–4199 | the credential is the problem: get a new token, then connect again |
//! | 4200–4299 | the connection ended, not by the client's fault: connect again with backoff |
//! | 4300–4399 | a request was refused; repeating it unchanged will not help; the connection lives |
//! | 4400–4499 | a request was refused for now: repeat it after the stated time; the connection lives |

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's code, or the bytes that it sent.
    Client,
    /// The credential, or what it allows.
    Credential,
    /// The node or what lies behind it.
    Node,
}

/// What a client should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Neither repeat nor reconnect; tell the developer.
    Stop,
    /// Get a new token, then connect again.
    NewToken,
    /// Connect or ask again, with backoff.
    Retry,
    /// Ask again after the `retry_after_ms` of the error.
    RetryAfter,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The code.
    pub code: Code,
    /// Name in the tables of all languages.
    pub name: &'static str,
    /// What happened, as a sentence.
    pub sentence: &'static str,
    /// Who caused it.
    pub fault: Fault,
    /// What the client should do.
    pub action: Action,
    /// Status of an HTTP answer that carries the code.
    pub http: u16,
    /// The requirement of the spec that it belongs to.
    pub requirement: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $fault:ident, $action:ident, $http:literal, $req:literal, $sentence:literal;)*) => {
        /// A code of the table. The discriminant is the number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $sentence] $variant = $number,)*
        }

        /// The table, by number.
        pub const TABLE: &[Row] = &[
            $(Row {
                code: Code::$variant,
                name: $name,
                sentence: $sentence,
                fault: Fault::$fault,
                action: Action::$action,
                http: $http,
                requirement: $req,
            },)*
        ];
    };
}

codes! {
    Normal = 4000, "NORMAL", Client, Stop, 200, "LC-LIFE-010", "The connection was closed on purpose.";
    Protocol = 4001, "PROTOCOL", Client, Stop, 400, "LC-FRM-002", "The bytes are not a packet of this protocol.";
    TextFrame = 4002, "TEXT_FRAME", Client, Stop, 400, "LC-WS-004", "A text message came on the binary subprotocol, or the reverse.";
    TooLarge = 4003, "TOO_LARGE", Client, Stop, 413, "LC-FRM-004", "A record is larger than the node accepts.";
    ExpectedHello = 4004, "EXPECTED_HELLO", Client, Stop, 400, "LC-HS-002", "The first frame was not Hello.";
    SecondHello = 4005, "SECOND_HELLO", Client, Stop, 400, "LC-HS-003", "Hello came twice on one connection.";
    Version = 4006, "VERSION", Client, Stop, 400, "LC-HS-004", "No protocol version is spoken by both sides.";
    BadHello = 4007, "BAD_HELLO", Client, Stop, 400, "LC-HS-005", "A field of Hello is missing or out of bounds.";
    Origin = 4008, "ORIGIN", Client, Stop, 403, "LC-SEC-001", "Pages of this origin may not connect.";
    Disconnected = 4009, "DISCONNECTED", Node, Stop, 403, "LC-LIFE-012", "An operator or a backend disconnected this user or device.";
    BadToken = 4100, "BAD_TOKEN", Credential, NewToken, 401, "LC-AUTH-001", "The token is malformed, or its signature does not fit.";
    TokenExpired = 4101, "TOKEN_EXPIRED", Credential, NewToken, 401, "LC-AUTH-002", "The token has expired, or is not valid yet.";
    TokenRevoked = 4102, "TOKEN_REVOKED", Credential, NewToken, 401, "LC-AUTH-003", "The token was revoked.";
    HandshakeTimeout = 4200, "HANDSHAKE_TIMEOUT", Client, Retry, 408, "LC-HS-006", "Hello did not come in time.";
    IdleTimeout = 4201, "IDLE_TIMEOUT", Client, Retry, 408, "LC-LIFE-003", "Nothing was received for too long.";
    NoProgress = 4202, "NO_PROGRESS", Client, Retry, 408, "LC-FLOW-005", "The client took nothing for too long.";
    ControlOverflow = 4203, "CONTROL_OVERFLOW", Client, Retry, 429, "LC-FLOW-004", "The client asks faster than it takes the answers.";
    GoingAway = 4204, "GOING_AWAY", Node, Retry, 503, "LC-LIFE-020", "The node shuts down or sends clients elsewhere.";
    Internal = 4205, "INTERNAL", Node, Retry, 500, "LC-ERR-005", "The node failed; the fault is in its log.";
    Replaced = 4206, "REPLACED", Client, Stop, 409, "LC-LIFE-013", "A newer connection took the place of this one.";
    TooManyConnections = 4207, "TOO_MANY_CONNECTIONS", Client, Retry, 503, "LC-SEC-005", "The node, user or address has too many connections.";
    Invalid = 4300, "INVALID", Client, Stop, 400, "LC-ERR-002", "A field of the request is missing or out of bounds.";
    Unimplemented = 4301, "UNIMPLEMENTED", Client, Stop, 501, "LC-FRM-010", "The node does not serve this kind of request.";
    Forbidden = 4302, "FORBIDDEN", Credential, Stop, 403, "LC-AUTH-010", "The token does not allow this.";
    RoomName = 4303, "ROOM_NAME", Client, Stop, 400, "LC-ROOM-001", "The name is not a valid room name.";
    TooManyRooms = 4304, "TOO_MANY_ROOMS", Client, Stop, 429, "LC-SUB-005", "The connection is subscribed to as many rooms as it may be.";
    NotSubscribed = 4305, "NOT_SUBSCRIBED", Client, Stop, 409, "LC-SUB-006", "The connection is not subscribed to the room.";
    MessageTooLarge = 4306, "MESSAGE_TOO_LARGE", Client, Stop, 413, "LC-PUB-005", "The message is larger than the room's policy allows.";
    LaneNotAllowed = 4307, "LANE_NOT_ALLOWED", Client, Stop, 400, "LC-PUB-004", "The lane cannot be chosen here.";
    IdempotencyConflict = 4308, "IDEMPOTENCY_CONFLICT", Client, Stop, 409, "LC-API-005", "The idempotency key was used with another body.";
    UserMismatch = 4309, "USER_MISMATCH", Credential, Stop, 403, "LC-AUTH-021", "The new token names another user or device.";
    NotFound = 4310, "NOT_FOUND", Client, Stop, 404, "LC-API-002", "There is nothing at this path.";
    RateLimited = 4400, "RATE_LIMITED", Client, RetryAfter, 429, "LC-FLOW-001", "Too many requests of this kind.";
    Unavailable = 4401, "UNAVAILABLE", Node, RetryAfter, 503, "LC-ERR-006", "The log cannot be reached at present.";
    OutOfOrder = 4402, "OUT_OF_ORDER", Client, RetryAfter, 409, "LC-PUB-021", "An earlier publish of this sender is not stored yet; send again in order.";
    TooManyInFlight = 4403, "TOO_MANY_IN_FLIGHT", Client, RetryAfter, 429, "LC-PUB-006", "Too many publishes are waiting for their answer.";
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code with that number, or `None` for one that this version does not know (see [`action_of`]).
    pub fn from_number(number: u32) -> Option<Self> {
        TABLE.iter().map(|row| row.code).find(|code| u32::from(code.number()) == number)
    }

    /// The row of the table.
    pub fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.code == self).expect("every code has a row: both come from one macro")
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.row().name, self.number())
    }
}

/// What to do about a number, also one that this version does not know: the range decides.
pub fn action_of(number: u32) -> Action {
    match Code::from_number(number) {
        Some(code) => code.row().action,
        None => match number {
            4000..=4099 | 4300..=4399 => Action::Stop,
            4100..=4199 => Action::NewToken,
            4400..=4499 => Action::RetryAfter,
            _ => Action::Retry,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_stay_in_their_range() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].code.number() < pair[1].code.number(), "{} after {}", pair[1].name, pair[0].name);
        }
        for row in TABLE {
            assert_eq!(Code::from_number(row.code.number().into()), Some(row.code));
            let expected = match row.code.number() {
                4000..=4099 | 4300..=4399 => Action::Stop,
                4100..=4199 => Action::NewToken,
                4200..=4299 => Action::Retry,
                _ => Action::RetryAfter,
            };
            // REPLACED ends a connection in the retry range, yet reconnecting would start a duel of two tabs.
            assert!(row.action == expected || row.code == Code::Replaced, "{}", row.name);
        }
    }

    #[test]
    fn an_unknown_number_acts_by_its_range() {
        assert_eq!(action_of(4099), Action::Stop);
        assert_eq!(action_of(4199), Action::NewToken);
        assert_eq!(action_of(4299), Action::Retry);
        assert_eq!(action_of(4499), Action::RetryAfter);
        assert_eq!(action_of(1006), Action::Retry);
    }
}
