// Reads a room from its beginning, and prints how many events a second that took. Arguments: URL ROOM EVENTS. What
// sdk-rust/examples/drain.rs is for Rust, which also fills the room.
import Lanecast

let (url, name, count) = (CommandLine.arguments[1], CommandLine.arguments[2], Int(CommandLine.arguments[3])!)
let client = try await Client.connect(url) { $0.token = .fixed("dev:swift") }
try await client.connected()
let begin = ContinuousClock.now
let events = client.room(name).events(from: .beginning)
var (seen, bytes) = (0, 0)
for try await item in events {
    guard case .event(let event) = item else { fatalError("a gap in a room that is not trimmed: \(item)") }
    seen += 1
    bytes += event.text?.utf8.count ?? 0
    if seen == count { break }
}
print(Int(Double(count) / ((ContinuousClock.now - begin) / .seconds(1))))
try await client.shutdown()
