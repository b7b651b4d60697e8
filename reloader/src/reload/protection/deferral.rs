//! Names a listener's deferral as the cause of handshakes that were not done.

/// What is said of undone handshakes whose listener waits for the client's first data.
pub(super) fn deferral_as_cause(deferring: bool) -> &'static str {
    if !deferring {
        return "";
    }
    "; the listener has TCP_DEFER_ACCEPT (`defer-accept`), so that a handshake waits for the client's first data: without it the \
     listener could be proven"
}
