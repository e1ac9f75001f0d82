//! What is a group of users to the request path? A name, limits for all of them together with what is used of these, and a
//! share of a busy service.
use std::sync::{Arc, Mutex, PoisonError};

use super::allowed_models::AllowedModels;
use super::usage_id::usage_id;
use limits::{Balance, Ledger, Limits, Moment};

/// A group as the database has it.
#[derive(Clone, Debug)]
pub(super) struct GroupEntry {
    pub(super) name: Arc<str>,
    /// Which group of this name, from 1.
    pub(super) generation: u32,
    pub(super) created_at_ms: i64,
    pub(super) terms: GroupTerms,
}

/// Those of whom the last minute counts, by the id in usage.
pub(super) fn limited_by_minute(groups: &[GroupEntry]) -> Vec<Arc<str>> {
    groups.iter().filter(|group| group.terms.limits.is_by_minute()).map(GroupEntry::usage_id).collect()
}

/// What the users of a group may use together.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupTerms {
    /// Those that users have as well.
    pub limits: Limits,
    /// Prompt and completion tokens per UTC month; `None` = no limit.
    pub tokens_per_month: Option<u64>,
    /// The group's share beside other groups, and users without one: twice the weight, twice the work. Above 0; 1 is
    /// everybody's.
    pub weight: f64,
    /// `None` = every model.
    pub allowed_models: Option<AllowedModels>,
}

/// A group as the request path sees it. Shared by the accounts of its users and by every running request.
#[derive(Debug)]
pub struct UserGroup {
    name: Arc<str>,
    usage_id: Arc<str>,
    created_at_ms: i64,
    state: Mutex<GroupState>,
}

#[derive(Debug)]
struct GroupState {
    terms: GroupTerms,
    /// The limit of the month, where the month's ledger looks for it.
    of_month: Limits,
    ledger: Ledger,
    month: Ledger,
}

impl Default for GroupTerms {
    fn default() -> Self {
        Self { limits: Limits::default(), tokens_per_month: None, weight: 1.0, allowed_models: None }
    }
}

impl GroupTerms {
    fn of_month(&self) -> Limits {
        Limits { tokens_per_day: self.tokens_per_month, ..Limits::default() }
    }
}

impl GroupEntry {
    /// By which id usage knows the group: a name that is used again is another group's.
    pub(super) fn usage_id(&self) -> Arc<str> {
        if self.generation <= 1 { self.name.clone() } else { usage_id(&self.name, self.generation) }
    }
}

impl UserGroup {
    /// `month` counts by the month.
    pub(super) fn new(entry: &GroupEntry, ledger: Ledger, month: Ledger) -> Arc<Self> {
        let (terms, of_month) = (entry.terms.clone(), entry.terms.of_month());
        Arc::new(Self {
            name: entry.name.clone(),
            usage_id: entry.usage_id(),
            created_at_ms: entry.created_at_ms,
            state: Mutex::new(GroupState { terms, of_month, ledger, month }),
        })
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// By which id usage knows the group.
    pub fn usage_id(&self) -> &Arc<str> {
        &self.usage_id
    }

    /// When it was made, epoch milliseconds.
    pub fn created_at_ms(&self) -> i64 {
        self.created_at_ms
    }

    /// What is in force.
    pub fn terms(&self) -> GroupTerms {
        self.with(|state| state.terms.clone())
    }

    /// The group's share beside others.
    pub fn weight(&self) -> f64 {
        self.with(|state| state.terms.weight)
    }

    /// The models that may be asked for; `None` = all.
    pub(super) fn allowed_models(&self) -> Option<AllowedModels> {
        self.with(|state| state.terms.allowed_models.clone())
    }

    /// Takes effect with the next request; what was used stays used.
    pub(super) fn set_terms(&self, terms: &GroupTerms) {
        self.with(|state| (state.terms, state.of_month) = (terms.clone(), terms.of_month()));
    }

    /// Its limits but that of the month, and what is used of them.
    pub(super) fn with_ledger<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        self.with_ledgers(|(limits, ledger), _| act(limits, ledger))
    }

    /// The limit of the month, as the tokens of a day, and what is used of it.
    pub(super) fn with_month<T>(&self, act: impl FnOnce(&Limits, &mut Ledger) -> T) -> T {
        self.with_ledgers(|_, (limits, ledger)| act(limits, ledger))
    }

    /// What is used and left, of the limits and of the month's.
    pub fn balances(&self, now: Moment) -> [Balance; 2] {
        self.with_ledgers(|(limits, ledger), (of_month, month)| {
            [ledger.balance(*limits, now), month.balance(*of_month, now)]
        })
    }

    /// Both.
    pub(super) fn with_ledgers<T>(&self, act: impl FnOnce((&Limits, &mut Ledger), (&Limits, &mut Ledger)) -> T) -> T {
        self.with(|GroupState { terms, of_month, ledger, month }| act((&terms.limits, ledger), (of_month, month)))
    }

    /// Tokens of a day have reached the database.
    pub(super) fn sent(&self, tokens: u64, day: i32) {
        self.with_ledgers(|(_, ledger), (_, month)| {
            ledger.sent(tokens, day);
            month.sent(tokens, day);
        });
    }

    /// The clock is about to be set to another day, with what is used of it and of its month.
    pub(super) fn prepare_day(&self, moment: Moment, of_day: u64, of_month: u64) {
        self.with_ledgers(|(_, ledger), (_, month)| {
            ledger.prepare_day(moment.day(), of_day);
            month.prepare_day(moment.day(), of_month);
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut GroupState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
