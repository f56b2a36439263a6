/** Between the generated layer and the types of this package. */
package io.lanecast

import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Instant
import io.lanecast.ffi.Body as FfiBody
import io.lanecast.ffi.Cause as FfiCause
import io.lanecast.ffi.ClientState as FfiClientState
import io.lanecast.ffi.ErrorKind as FfiErrorKind
import io.lanecast.ffi.Event as FfiEvent
import io.lanecast.ffi.FfiException
import io.lanecast.ffi.Gap as FfiGap
import io.lanecast.ffi.GapCause as FfiGapCause
import io.lanecast.ffi.Item as FfiItem
import io.lanecast.ffi.Lane as FfiLane
import io.lanecast.ffi.Missing as FfiMissing
import io.lanecast.ffi.Outcome as FfiOutcome
import io.lanecast.ffi.Published as FfiPublished
import io.lanecast.ffi.RoomState as FfiRoomState
import io.lanecast.ffi.Sender as FfiSender
import io.lanecast.ffi.Signal as FfiSignal
import io.lanecast.ffi.SignalChange as FfiSignalChange

/** Runs a call of the generated layer, whose one exception becomes one of this package's. */
internal inline fun <T> lifting(call: () -> T): T = try {
    call()
} catch (failed: FfiException) {
    throw failed.lift()
}

internal fun FfiException.lift(): LanecastException {
    val failed = this as FfiException.Failed
    val fault = Fault(
        code = failed.code.toInt().takeIf { it != 0 },
        detail = failed.detail,
        retryable = failed.retryable,
        retryAfter = failed.retryAfterMs?.toLong()?.milliseconds,
    )
    return when (failed.kind) {
        FfiErrorKind.INVALID -> LanecastException.Invalid(fault)
        FfiErrorKind.BAD_URL -> LanecastException.BadUrl(fault)
        FfiErrorKind.UNSUPPORTED_SCHEME -> LanecastException.UnsupportedScheme(fault)
        FfiErrorKind.CERTIFICATES -> LanecastException.Certificates(fault)
        FfiErrorKind.NO_RUNTIME -> LanecastException.NoRuntime(fault)
        FfiErrorKind.CLOSED -> LanecastException.Closed(fault)
        FfiErrorKind.OUTBOX_LOCKED -> LanecastException.OutboxLocked(fault)
        FfiErrorKind.OUTBOX_DAMAGED -> LanecastException.OutboxDamaged(fault)
        FfiErrorKind.OUTBOX_VERSION -> LanecastException.OutboxVersion(fault)
        FfiErrorKind.OUTBOX_FILE -> LanecastException.OutboxFile(fault)
        FfiErrorKind.POSITIONS_LOCKED -> LanecastException.PositionsLocked(fault)
        FfiErrorKind.POSITIONS_DAMAGED -> LanecastException.PositionsDamaged(fault)
        FfiErrorKind.POSITIONS_VERSION -> LanecastException.PositionsVersion(fault)
        FfiErrorKind.POSITIONS_FILE -> LanecastException.PositionsFile(fault)
        FfiErrorKind.OUTBOX_FULL -> LanecastException.OutboxFull(fault)
        FfiErrorKind.NOT_KEPT -> LanecastException.NotKept(fault)
        FfiErrorKind.NOT_CONNECTED -> LanecastException.NotConnected(fault)
        FfiErrorKind.TOO_MANY -> LanecastException.TooMany(fault)
        FfiErrorKind.REFUSED -> LanecastException.Refused(fault)
        FfiErrorKind.GIVEN_UP -> LanecastException.GivenUp(fault)
        FfiErrorKind.ALREADY_SUBSCRIBED -> LanecastException.AlreadySubscribed(fault)
        FfiErrorKind.TOO_MANY_ROOMS -> LanecastException.TooManyRooms(fault)
        // Nothing here hands a Cancellation over: Kotlin's own cancelling drops the call.
        FfiErrorKind.CANCELLED, FfiErrorKind.INTERNAL -> LanecastException.Internal(fault)
    }
}

internal fun FfiLane.lift(): Lane = when (this) {
    FfiLane.URGENT -> Lane.URGENT
    FfiLane.NORMAL -> Lane.NORMAL
    FfiLane.BULK -> Lane.BULK
}

