// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "chat",
    platforms: [.macOS(.v13)],
    // Made by ../package; an application names the place where it gets the package from.
    dependencies: [.package(path: "../../../.cache/swift/Lanecast")],
    targets: [.executableTarget(name: "chat", dependencies: ["Lanecast"])]
)
