//! Why can a stream not be continued?

/// What ended a stream before its terminal frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// It sent something that no node should send.
    #[error("the node sent something that is not part of an answer: {0}")]
    Garbled(String),
    /// The node reported a failure.
    #[error("the node reported an error in the stream: {0}")]
    Node(String),
}
