//! What has changed lately? Each change is logged once, kept for a while for whoever comes to look, and made known to those
//! who watch.
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use limits::Moment;
use tokio::sync::Notify;

use super::change::{ChangeKind, FleetChange};
use crate::clock::rfc3339;

/// Changes that are kept.
const KEPT: usize = 256;
/// Characters of mistakes that are kept with a change; a document may have any number of them.
const LONGEST_WHY: usize = 4_000;

/// A change as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldChange {
    /// Counts from 1, without gaps.
    pub id: u64,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    /// What changed.
    pub change: FleetChange,
    /// How many changes of the same kind it stands for, itself included.
    pub count: u64,
}

/// The last changes, shared by all who tell and all who watch.
#[derive(Debug, Default)]
pub struct ChangeLog {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    kept: VecDeque<ToldChange>,
    changes: Floods<(Option<String>, ChangeKind), FleetChange>,
    /// Errors, by node and message.
    troubles: Floods<(String, &'static str), Trouble>,
}

/// Something that went wrong with a node, and may again.
#[derive(Debug)]
struct Trouble {
    node: String,
    message: &'static str,
    error: String,
}

impl ChangeLog {
    /// Tells of a change, or folds it into others of its kind.
    pub(crate) fn tell(&self, change: FleetChange, now: Moment) {
        let kind = (change.node.clone(), change.kind);
        let told = {
            let mut inner = self.lock();
            let change = inner.changes.admit(kind, change, now.uptime);
            change.map(|change| inner.keep(change, 1, now))
        };
        if let Some(told) = told {
            // Outside the lock: writing the log must not hold up whoever watches.
            log(&told);
            self.news.notify_waiters();
        }
    }

    /// The configuration was read again: what changed is in force, or takes a restart.
    pub(crate) fn tell_reloaded(&self, applied: &[String], needs_restart: &[String], now: Moment) {
        let listed = |what: &str, settings: &[String]| {
            (!settings.is_empty()).then(|| format!("{what}: {}", settings.join(", ")))
        };
        let parts = [listed("in force", applied), listed("takes a restart", needs_restart)];
        let why = parts.into_iter().flatten().reduce(|all, part| format!("{all}; {part}"));
        let why = why.unwrap_or_else(|| "nothing is different".to_owned());
        self.tell(FleetChange { why: Some(why), ..FleetChange::new(ChangeKind::Reloaded, None, now.unix_ms) }, now);
    }

    /// The configuration was read again and has mistakes.
    pub(crate) fn tell_reload_failed(&self, mistakes: &str, now: Moment) {
        let (why, kind) = (Some(mistakes.chars().take(LONGEST_WHY).collect()), ChangeKind::ReloadFailed);
        self.tell(FleetChange { why, ..FleetChange::new(kind, None, now.unix_ms) }, now);
    }

    /// Warns of something that may well happen again, and is no change. At most a few are logged in a minute.
    pub(crate) fn warn(&self, node: &str, message: &'static str, error: String, now: Duration) {
        let trouble = Trouble { node: node.to_owned(), message, error };
        let trouble = self.lock().troubles.admit((node.to_owned(), message), trouble, now);
        if let Some(Trouble { node, message, error }) = trouble {
            tracing::warn!(node, error, "{message}");
        }
    }

    /// Tells of what was folded once its minute is over; when to do so again.
    pub(crate) fn tell_folded(&self, now: Moment) -> Option<Duration> {
        let (told, troubles, next) = {
            let mut inner = self.lock();
            let mut folded = inner.changes.due(now.uptime);
            // The last word on a node is the last one told.
            folded.sort_by_key(|folded| folded.last.since_ms);
            let told: Vec<ToldChange> =
                folded.into_iter().map(|Folded { last, count }| inner.keep(last, count, now)).collect();
            let troubles = inner.troubles.due(now.uptime);
            let next = inner.changes.next_due().into_iter().chain(inner.troubles.next_due()).min();
            (told, troubles, next)
        };
        told.iter().for_each(log);
        for Folded { last: Trouble { node, message, error }, count } in troubles {
            tracing::warn!(node, error, count, "{message}");
        }
        if !told.is_empty() {
            self.news.notify_waiters();
        }
        next
    }

