//! Which parts of the node are halted?

use tokio::sync::watch;

/// The switches that halt parts of a node.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// The whole process is stopped: nothing is read, loaded, made or answered.
    pub(crate) frozen: Switch,
    /// Only generation and embedding are halted.
    pub(crate) silent: Switch,
    /// `/api/version`, `/api/tags` and `/api/ps` do not answer.
    pub(crate) probes_frozen: Switch,
}

/// A switch that can be waited for.
#[derive(Debug, Default)]
pub(crate) struct Switch(watch::Sender<bool>);

impl Switch {
    pub(crate) fn set(&self, on: bool) {
        self.0.send_replace(on);
    }

    /// Waits while it is on.
    pub(crate) async fn until_off(&self) {
        if *self.0.borrow() {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = self.0.subscribe().wait_for(|on| !on).await;
        }
    }
}

impl Pauses {
    /// Waits while no token can be made.
    pub(crate) async fn until_generating(&self) {
        self.frozen.until_off().await;
        self.silent.until_off().await;
    }
}
