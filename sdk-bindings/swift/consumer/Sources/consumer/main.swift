// Publishes an event to the node at an address, and reads it. Arguments: URL.
import Lanecast

do {
    let client = try await Client.connect(CommandLine.arguments[1]) { $0.token = .fixed("dev:consumer") }
    let room = client.room("consumer")
    try await room.publish("msg", "hello from a package")
    for try await item in room.events(from: .count(1)) {
        if case .event(let event) = item { print("\(event.from): \(event.text ?? "")") }
        break
    }
    try await client.shutdown()
} catch let error as LanecastError {
    print("failed: \(error)")
}
