// A chat in the terminal, in the room of the node's page: lines go to the room, `!` in front makes them urgent, and who types is
// shown. Arguments: NAME [URL].
import Foundation
import Lanecast

let arguments = CommandLine.arguments.dropFirst()
let name = arguments.first ?? "swift"
let client = try await Client.connect(arguments.dropFirst().first ?? "http://127.0.0.1:8080") {
    $0.app = "terminal chat"
    // Ask your own backend for a token here.
    $0.token { "dev:\(name)" }
}
let room = client.room("demo")

// Each event once and in order, or a gap that says what will not come.
let reader = Task {
    for try await item in room.events(from: .count(20)) {
        switch item {
        case .event(let event) where event.type == "msg": print("\(event.from): \(event.text ?? "")")
        case .event: break
        case .gap(let gap): print("-- missing: \(gap)")
        }
    }
}
Task {
    for try await case .live(let signal) in room.signals where signal.type == "typing" { print("-- \(signal.from) types") }
}
Task {
    for await state in client.states {
        if case .suspended(let cause) = state { print("-- offline: \(cause)") }
    }
}

// Reading a line blocks, so it has a thread of its own.
let lines = AsyncStream<String> { lines in
    Thread.detachNewThread {
        while let line = readLine() { lines.yield(line) }
        lines.finish()
    }
}
for await line in lines where !line.isEmpty {
    try await room.signal("typing", key: "typing", ttl: .seconds(3))
    let isUrgent = line.hasPrefix("!")
    let text = isUrgent ? String(line.dropFirst()) : line
    // Without a connection it waits in the outbox, and the chat goes on.
    let receipt = try await room.send(Message("msg", .text(text), lane: isUrgent ? .urgent : .normal))
    Task {
        do { try await receipt.stored() } catch { print("-- not sent: \(error)") }
    }
}
try await client.flush()
try await client.shutdown()
