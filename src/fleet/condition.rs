//! What has changed about a node since the last look? Each change is logged once.
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use scheduler::NodeState;

/// How many names one log line lists; further names are only counted.
const NAMED: usize = 5;

/// What a node was like at the last look.
#[derive(Debug, Default)]
pub(super) struct Condition {
    state: Cell<Option<NodeState>>,
    models: RefCell<Option<BTreeSet<String>>>,
}

impl Condition {
    /// Records the node's state; true if it has changed. `error` says why the node is not up.
    pub(super) fn is_new(&self, node: &str, state: NodeState, error: Option<&str>) -> bool {
        let before = self.state.replace(Some(state));
        if before == Some(state) {
            return false;
        }
        match (state, error) {
            (NodeState::Up, _) => tracing::info!(node, "node is up"),
            (NodeState::Draining, _) => tracing::info!(node, "node is draining: it finishes what runs"),
            // Nothing is known before the first answered probe.
            (NodeState::Down, None) => tracing::info!(node, "node is not known to be up yet"),
            (NodeState::Down, Some(why)) => tracing::warn!(node, why, "node is down"),
            (NodeState::Suspect, why) => tracing::warn!(node, why, "node is on trial after a failure"),
        }
        true
    }

    /// Records the names of the models on the node's disk.
    pub(super) fn hear_models<'a>(&self, node: &str, names: impl Iterator<Item = &'a str>) {
        let now: BTreeSet<String> = names.map(str::to_owned).collect();
        let mut known = self.models.borrow_mut();
        if let Some(before) = &*known {
            tell(node, now.difference(before), "the node has new models");
            tell(node, before.difference(&now), "the node no longer has these models");
        }
        *known = Some(now);
    }
}

fn tell<'a>(node: &str, names: impl Iterator<Item = &'a String>, message: &str) {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if let Some(models) = summary(&names) {
        tracing::info!(node, models, "{message}");
    }
}

/// The first names and the number of further ones; `None` if there are no names.
fn summary(names: &[&str]) -> Option<String> {
    let shown = names.get(..NAMED).unwrap_or(names).join(", ");
    match names.len() {
        0 => None,
        count if count > NAMED => Some(format!("{shown} and {} more", count - NAMED)),
        _ => Some(shown),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_change_of_state_is_logged_once_with_its_reason() {
        let condition = Condition::default();
        let lines = logged(|| {
            assert!(condition.is_new("a", NodeState::Up, None));
            assert!(!condition.is_new("a", NodeState::Up, None));
            for _ in 0..3 {
                condition.is_new("a", NodeState::Down, Some("refused"));
            }
            condition.is_new("a", NodeState::Up, None);
        });
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[1].contains("WARN") && lines[1].contains("refused") && lines[1].contains("node is down"));
    }

    #[test]
    fn models_that_come_and_go_are_named_and_a_flood_of_them_is_counted() {
        let condition = Condition::default();
        let many: Vec<String> = (0..40).map(|number| format!("m{number:02}")).collect();
        let lines = logged(|| {
            condition.hear_models("a", ["x", "y"].into_iter());
            condition.hear_models("a", ["y", "x"].into_iter());
            condition.hear_models("a", ["x", "z"].into_iter());
            condition.hear_models("a", many.iter().map(String::as_str).chain(["x", "z"]));
        });
        assert_eq!(lines.len(), 3, "the first list is no change: {lines:#?}");
        assert!(lines[0].contains("has new models") && lines[0].contains("models=\"z\""), "{lines:#?}");
        assert!(lines[1].contains("no longer has") && lines[1].contains("models=\"y\""), "{lines:#?}");
        assert!(lines[2].contains("m04 and 35 more") && !lines[2].contains("m05"), "{lines:#?}");
    }
}
