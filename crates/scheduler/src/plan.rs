//! Which of the requests that wait for a model goes where? Planned anew for every model that an event touches. Only
//! what is carried out at once is binding; the rest of the plan is dropped.
//!
//! 1. *Forecast.* Each slot of the model is free now, or once the request in it is expected to end; the slots of a load
//!    in progress are free once the model is loaded.
//! 2. *Order.* First the requests that may go first because they have waited long; then the users by least service,
//!    each pick charged as if it were dispatched. The plan looks at twice as many requests as there are nodes, at least
//!    [`LEAST_LOOK`] and at most [`MOST_LOOK`], and stops earlier when nothing more can be done.
//! 3. *Place* each request in that order where the sum of these is smallest: `wait for a slot + load + regret + reading
//!    the prompt + writing the answer`, over the nodes that have the model and those that could load it. For a load,
//!    `wait` is for the victims to drain, and `regret` is what others lose by it.
//!    * A slot that is free now: **dispatch**.
//!    * A slot that will be free: it counts as taken for the requests behind, and binds nobody.
//!    * A load: begin it. Its slots count at once. Not loading is charged the wait of the users beyond the look-ahead.
//!      Where there is room is found out before the first request is looked at; if nowhere, none is weighed.
//! 4. *Absorb.* If a slot is still free, every request looked at would rather wait for a faster node. But the slots in
//!    use can only serve so many requests before one would have ended in the free slot. If more than that wait, the
//!    first of the others takes the free slot now.
//! 5. *Guards*: a node loads one model at a time; a model is loaded on at most as many nodes at a time as already have
//!    it, or on one of every 32 if that is more, but on one in any case; an event begins at most [`MOST_LOADS`]
//!    loads; a model stays in memory for 30 s or two load times, unless the request that evicts it has waited for 30 s,
//!    or nobody uses or wants it.

use crate::{
    decision::Decision,
    explain::{Backlog, Best, Weighed},
    forecast::Forecast,
    hosts::{HostOutlook, Hosts, Look},
    ids::{NodeId, RequestId, Time},
    model::ModelId,
    older_first::put_older_first,
    queue::Line,
    room::LoadChoices,
    scheduler::Scheduler,
};

/// Requests that a plan looks at in a small fleet, and in the largest fleet.
const LEAST_LOOK: usize = 32;
const MOST_LOOK: usize = 128;
/// How many requests a plan lines up once the first ones have left the queue, and how many times more whenever a line was
/// not long enough.
const FIRST_STRETCH: usize = 8;
const STRETCHED: usize = 2;
/// Requests that may go first for having waited long, in one plan.
const MOST_FIRST: usize = 4;
/// One load of a model for so many nodes may be under way, however few have it: doubling alone takes six load times to
/// bring a model that is suddenly in demand to 64 nodes.
const NODES_PER_LOAD: usize = 32;
/// Loads that one event may begin.
const MOST_LOADS: usize = 4;
/// A new request is given an expected time of its first token only if at most this many wait for its model.
const MOST_FORETOLD: usize = 32;
/// Looking for loads over more pairs of request and node than this puts off the next look by `SECONDS_PER_PAIR` for
/// each further pair, but by no more than `LONGEST_PAUSE`, which is short beside a load. That bounds the work in a large
/// fleet; a small one stays below it.
const FREE_PAIRS: usize = 1000;
const SECONDS_PER_PAIR: f64 = 5e-4;
const LONGEST_PAUSE: f64 = 3.0;

/// What a plan knows of its model.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) forecast: Forecast,
    line: Line,
    /// The alternatives for the request that is placed.
    pub(crate) best: Best,
    /// Where an ordinary request, and where an impatient one, could have the model loaded; `None` until it was looked
    /// up.
    pub(crate) options: [Option<LoadChoices>; 2],
    /// Requests that waited for the model before anything was placed.
    pub(crate) waiting: usize,
    /// Requests looked at so far that still wait.
    pub(crate) ahead: usize,
    /// Users beyond the look-ahead.
    pub(crate) users_behind: usize,
    pub(crate) may_load: bool,
    /// The request that has just arrived, if it still needs an expected time of its first token.
    pub(crate) foretold: Option<RequestId>,
}

impl Plan {
    /// How the queue influences what is decided next.
    pub(crate) fn backlog(&self, absorbed: Option<usize>, behind_seconds: f64) -> Backlog {
        let Self { waiting, ahead, users_behind, .. } = *self;
        Backlog { waiting, ahead, absorbed, users_behind, behind_seconds }
    }
}

/// The alternatives, and the queue's influence if anything else waited.
pub(crate) fn weighed(best: &Best, backlog: Backlog) -> Weighed<'_> {
    Weighed { alternatives: best.as_slice(), backlog: Some(backlog).filter(|backlog| backlog.waiting > 1) }
}

