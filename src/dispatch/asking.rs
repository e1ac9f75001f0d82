//! What is on its way from whoever looks to the gateway that schedules for all?
use tokio::sync::oneshot;

use cluster::Candidate;

/// A question; if nobody can be asked, the sender of its answer is dropped.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) leader: Candidate,
    pub(crate) question: String,
    pub(crate) answer: oneshot::Sender<String>,
}
