//! Why is a stream of no use any more?

/// What ended a stream before its terminal frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// Not what a node sends.
    #[error("the node sent something that is not part of an answer: {0}")]
    Garbled(String),
    /// The node says that it failed.
    #[error("the node reported an error in the stream: {0}")]
    Node(String),
}