impl Scheduler {
    /// Places the requests that wait for the models in `stirred`, the most entitled request first.
    pub(crate) fn plan(&mut self, now: Time, decisions: &mut Vec<Decision>) {
        // Lent by the scheduler and given back, so that no plan allocates them anew.
        let (forecast, line) = (std::mem::take(&mut self.forecast), std::mem::take(&mut self.line));
        let mut plan = Plan { forecast, line, best: std::mem::take(&mut self.best), ..Plan::default() };
        let mut models = std::mem::take(&mut self.planned);
        models.extend(self.stirred.iter().filter(|model| self.queue.waiting_for(**model) > 0));
        self.stirred.clear();
        // Models compete for memory and for loads, so the one whose first request is most entitled is planned first.
        if models.len() > 1 {
            models.sort_by(|a, b| {
                let (a, b) = (self.queue.claim(*a, now), self.queue.claim(*b, now));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
            });
        }
        if self.fleet.has_synonyms() {
            self.put_older_first(&mut models, now);
        }
        for model in models.drain(..) {
            self.plan_model(&mut plan, model, now, decisions);
        }
        (self.forecast, self.line, self.best, self.planned) = (plan.forecast, plan.line, plan.best, models);
    }

    /// Of the models that are equally entitled, names of the same weights compete for the same slots: the oldest request
    /// goes first, as it would if all asked for one name.
    fn put_older_first(&self, models: &mut [ModelId], now: Time) {
        let age = |model: ModelId| {
            let first = self.queue.for_model(model).next()?;
            Some(self.requests.get(&first)?.position())
        };
        // They are sorted by their claims.
        let is_tie = |one: &ModelId, two: &ModelId| self.queue.claim(*one, now) == self.queue.claim(*two, now);
        for ties in models.chunk_by_mut(is_tie).filter(|ties| ties.len() > 1) {
            let main = |node: NodeId, model| self.fleet[node].main(model);
            put_older_first(ties, self.fleet.with_synonyms(), main, age);
        }
    }

    fn plan_model(&mut self, plan: &mut Plan, model: ModelId, now: Time, decisions: &mut Vec<Decision>) {
        self.settle(now);
        plan.waiting = self.queue.waiting_for(model);
        if plan.waiting == 0 {
            return;
        }
        plan.options = [None, None];
        plan.may_load = self.may_load(model, now) && self.has_room(plan, model, now);
        plan.foretold = self.foretold(plan, model);
        let can_start = !self.fleet.of(model).vacant.is_empty();
        if !(can_start || plan.may_load || plan.foretold.is_some()) {
            return;
        }
        self.plans += 1;
        let look = if plan.waiting == 1 { Look::Brief } else { Look::Thorough };
        self.begin_forecast(&mut plan.forecast, model, look, now);
        plan.ahead = 0;
        plan.users_behind = self.users_behind(model);
        let looked = self.look(plan, model, self.most_looked_at(), now, decisions);
        if plan.may_load {
            let options = plan.options.iter().flatten().map(LoadChoices::len).sum::<usize>();
            // Costly looks for loads are made less often, so that their time stays a small share.
            let pairs = looked * (plan.forecast.places.len() + options);
            let pause = (pairs.saturating_sub(FREE_PAIRS) as f64 * SECONDS_PER_PAIR).min(LONGEST_PAUSE);
            self.set_next_look(model, now.as_secs_f64() + pause);
        }
        while self.absorb(plan, model, now, decisions) {}
    }

    pub(crate) fn most_looked_at(&self) -> usize {
        (2 * self.fleet.len()).clamp(LEAST_LOOK, MOST_LOOK)
    }

    /// Users who wait for a model beyond the look-ahead.
    pub(crate) fn users_behind(&self, model: ModelId) -> usize {
        self.queue.users_for(model).saturating_sub(self.most_looked_at())
    }

    fn foretold(&self, plan: &Plan, model: ModelId) -> Option<RequestId> {
        let newcomer = self.newcomer.filter(|_| plan.waiting <= MOST_FORETOLD);
        newcomer.filter(|id| self.requests.get(id).is_some_and(|request| request.model == model))
    }

    /// Whether one more load of the model may begin.
    pub(crate) fn may_load(&self, model: ModelId, now: Time) -> bool {
        let whereabouts = self.fleet.of(model);
        let (coming, there) = (whereabouts.loading.len(), whereabouts.hosts.len());
        let is_due = self.next_looks.get(model.0).is_none_or(|at| *at <= now.as_secs_f64());
        let is_within = self.loads_begun < MOST_LOADS && coming < there.max(self.fleet.len() / NODES_PER_LOAD).max(1);
        is_within && whereabouts.shelves.len() > coming + there && is_due
    }

    /// Whether the model could be loaded anywhere for a request that a plan looks at. If not, there is no use in looking at
    /// those that find no free slot.
    fn has_room(&mut self, plan: &mut Plan, model: ModelId, now: Time) -> bool {
        let has_room = |it: &mut Self, plan: &mut Plan, is_impatient: bool| {
            let options = it.load_options(model, is_impatient, now);
            plan.options[usize::from(is_impatient)].insert(options).len() > 0
        };
        has_room(self, plan, false) || (self.has_impatient(&mut plan.line, model, now) && has_room(self, plan, true))
    }

