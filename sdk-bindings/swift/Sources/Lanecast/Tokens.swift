internal import LanecastFFI

/// Answers a client's requests for tokens, until the client is over. It does not keep the client alive.
func answer(_ requests: TokenRequests, with provider: @escaping TokenProvider) async {
    var number: UInt64 = 0
    var present: Task<Void, Never>?
    while let request = try? await waiting({ try await requests.next(after: number, cancellation: $0) }) {
        number = request.number()
        // The core waits no longer for the answer before, so whoever still works on that may stop.
        present?.cancel()
        present = Task { await answer(request, with: provider) }
    }
    present?.cancel()
}

/// Answers whatever the provider does, since the client waits for it.
private func answer(_ request: LanecastFFI.TokenRequest, with provider: TokenProvider) async {
    do {
        request.give(token: try await provider(TokenRequest(refused: request.refused())))
    } catch {
        request.fail(detail: String(describing: error))
    }
}
