import Foundation
import Lanecast
import XCTest

private struct Line: Codable, Sendable, Equatable {
    let text: String
}

/// What the library for protobuf generates has methods like these.
private struct ProtoLine: Sendable, Equatable {
    let number: UInt8

    init(number: UInt8) {
        self.number = number
    }

    init(serializedBytes: Data) throws {
        guard serializedBytes.count == 1 else { throw Failure() }
        number = serializedBytes[serializedBytes.startIndex]
    }

    func serializedData() throws -> Data {
        Data([number])
    }
}

final class TypedTests: XCTestCase, @unchecked Sendable {
    func testValuesTravelAsJSON() async throws {
        let node = try Node()
        let client = try await connect(node)
        let lines = client.room("chat.1").typed(Line.self)
        try await lines.publish("line", Line(text: "hé")) { $0.lane = .urgent }
        try await lines.room.publish("line", "not JSON", lane: .urgent)
        let items = try await first(2, of: lines.events(from: .beginning))
        guard case .event(let line) = items[0], case .event(let other) = items[1] else { return XCTFail("two events") }
        XCTAssertEqual(try line.value.get(), Line(text: "hé"))
        XCTAssertEqual(line.event.contentType, "application/json")
        XCTAssertThrowsError(try other.value.get())
        XCTAssertEqual(other.event.text, "not JSON")
    }

    func testValuesTravelAsProtobuf() async throws {
        let node = try Node()
        let client = try await connect(node)
        let codec = Protobuf<ProtoLine>(
            encode: { try $0.serializedData() }, decode: { try ProtoLine(serializedBytes: $0) })
        let lines = client.room("chat.1").typed(codec)
        try await lines.send("line", ProtoLine(number: 7)).stored()
        let items = try await first(1, of: lines.read(try await lines.room.subscribe(from: .beginning)))
        guard case .event(let line) = items[0] else { return XCTFail("an event") }
        XCTAssertEqual(try line.value.get(), ProtoLine(number: 7))
        XCTAssertEqual(line.event.contentType, "application/protobuf")
    }
}