    /// The changes after this one that are still kept, in order.
    pub fn after(&self, id: u64) -> Vec<ToldChange> {
        self.lock().kept.iter().filter(|told| told.id > id).cloned().collect()
    }

    /// The last change; 0 before the first.
    pub fn last_id(&self) -> u64 {
        self.lock().last_id
    }

    /// Waits for changes after this one.
    pub async fn changed(&self, id: u64) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // Whatever is told from here on wakes it.
            news.as_mut().enable();
            if self.last_id() > id {
                return;
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, change: FleetChange, count: u64, now: Moment) -> ToldChange {
        self.last_id += 1;
        let told = ToldChange { id: self.last_id, at_ms: now.unix_ms, change, count };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(told.clone());
        told
    }
}

fn log(told: &ToldChange) {
    let FleetChange { kind, node, since_ms, why, until_ms, models, more_models, .. } = &told.change;
    let (since, until) = (rfc3339(*since_ms), until_ms.map(rfc3339));
    let (node, why, message) = (node.as_deref(), why.as_deref(), kind.message());
    let models = (!models.is_empty()).then(|| models.join(", "));
    let more = (*more_models > 0).then_some(*more_models);
    let count = (told.count > 1).then_some(told.count);
    if kind.is_warning() {
        tracing::warn!(node, why, since, count, "{message}");
    } else {
        tracing::info!(node, why, since, until, models, more, count, "{message}");
    }
}

/// How long a minute is.
const WINDOW: Duration = Duration::from_secs(60);
/// Of one kind within that time.
const TOLD: u32 = 5;
/// Kinds that are remembered. What comes beyond those is told, as there is nothing to count it by.
const KINDS: usize = 4_096;

/// What was told within the last minute, by kind.
#[derive(Debug)]
pub(crate) struct Floods<K, V> {
    kinds: BTreeMap<K, Kind<V>>,
}

#[derive(Debug)]
struct Kind<V> {
    since: Duration,
    told: u32,
    folded: u64,
    last: Option<V>,
}

/// What stands for many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Folded<V> {
    /// The last of them.
    pub(crate) last: V,
    /// How many there were, the last one included.
    pub(crate) count: u64,
}

impl<K, V> Default for Floods<K, V> {
    fn default() -> Self {
        Self { kinds: BTreeMap::new() }
    }
}

