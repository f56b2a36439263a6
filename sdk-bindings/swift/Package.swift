// swift-tools-version: 5.9
import PackageDescription

// The Rust core: on Apple's systems an xcframework of static libraries, elsewhere a shared library that pkg-config finds.
#if os(macOS)
let core = Target.binaryTarget(name: "LanecastCore", path: "LanecastCore.xcframework")
#else
let core = Target.systemLibrary(name: "LanecastCore", path: "Sources/LanecastCore", pkgConfig: "lanecast-ffi")
#endif

// What the core asks about certificates and networks.
let apple: BuildSettingCondition = .when(platforms: [.iOS, .macOS, .tvOS, .watchOS, .visionOS])
let frameworks = ["Security", "SystemConfiguration"].map { LinkerSetting.linkedFramework($0, apple) }

let package = Package(
    name: "Lanecast",
    platforms: [.iOS(.v16), .macOS(.v13), .tvOS(.v16), .watchOS(.v9), .visionOS(.v1)],
    products: [.library(name: "Lanecast", targets: ["Lanecast"])],
    targets: [
        core,
        // Generated, and no product: nothing of it shows in the interface of Lanecast.
        .target(name: "LanecastFFI", dependencies: ["LanecastCore"], linkerSettings: frameworks),
        .target(name: "Lanecast", dependencies: ["LanecastFFI"]),
        .testTarget(name: "LanecastTests", dependencies: ["Lanecast", "LanecastFFI"]),
    ]
)
