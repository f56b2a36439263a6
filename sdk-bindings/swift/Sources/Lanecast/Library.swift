internal import LanecastFFI

/// The Rust library behind this package.
enum Library {
    /// Version of this package, which the library must have too.
    static let version = "0.1.0"

    /// Whether the library is the one for this package, asked before anything else of it is used.
    static func check() throws {
        if let problem { throw LanecastError(.libraryVersion, problem) }
    }

    private static let problem: String? = {
        // The functions first: only one that has them can be asked for its version.
        if let problem = libraryProblem() { return "the library is not that of version \(version): \(problem)" }
        let found = libraryVersion()
        return found == version ? nil : "the library is version \(found), and the package \(version)"
    }()
}