internal fun Lane.lower(): FfiLane = when (this) {
    Lane.URGENT -> FfiLane.URGENT
    Lane.NORMAL -> FfiLane.NORMAL
    Lane.BULK -> FfiLane.BULK
    Lane.UNKNOWN -> throw LanecastException.Invalid(Fault(detail = "nothing can be published to an unknown lane"))
}

internal fun FfiBody.lift(): Body = when (this) {
    is FfiBody.Text -> Body.Text(text)
    is FfiBody.Bytes -> Body.Bytes(bytes)
}

internal fun Body.lower(): FfiBody = when (this) {
    is Body.Text -> FfiBody.Text(text)
    is Body.Bytes -> FfiBody.Bytes(bytes)
}

internal fun FfiSender.lift() = Sender(user, service, instance)

internal fun ULong.instant(): Instant = Instant.fromEpochMilliseconds(toLong())

/** At least 1 ms: what has no time left is not what has no limit. */
internal fun Duration.lower(): ULong = inWholeMilliseconds.coerceAtLeast(1).toULong()

internal fun FfiItem.lift(room: String): RoomItem = when (this) {
    is FfiItem.Event -> event.lift(room)
    is FfiItem.Gap -> gap.lift(room)
}

internal fun FfiEvent.lift(room: String) = Event(
    room = room,
    lane = lane.lift(),
    epoch = epoch.toLong(),
    seq = seq.toLong(),
    order = order.toLong(),
    from = from.lift(),
    time = timeMs.instant(),
    type = type,
    body = body.lift(),
    key = key,
    contentType = contentType,
    headers = headers,
    expiresAt = expiresAtMs?.instant(),
)

internal fun FfiGap.lift(room: String) = Gap(room, missing.lift(), cause.lift(), refillable)

private fun FfiMissing.lift(): Missing = when (this) {
    is FfiMissing.Seqs -> Missing.Seqs(lane.lift(), epoch.toLong(), from.toLong(), to?.toLong())
    is FfiMissing.Transients -> Missing.Transients(lane?.lift(), count?.toLong())
}

private fun FfiGapCause.lift(): GapCause = when (this) {
    FfiGapCause.TRIMMED -> GapCause.TRIMMED
    FfiGapCause.EXPIRED -> GapCause.EXPIRED
    FfiGapCause.ERASED -> GapCause.ERASED
    FfiGapCause.ROLLED_BACK -> GapCause.ROLLED_BACK
    FfiGapCause.DROPPED -> GapCause.DROPPED
    FfiGapCause.MISSED -> GapCause.MISSED
    FfiGapCause.UNKNOWN -> GapCause.UNKNOWN
}

internal fun FfiCause.lift() = Cause(code.toInt().takeIf { it != 0 }, detail)

internal fun FfiClientState.lift(): ClientState = when (this) {
    FfiClientState.Idle -> ClientState.Idle
    FfiClientState.Connecting -> ClientState.Connecting
    FfiClientState.Connected -> ClientState.Connected
    is FfiClientState.Suspended -> ClientState.Suspended(cause.lift())
    is FfiClientState.Closed -> ClientState.Closed(cause.lift())
    FfiClientState.Unknown -> ClientState.Unknown
}

internal fun FfiRoomState.lift(): RoomState = when (this) {
    FfiRoomState.Subscribing -> RoomState.Subscribing
    is FfiRoomState.CatchingUp -> RoomState.CatchingUp(recovered)
    is FfiRoomState.Live -> RoomState.Live(recovered)
    FfiRoomState.Degraded -> RoomState.Degraded
    is FfiRoomState.Ended -> RoomState.Ended(cause?.lift())
    FfiRoomState.Unknown -> RoomState.Unknown
}

internal fun FfiPublished.lift() = Published(epoch.toLong(), lane.lift(), seq.toLong(), order.toLong(), duplicate)

internal fun FfiOutcome.lift(): Outcome {
    val result = published?.let { Result.success(it.lift()) } ?: Result.failure(checkNotNull(failure).lift())
    return Outcome(room, lane.lift(), type, key, body.lift(), result)
}

internal fun FfiSignalChange.lift(): SignalChange = when (this) {
    is FfiSignalChange.Live -> signal.lift()
    is FfiSignalChange.Gone -> SignalChange.Gone(from.lift(), type, key, expired)
}

private fun FfiSignal.lift() =
    SignalChange.Live(from.lift(), type, key, body.lift(), contentType, expiresAtMs.instant())
