//! What has changed about the fleet, in the words that operators know it by?
use scheduler::{BreakerPhase, HealthChange, NodeHealth, NodeState};

/// Names of models that one change lists; the others are only counted.
const NAMED: usize = 20;

/// What kind of change it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// A node can be used.
    NodeUp,
    /// A node is used, but failed once.
    NodeSuspect,
    /// A node is out.
    NodeDown,
    /// A node is to finish what runs.
    NodeDraining,
    /// A node takes requests again.
    NodeUndrained,
    /// A node is new.
    NodeJoined,
    /// A node was taken out.
    NodeLeft,
    /// The breaker of a node opened while it drains.
    BreakerOpen,
    /// A node is on trial.
    BreakerHalfOpen,
    /// The trial of a node that drains went well.
    BreakerClosed,
    /// Models are new on a node's disk.
    ModelsNew,
    /// Models are gone from a node's disk.
    ModelsGone,
    /// The configuration was read again.
    Reloaded,
    /// The configuration cannot be used as it is now, and the one before stays in force.
    ReloadFailed,
}

impl ChangeKind {
    /// The word for programs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NodeUp => "node_up",
            Self::NodeSuspect => "node_suspect",
            Self::NodeDown => "node_down",
            Self::NodeDraining => "node_draining",
            Self::NodeUndrained => "node_undrained",
            Self::NodeJoined => "node_joined",
            Self::NodeLeft => "node_left",
            Self::BreakerOpen => "breaker_open",
            Self::BreakerHalfOpen => "breaker_half_open",
            Self::BreakerClosed => "breaker_closed",
            Self::ModelsNew => "models_new",
            Self::ModelsGone => "models_gone",
            Self::Reloaded => "reloaded",
            Self::ReloadFailed => "reload_failed",
        }
    }

    /// For the log.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::NodeUp => "node is up",
            Self::NodeSuspect => "node has failed once",
            Self::NodeDown => "node is down",
            Self::NodeDraining => "node is draining: it finishes what runs",
            Self::NodeUndrained => "node takes requests again",
            Self::NodeJoined => "node joined",
            Self::NodeLeft => "node left",
            Self::BreakerOpen => "node is out while it drains",
            Self::BreakerHalfOpen => "node is on trial after a failure",
            Self::BreakerClosed => "node is well again while it drains",
            Self::ModelsNew => "the node has new models",
            Self::ModelsGone => "the node no longer has these models",
            Self::Reloaded => "the configuration was read again",
            Self::ReloadFailed => "the configuration was not reloaded",
        }
    }

    /// Whether somebody should look at it.
    pub(crate) fn is_warning(self) -> bool {
        use ChangeKind::{BreakerHalfOpen, BreakerOpen, NodeDown, NodeSuspect, ReloadFailed};
        matches!(self, NodeSuspect | NodeDown | BreakerOpen | BreakerHalfOpen | ReloadFailed)
    }
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetChange {
    /// What.
    pub kind: ChangeKind,
    /// Where; `None` for what concerns no node.
    pub node: Option<String>,
    /// Unix time in milliseconds since which it is so.
    pub since_ms: i64,
    /// What the node's state was before and is now, where that is what changed.
    pub states: Option<(NodeState, NodeState)>,
    /// In words.
    pub why: Option<String>,
    /// Unix time in milliseconds at which it ends by itself.
    pub until_ms: Option<i64>,
    /// The first models that it is about.
    pub models: Vec<String>,
    /// How many more models there are.
    pub more_models: usize,
}

impl FleetChange {
    /// One that has nothing more to say.
    pub(crate) fn new(kind: ChangeKind, node: Option<&str>, since_ms: i64) -> Self {
        Self {
            kind,
            node: node.map(str::to_owned),
            since_ms,
            states: None,
            why: None,
            until_ms: None,
            models: Vec::new(),
            more_models: 0,
        }
    }

    /// A change of a node's health.
    pub(crate) fn of_health(change: HealthChange, node: &str, since_ms: i64) -> Self {
        let HealthChange { before, after, why, .. } = change;
        let states = Some((before.state, after.state));
        Self { states, why, ..Self::new(kind_of(before, after), Some(node), since_ms) }
    }

    /// Models that came to a node's disk, or went; `None` where there are none.
    pub(crate) fn of_models(kind: ChangeKind, node: &str, models: Vec<&str>, since_ms: i64) -> Option<Self> {
        if models.is_empty() {
            return None;
        }
        let (named, more_models) = (models.iter().take(NAMED), models.len().saturating_sub(NAMED));
        let models = named.map(|model| (*model).to_owned()).collect();
        Some(Self { models, more_models, ..Self::new(kind, Some(node), since_ms) })
    }
}

/// The one word for a change of a node's health: an operator's wish before the node's own doing.
fn kind_of(before: NodeHealth, after: NodeHealth) -> ChangeKind {
    if before.is_draining != after.is_draining {
        return if after.is_draining { ChangeKind::NodeDraining } else { ChangeKind::NodeUndrained };
    }
    match (after.state, after.breaker) {
        (NodeState::Up, _) => ChangeKind::NodeUp,
        (NodeState::Down, _) if after.is_draining => ChangeKind::BreakerOpen,
        (NodeState::Down, _) => ChangeKind::NodeDown,
        (_, BreakerPhase::HalfOpen) => ChangeKind::BreakerHalfOpen,
        (NodeState::Draining, _) => ChangeKind::BreakerClosed,
        (NodeState::Suspect, _) => ChangeKind::NodeSuspect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(state: NodeState, breaker: BreakerPhase, is_draining: bool) -> NodeHealth {
        NodeHealth { state, breaker, is_draining }
    }

    #[test]
    fn every_change_of_health_has_one_word() {
        use BreakerPhase::{Closed, HalfOpen, Open, Unseen};
        use NodeState::{Down, Draining, Suspect, Up};
        let cases = [
            ((Down, Unseen, false), (Up, Closed, false), "node_up"),
            ((Up, Closed, false), (Suspect, Closed, false), "node_suspect"),
            ((Suspect, Closed, false), (Down, Open, false), "node_down"),
            ((Down, Open, false), (Suspect, HalfOpen, false), "breaker_half_open"),
            ((Suspect, HalfOpen, false), (Up, Closed, false), "node_up"),
            ((Up, Closed, false), (Draining, Closed, true), "node_draining"),
            ((Draining, Closed, true), (Up, Closed, false), "node_undrained"),
            ((Down, Open, false), (Down, Open, true), "node_draining"),
            ((Draining, Closed, true), (Down, Open, true), "breaker_open"),
            ((Down, Open, true), (Draining, HalfOpen, true), "breaker_half_open"),
            ((Draining, HalfOpen, true), (Draining, Closed, true), "breaker_closed"),
        ];
        for ((a, b, c), (d, e, f), word) in cases {
            assert_eq!(kind_of(health(a, b, c), health(d, e, f)).label(), word, "{a:?} {b:?} to {d:?} {e:?}");
        }
    }

    #[test]
    fn a_flood_of_models_is_counted() {
        let names: Vec<String> = (0..25).map(|number| format!("m{number}")).collect();
        let models = names.iter().map(String::as_str).collect();
        let change = FleetChange::of_models(ChangeKind::ModelsNew, "a", models, 0).unwrap();
        assert_eq!((change.models.len(), change.more_models), (20, 5));
        assert_eq!(FleetChange::of_models(ChangeKind::ModelsNew, "a", Vec::new(), 0), None);
    }
}