impl<K: Ord, V> Floods<K, V> {
    /// Gives `value` back if it is to be told now.
    pub(crate) fn admit(&mut self, kind: K, value: V, now: Duration) -> Option<V> {
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            return Some(value);
        }
        let known = self.kinds.entry(kind).or_insert(Kind { since: now, told: 0, folded: 0, last: None });
        if known.told < TOLD {
            known.told += 1;
            return Some(value);
        }
        known.folded += 1;
        known.last = Some(value);
        None
    }

    /// Forgets the kinds whose minute is over, and tells of those that something was folded of.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Folded<V>> {
        let over = self.kinds.extract_if(.., |_, kind| now >= kind.since + WINDOW);
        over.filter_map(|(_, kind)| Some(Folded { last: kind.last?, count: kind.folded })).collect()
    }

    /// When [`Self::due`] has something to tell.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.kinds.values().filter(|kind| kind.folded > 0).map(|kind| kind.since + WINDOW).min()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::io::Write;
    use std::sync::Arc;

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

    fn at(seconds: u64) -> Moment {
        Moment { uptime: Duration::from_secs(seconds), unix_ms: i64::try_from(seconds).unwrap() * 1000 }
    }

    fn change(kind: ChangeKind, seconds: i64) -> FleetChange {
        FleetChange { why: Some("refused".to_owned()), ..FleetChange::new(kind, Some("a"), seconds * 1000) }
    }

    #[test]
    fn a_change_is_one_line_with_its_reason_and_since_when() {
        let log = ChangeLog::default();
        let lines = logged(|| log.tell(change(ChangeKind::NodeDown, 7), at(8)));
        let [line] = lines.as_slice() else { panic!("{lines:#?}") };
        for part in ["WARN", "node is down", "node=\"a\"", "why=\"refused\"", "since=\"1970-01-01T00:00:07Z\""] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("count"), "{line}");
    }

    #[test]
    fn a_node_that_goes_up_and_down_all_the_time_ends_with_its_last_state_and_a_count() {
        let log = ChangeLog::default();
        let lines = logged(|| {
            for second in 0..40 {
                let kind = if second % 2 == 0 { ChangeKind::NodeDown } else { ChangeKind::NodeUp };
                log.tell(change(kind, second), at(u64::try_from(second).unwrap()));
            }
            assert_eq!(log.tell_folded(at(41)), Some(Duration::from_secs(60)));
            assert_eq!(log.tell_folded(at(61)), None);
        });
        assert_eq!(lines.len(), 12, "{lines:#?}");
        let told = log.after(10);
        let seen: Vec<_> = told.iter().map(|told| (told.id, told.change.kind.label(), told.count)).collect();
        assert_eq!(seen, [(11, "node_down", 15), (12, "node_up", 15)]);
        assert!(lines[11].contains("node is up") && lines[11].contains("count=15"), "{}", lines[11]);
    }

    #[test]
    fn warnings_that_are_no_change_are_folded_too() {
        let log = ChangeLog::default();
        let lines = logged(|| {
            for second in 0..30 {
                log.warn("a", "the models could not be listed", format!("try {second}"), Duration::from_secs(second));
            }
            log.tell_folded(at(60));
        });
        assert_eq!(lines.len(), 6, "{lines:#?}");
        assert!(lines[5].contains("the models could not be listed") && lines[5].contains("try 29"), "{}", lines[5]);
        assert!(lines[5].contains("node=\"a\"") && lines[5].contains("count=25"), "{}", lines[5]);
        assert_eq!(log.last_id(), 0);
    }

    #[test]
    fn of_more_changes_than_are_kept_the_oldest_are_gone() {
        let log = ChangeLog::default();
        for number in 0..=KEPT {
            let node = format!("n{number}");
            log.tell(FleetChange::new(ChangeKind::NodeJoined, Some(&node), 0), at(0));
        }
        let kept = log.after(0);
        assert_eq!((kept.len(), kept[0].id, log.last_id()), (KEPT, 2, KEPT as u64 + 1));
    }

    fn up_for(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn of_a_flood_five_are_told_and_then_the_last_with_the_number_of_the_rest() {
        let mut floods = Floods::default();
        let told: Vec<u64> = (0..40).filter_map(|second| floods.admit("down", second, up_for(second))).collect();
        assert_eq!(told, [0, 1, 2, 3, 4]);
        assert_eq!(floods.admit("up", 40, up_for(40)), Some(40), "another kind is no part of it");
        assert_eq!((floods.due(up_for(59)), floods.next_due()), (vec![], Some(up_for(60))));
        assert_eq!(floods.due(up_for(60)), [Folded { last: 39, count: 35 }]);
        assert_eq!((floods.admit("down", 61, up_for(61)), floods.next_due()), (Some(61), None));
    }

    #[test]
    fn what_was_told_in_full_is_forgotten_without_a_word() {
        let mut floods = Floods::default();
        floods.admit("up", 0, up_for(0));
        assert_eq!(floods.due(up_for(60)), []);
        assert!(floods.kinds.is_empty());
    }

    #[test]
    fn kinds_beyond_those_that_are_remembered_are_told() {
        let mut floods = Floods::default();
        for kind in 0..KINDS {
            floods.admit(kind, (), up_for(0));
        }
        for _ in 0..10 {
            assert!(floods.admit(KINDS, (), up_for(1)).is_some());
        }
        assert_eq!(floods.kinds.len(), KINDS);
    }
}