    /// Whether one of the requests that a plan looks at has waited so long for a load that it may evict a model that was
    /// loaded only recently. They are lined up in `line`.
    pub(crate) fn has_impatient(&self, line: &mut Line, model: ModelId, now: Time) -> bool {
        self.queue.renew_line(line, model, now, MOST_FIRST, self.most_looked_at());
        let is_impatient = |id| self.requests.get(id).is_some_and(|request| request.is_impatient(now));
        line.requests.iter().any(|next| is_impatient(&next.id))
    }

    fn set_next_look(&mut self, model: ModelId, at: f64) {
        if self.next_looks.len() <= model.0 {
            self.next_looks.resize(model.0 + 1, 0.0);
        }
        self.next_looks[model.0] = at;
    }

    // 1.

    fn begin_forecast(&mut self, forecast: &mut Forecast, model: ModelId, look: Look, now: Time) {
        if self.hosts.len() <= model.0 {
            self.hosts.resize_with(model.0 + 1, Hosts::default);
        }
        let (hosts, memory) = (&mut self.hosts[model.0], self.memories.get(model.0));
        hosts.refresh(&self.fleet, model, memory, self.guess, look);
        if cfg!(debug_assertions) {
            hosts.check(&self.fleet, model, memory);
        }
        forecast.begin(hosts, now);
        for node in &self.fleet.of(model).loading {
            self.add_load(forecast, *node, model, now);
        }
    }

    /// Adds the slots of a load in progress, and returns the seconds until they can be used.
    pub(crate) fn add_load(&self, forecast: &mut Forecast, id: NodeId, model: ModelId, now: Time) -> f64 {
        let (node, ready) = (&self.fleet[id], self.ready_in(id, now));
        if let Some(instance) = node.instance(model) {
            forecast.add_load(&HostOutlook::of(node, id, instance, self.guess), ready, now);
        }
        ready
    }

    // 2.

    /// Places waiting requests until nothing more can be done, and returns how many it looked at.
    fn look(
        &mut self,
        plan: &mut Plan,
        model: ModelId,
        most: usize,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) -> usize {
        let mut line = std::mem::take(&mut plan.line);
        // Usually there is one free slot, and the first request takes it.
        let first = if plan.may_load { most } else { (1 + self.fleet.of(model).vacant.len()).min(most) };
        let queued = self.queue.len();
        self.queue.renew_line(&mut line, model, now, MOST_FIRST, first);
        let (mut looked, is_done) = self.look_along(plan, &mut line, 0, (model, first, first), now, decisions);
        if !is_done && line.requests.len() == first && first < most {
            let mut seen = first;
            let mut count = first;
            if self.queue.len() != queued {
                (seen, count) = (0, FIRST_STRETCH.min(most));
                self.queue.renew_line(&mut line, model, now, MOST_FIRST, count);
            }
            looked += self.look_along(plan, &mut line, seen, (model, count, most), now, decisions).0;
        }
        plan.line = line;
        looked
    }

    /// Places the first `most` requests in line for a model, from `index` on. The line is made only as long as it is
    /// needed, and is `count` long at first. Returns how many requests it looked at, and whether nothing more can be done.
    fn look_along(
        &mut self,
        plan: &mut Plan,
        line: &mut Line,
        mut index: usize,
        (model, mut count, most): (ModelId, usize, usize),
        now: Time,
        decisions: &mut Vec<Decision>,
    ) -> (usize, bool) {
        let mut looked = 0;
        loop {
            if index == line.requests.len() && line.requests.len() == count && count < most {
                // Nothing has left the queue since.
                count = (STRETCHED * count).clamp(FIRST_STRETCH, most);
                self.queue.lengthen(line, model, now, MOST_FIRST, count);
            }
            let Some(next) = line.requests.get(index).copied() else { return (looked, false) };
            index += 1;
            // A second line begins with requests that this plan has looked at already.
            let Some(sought) = self.seek_for(next, now) else { continue };
            if !(plan.may_load || plan.foretold.is_some() || plan.forecast.has_start()) {
                return (looked, true);
            }
            let slots = plan.forecast.slot_count();
            if next.by_right.is_none() && self.queue.has_its_share(sought.lane, model, slots, now) {
                continue;
            }
            looked += 1;
            self.newcomer = self.newcomer.filter(|id| *id != next.id);
            plan.foretold = plan.foretold.filter(|id| *id != next.id);
            let chosen = self.choose(plan, &sought, now);
            if line.requests.len() == count && count < most && chosen.changes_queue(plan) {
                count = most;
                self.queue.lengthen(line, model, now, MOST_FIRST, count);
            }
            let starts = self.place(plan, &sought, chosen, now, decisions);
            plan.ahead += usize::from(!starts);
        }
    }
}
