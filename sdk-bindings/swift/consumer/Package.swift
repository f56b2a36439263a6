// swift-tools-version: 5.9
import PackageDescription

// Programs that use the staged package as an application would.
let package = Package(
    name: "consumer",
    platforms: [.macOS(.v13)],
    dependencies: [.package(path: "../../../.cache/swift/Lanecast")],
    targets: [
        // Publishes and reads one event.
        .executableTarget(name: "consumer", dependencies: ["Lanecast"]),
        // The driver for the conformance suite.
        .executableTarget(name: "driver", dependencies: ["Lanecast"]),
        // How fast a room is read.
        .executableTarget(name: "bench", dependencies: ["Lanecast"]),
    ]
)
