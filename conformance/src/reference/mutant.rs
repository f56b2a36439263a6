//! Mutants: reference servers that break one rule each, to prove that the suite can fail.

use clap::ValueEnum;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident breaks $($rule:literal)|+;)*) => {
        /// What a mutant does wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The rules that it breaks; a case that cites one of them must fail.
            pub fn rules(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &[$($rule),+],)*
                }
            }
        }
    };
}

mutants! {
    /// Carries requests out before Hello.
    NoHelloNeeded breaks "LC-HS-002";
    /// Ignores a second Hello.
    SecondHelloIgnored breaks "LC-HS-003";
    /// Takes every version.
    AnyVersion breaks "LC-HS-004";
    /// Waits for Hello for ever.
    NoHelloDeadline breaks "LC-HS-006";
    /// Leaves the id out of Welcome.
    WelcomeWithoutId breaks "LC-HS-010";
    /// A refused subscription in Hello is passed over in silence.
    RefusedSubscriptionSilent breaks "LC-HS-012";
    /// Takes tokens whose signature does not fit.
    SignatureUnchecked breaks "LC-AUTH-001";
    /// Takes tokens that have expired.
    ExpiryUnchecked breaks "LC-AUTH-002";
    /// Takes a token whose key id it does not know.
    UnknownKidTaken breaks "LC-AUTH-033";
    /// Goes on with the rights of the former token after a refresh.
    OldRightsAfterRefresh breaks "LC-AUTH-020";
    /// Takes another user's token at a refresh.
    RefreshOfAnyUser breaks "LC-AUTH-021";
    /// A refused newer token ends the connection.
    BadRefreshCloses breaks "LC-AUTH-023";
    /// Subscribes without the right.
    RightsUnchecked breaks "LC-AUTH-010";
    /// Sends events of types that the right excludes.
    TypesUnchecked breaks "LC-AUTH-013";
    /// Leaves trimmed events out of pages in silence.
    SilentTrimInPages breaks "LC-HIST-006";
    /// `*` matches any number of segments.
    StarMatchesAll breaks "LC-AUTH-011";
    /// Answers broken bytes with silence.
    BrokenBytesIgnored breaks "LC-FRM-002";
    /// Takes records of any size.
    SizeUnchecked breaks "LC-FRM-004" | "LC-WS-005";
    /// Closes at an unknown request.
    UnknownRequestFatal breaks "LC-FRM-010";
    /// Answers unknown frames without id.
    UnknownFrameAnswered breaks "LC-FRM-011";
    /// Takes text on the binary subprotocol.
    TextTaken breaks "LC-WS-004";
    /// Closes without an Error.
    CloseWithoutError breaks "LC-LIFE-011";
    /// Leaves the stamp out of Pong.
    PongWithoutStamp breaks "LC-LIFE-002";
    /// Says nothing before it stops.
    NoGoAway breaks "LC-LIFE-020";
    /// Takes any room name.
    RoomNamesUnchecked breaks "LC-ROOM-001";
    /// Folds room names to lower case.
    RoomNamesFolded breaks "LC-ROOM-002";
    /// Takes any number of subscriptions.
    RoomLimitUnchecked breaks "LC-SUB-005";
    /// Sends events after Unsubscribed.
    UnsubscribeIgnored breaks "LC-SUB-007";
    /// Skips the newest event in catch-up.
    CatchUpSkipsOne breaks "LC-SUB-010";
    /// Sends the event at the position again.
    CatchUpRepeatsOne breaks "LC-SUB-010" | "LC-RES-001";
    /// Does not send publishers their own events.
    OwnEventsLeftOut breaks "LC-SUB-011";
    /// Gives every subscription a handle of its own.
    HandlePerSubscription breaks "LC-SUB-012";
    /// Says nothing of trimmed events.
    SilentTrim breaks "LC-RES-003";
    /// The gap of trimmed events ends one too early.
    ShortGap breaks "LC-SUB-015" | "LC-RES-003";
    /// `recovered` is always true for a position.
    AlwaysRecovered breaks "LC-RES-002" | "LC-RES-003";
    /// A position of an unknown epoch is taken for one of the present epoch.
    EpochIgnored breaks "LC-RES-011";
    /// What an older epoch lost is told to those who had got it, not to those who wait for it.
    RollbackToldToTheAhead breaks "LC-RES-013";
    /// A position beyond the head is taken as it is.
    AheadBelieved breaks "LC-RES-012";
    /// Sends durable events that have expired.
    ExpiredSent breaks "LC-SUB-016";
    /// One count of seqs for all lanes.
    SeqAcrossLanes breaks "LC-PUB-012";
    /// Stores transient events.
    TransientStored breaks "LC-PUB-013";
    /// Stores a number twice.
    DuplicateStored breaks "LC-PUB-020";
    /// Takes publishes out of order.
    OrderUnchecked breaks "LC-PUB-021";
    /// Watermarks end with the connection.
    WatermarkPerConnection breaks "LC-PUB-022";
    /// Encodes the envelope anew.
    EnvelopeReencoded breaks "LC-PUB-010";
    /// Takes messages of any size.
    MessageSizeUnchecked breaks "LC-PUB-005";
    /// Puts every event on lane normal.
    LaneLost breaks "LC-LANE-001" | "LC-PUB-002";
    /// Ends no queue before another: first in, first out.
    OneQueue breaks "LC-LANE-005";
    /// Urgent events leave first for ever.
    UrgentUnbounded breaks "LC-LANE-006";
    /// Lane normal leaves before bulk for ever.
    StrictLanes breaks "LC-LANE-007";
    /// Sends fragments to clients that do not take them.
    FragmentsForAll breaks "LC-FRM-030";
    /// Takes a frame from pieces of another lane.
    FragmentLaneUnchecked breaks "LC-FRM-030";
    /// Begins transfers of any size.
    FragmentTotalUnchecked breaks "LC-FRM-031";
    /// Holds any number of unfinished transfers.
    TransfersUnbounded breaks "LC-FRM-031";
    /// Never forgets a transfer.
    SilentTransferKept breaks "LC-FRM-031";
    /// Says nothing of transfers that it does not finish.
    TransfersLeft breaks "LC-FRM-032";
    /// Sends whatever the client has consumed.
    CreditIgnored breaks "LC-FLOW-010";
    /// Takes credit that contradicts what came before.
    CreditUnchecked breaks "LC-FLOW-010";
    /// Gives no credit.
    CreditNeverGiven breaks "LC-FLOW-010";
    /// Counts what it never got.
    CreditOverstated breaks "LC-FLOW-010";
    /// Gives credit to clients that do not know it.
    CreditForAll breaks "LC-FLOW-010";
    /// Waits for ever for a client that gives no credit.
    CreditAwaited breaks "LC-FLOW-005" | "LC-FLOW-010";
    /// Answers Focus and does nothing.
    FocusIgnored breaks "LC-FLOW-020";
    /// Says nothing of limits that change.
    LimitsUntold breaks "LC-FLOW-007";
    /// A lower limit holds at once.
    LimitLoweredAtOnce breaks "LC-FLOW-007";
    /// A lower limit never holds.
    LimitNeverLowered breaks "LC-FLOW-007";
    /// Pages are always backward.
    HistoryBackwardOnly breaks "LC-HIST-001";
    /// A page's cursor is inclusive.
    CursorInclusive breaks "LC-HIST-002" | "LC-HIST-005";
    /// Gives no live signals on entry.
    NoSignalsOnEntry breaks "LC-SIG-004";
    /// The last signal to arrive wins.
    LastSignalWins breaks "LC-SIG-003";
    /// Signals live for ever.
    SignalsLiveOn breaks "LC-SIG-006";
    /// A clear leaves the value for those who come later.
    ClearForgets breaks "LC-SIG-005";
    /// No limit on signals.
    SignalRateUnchecked breaks "LC-FLOW-001";
    /// No limit on publishes.
    PublishRateUnchecked breaks "LC-FLOW-001";
    /// Any number of connections of a user.
    UserCapUnchecked breaks "LC-SEC-011";
    /// Believes what the client of a proxy says of its own address.
    ForwardedFromLeft breaks "LC-SEC-011";
    /// Publishes in lanes that the policy does not have.
    PolicyLaneUnchecked breaks "LC-PUB-004";
    /// Does not say that the logs are away.
    LossUntold breaks "LC-SUB-018";
    /// Errors do not name the room.
    ErrorWithoutRoom breaks "LC-ERR-007";
    /// Takes numbers of 2^53 and more.
    LargeNumbersTaken breaks "LC-FRM-020" | "LC-TYPE-001";
    /// Writes 64-bit integers as numbers in JSON.
    JsonNumbers breaks "LC-JSON-001";
    /// Takes stream headers in messages and datagrams.
    HeaderInPacketTaken breaks "LC-FRM-007";
    /// Handles frames of streams that overtake Hello at once.
    EarlyFramesHandled breaks "LC-HS-013";
    /// Begins its streams without a header.
    HeaderLeftOut breaks "LC-QUIC-001";
    /// Closes at a stream of a kind that it does not know.
    UnknownStreamFatal breaks "LC-QUIC-001";
    /// Sends lane bulk on the stream of lane normal.
    BulkOnNormal breaks "LC-QUIC-003";
    /// Takes frames of any lane on any stream.
    WrongLaneTaken breaks "LC-QUIC-003";
    /// Sends all urgent events on one stream.
    UrgentOnOneStream breaks "LC-QUIC-004";
    /// Sends urgent events however far they are above the one that is not acknowledged.
    UrgentWindowUnchecked breaks "LC-QUIC-004";
    /// Closes with the application error code 0.
    CloseCodeZero breaks "LC-QUIC-006";
    /// Sends urgent events of a new epoch while some of the old one are on their way.
    EpochsOvertake breaks "LC-QUIC-007";
    /// Never uses datagrams.
    SignalsOnStreams breaks "LC-QUIC-009";
    /// Sends a signal to its end although a newer one of the key follows.
    SupersededSignalsSent breaks "LC-QUIC-009";
    /// Carries out what comes as early data.
    EarlyDataTaken breaks "LC-QUIC-011";
    /// Takes WebTransport sessions from pages of any origin.
    AnyOrigin breaks "LC-WT-003";
}
