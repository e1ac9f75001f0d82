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
//! 4. *Absorb.* If a slot is still free, every request looked at would rather wait for a faster node. But the slots in
//!    use can only serve so many requests before one would have ended in the free slot. If more than that wait, the
//!    first of the others takes the free slot now.
//! 5. *Guards*: a node loads one model at a time; a model is loaded on at most as many nodes at a time as already have
//!    it, but at least one; an event begins at most [`MOST_LOADS`] loads; a model stays in memory for 30 s or two load
//!    times, unless the request that evicts it has waited for 30 s, or nobody uses or wants it.

use std::collections::BTreeSet;

use crate::{
    decision::Decision,
    explain::{Alternative, Backlog, Best, Weighed},
    forecast::{Forecast, Work},
    ids::{NodeId, RequestId, Time},
    model::ModelId,
    queue::Next,
    request::Request,
    room::LoadOption,
    scheduler::Scheduler,
};

/// Requests that a plan looks at in a small fleet, and in the largest fleet.
const LEAST_LOOK: usize = 32;
const MOST_LOOK: usize = 128;
/// At most this many requests of one user may begin loads in one plan: a flood must not evict models that others use.
const MOST_LOADERS: usize = 2;
/// Requests that may go first for having waited long, in one plan.
pub(crate) const MOST_FIRST: usize = 4;
/// Loads that one event may begin.
const MOST_LOADS: usize = 4;
/// A new request is given an expected time of its first token only if at most this many wait for its model.
const MOST_FORETOLD: usize = 32;
/// Looking for loads over more pairs of request and node than this puts off the next look by `SECONDS_PER_PAIR` for
/// each further pair, but by no more than `LONGEST_PAUSE`, which is short beside a load. That bounds the work in a large
/// fleet; a small one stays below it.
const FREE_PAIRS: usize = 1000;
const SECONDS_PER_PAIR: f64 = 4e-4;
const LONGEST_PAUSE: f64 = 3.0;
/// Only requests up to this place in the line take a slot by the absorb rule.
const MOST_ABSORBED: usize = 256;

/// What a plan knows of its model.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    forecast: Forecast,
    line: Vec<Next>,
    /// Where an ordinary request, and where an impatient one, could have the model loaded; `None` until it was looked
    /// up.
    options: [Option<Vec<LoadOption>>; 2],
    /// Requests that waited for the model before anything was placed.
    waiting: usize,
    /// Requests looked at so far that still wait.
    ahead: usize,
    /// Users beyond the look-ahead.
    users_behind: usize,
    may_load: bool,
}

/// What the plan does with a request.
#[derive(Copy, Clone)]
enum Choice {
    Place(usize),
    Load(usize),
    /// Nothing can be done for it at present.
    Nothing,
}

impl Scheduler {
    /// Places the requests that wait for these models, the most entitled request first.
    pub(crate) fn plan(&mut self, models: BTreeSet<ModelId>, now: Time, decisions: &mut Vec<Decision>) {
        let mut models: Vec<ModelId> = models.into_iter().filter(|model| self.queue.waiting_for(*model) > 0).collect();
        if models.len() > 1 {
            models.sort_by(|a, b| {
                let (a, b) = (self.queue.claim(*a, now), self.queue.claim(*b, now));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
            });
        }
        let (forecast, line) = (std::mem::take(&mut self.forecast), std::mem::take(&mut self.line));
        let mut plan = Plan { forecast, line, ..Plan::default() };
        for model in models {
            self.plan_model(&mut plan, model, now, decisions);
        }
        (self.forecast, self.line) = (plan.forecast, plan.line);
    }

    fn plan_model(&mut self, plan: &mut Plan, model: ModelId, now: Time, decisions: &mut Vec<Decision>) {
        self.settle(now);
        plan.waiting = self.queue.waiting_for(model);
        plan.may_load = self.may_load(model, now);
        let can_start = !self.fleet.of(model).vacant.is_empty();
        if plan.waiting == 0 || !(can_start || plan.may_load || self.foretells(plan, model)) {
            return;
        }
        self.plans += 1;
        self.begin_forecast(&mut plan.forecast, model, now);
        plan.options = [None, None];
        plan.ahead = 0;
        let most = self.most_looked_at();
        plan.users_behind = self.users_behind(model);
        let looked = self.look(plan, model, most, now, decisions);
        if plan.may_load {
            let pairs = looked * (plan.forecast.places.len() + self.option_count(plan));
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

    /// Whether the request that has just arrived still needs an expected time of its first token.
    fn foretells(&self, plan: &Plan, model: ModelId) -> bool {
        let newcomer = self.newcomer.and_then(|id| self.requests.get(&id));
        newcomer.is_some_and(|request| request.model == model) && plan.waiting <= MOST_FORETOLD
    }

    /// Whether one more load of the model may begin.
    fn may_load(&self, model: ModelId, now: Time) -> bool {
        let whereabouts = self.fleet.of(model);
        let (coming, there) = (whereabouts.loading.len(), whereabouts.hosts.len());
        let is_due = self.next_looks.get(model.0).is_none_or(|at| *at <= now.as_secs_f64());
        let is_within = self.loads_begun < MOST_LOADS && coming < there.max(1);
        is_within && whereabouts.shelves.len() > coming + there && is_due
    }

    fn set_next_look(&mut self, model: ModelId, at: f64) {
        if self.next_looks.len() <= model.0 {
            self.next_looks.resize(model.0 + 1, 0.0);
        }
        self.next_looks[model.0] = at;
    }

    fn option_count(&self, plan: &Plan) -> usize {
        plan.options.iter().flatten().map(Vec::len).sum()
    }

    // 1.

    fn begin_forecast(&self, forecast: &mut Forecast, model: ModelId, now: Time) {
        forecast.begin(&self.fleet, model, self.memories.get(model.0), now, self.guess);
        for node in &self.fleet.of(model).loading {
            let ready = self.ready_in(*node, now);
            forecast.add_load(&self.fleet[*node], *node, model, ready, now, self.guess);
        }
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
        let mut looked = 0;
        // Usually there is one free slot, and the first request takes it.
        let mut count = if plan.may_load { most } else { (1 + self.fleet.of(model).vacant.len()).min(most) };
        loop {
            let mut line = std::mem::take(&mut plan.line);
            self.queue.line(model, now, MOST_FIRST, count, &mut line);
            let is_whole = line.len() < count || count == most;
            for next in &line {
                let Some(request) = self.requests.get_mut(&next.id) else { continue };
                // A second, longer line begins with requests that this plan has looked at already.
                if std::mem::replace(&mut request.plan, self.plans) == self.plans {
                    continue;
                }
                if !(plan.may_load || self.foretells(plan, model) || plan.forecast.has_start()) {
                    plan.line = line;
                    return looked;
                }
                if next.by_right.is_none() && self.has_its_share(plan, next.id, now) {
                    continue;
                }
                looked += 1;
                if self.newcomer == Some(next.id) {
                    self.newcomer = None;
                }
                let starts = self.place(plan, *next, now, decisions);
                plan.ahead += usize::from(!starts);
            }
            plan.line = line;
            if is_whole {
                return looked;
            }
            count = most;
        }
    }

    /// Whether the request's user already has as many of the model's slots as one user may have.
    fn has_its_share(&self, plan: &Plan, id: RequestId, now: Time) -> bool {
        let request = self.requests.get(&id);
        let slots = plan.forecast.slot_count();
        request.is_some_and(|request| self.queue.has_its_share(request.lane, request.model, slots, now))
    }

    // 3.

    /// Finds a place for a request; true if it goes there at once.
    fn place(&mut self, plan: &mut Plan, next: Next, now: Time, decisions: &mut Vec<Decision>) -> bool {
        let Some(request) = self.requests.get(&next.id) else { return false };
        plan.forecast.set_cached(self.memories.get(request.model.0), &request.prefixes, request.prompt);
        let work = self.work_of(request);
        let is_impatient = request.is_impatient(now);
        let may_load = plan.may_load && next.ahead < MOST_LOADERS;
        if may_load {
            self.look_for_loads(plan, next.id, is_impatient, now);
        }
        let (choice, expected, behind_seconds) = self.choose(plan, next, work, (may_load, is_impatient));
        let Some(request) = self.requests.get_mut(&next.id) else { return false };
        let was_planned = std::mem::replace(&mut request.waits_for, expected).is_some();
        let backlog = Backlog {
            waiting: plan.waiting,
            ahead: plan.ahead,
            absorbed: None,
            users_behind: plan.users_behind,
            behind_seconds,
        };
        match choice {
            Choice::Nothing => {
                let model = request.model;
                if self.has_no_node(model, self.requests.get(&next.id), now) {
                    self.refuse_without_node(next.id, now, decisions);
                }
                false
            }
            Choice::Load(option) => {
                self.begin_planned_load(plan, next.id, (option, is_impatient), backlog, now, decisions);
                false
            }
            Choice::Place(place) if plan.forecast.places[place].starts_at_once() => {
                self.start_at(plan, next.id, place, backlog, now, decisions);
                if let Some(lane) = next.by_right {
                    self.queue.went_first(lane, now);
                }
                true
            }
            Choice::Place(place) => {
                let alternative = plan.forecast.places[place].weigh(work);
                if !was_planned {
                    let best = self.alternatives(plan, next.id, work, is_impatient);
                    self.journal.waits(next.id, now, weighed(&best, backlog));
                }
                plan.forecast.occupy(place, alternative.total());
                false
            }
        }
    }

    fn work(&self, id: RequestId) -> Work {
        let request = self.requests.get(&id);
        request.map_or(Work { prompt: 0.0, output: 1.0 }, |request| self.work_of(request))
    }

    fn work_of(&self, request: &Request) -> Work {
        Work { prompt: request.prompt, output: self.expected_output(request) }
    }

    fn look_for_loads(&mut self, plan: &mut Plan, id: RequestId, is_impatient: bool, now: Time) {
        let Some(model) = self.requests.get(&id).map(|request| request.model) else { return };
        if plan.options[usize::from(is_impatient)].is_none() {
            let mut options = Vec::new();
            self.load_options(model, is_impatient, now, &mut options);
            plan.options[usize::from(is_impatient)] = Some(options);
        }
    }

    /// The choice for a request, the cheapest alternative, and what the users beyond the look-ahead added to not
    /// loading.
    fn choose(
        &self,
        plan: &Plan,
        next: Next,
        work: Work,
        (may_load, is_impatient): (bool, bool),
    ) -> (Choice, Option<Alternative>, f64) {
        let Some(request) = self.requests.get(&next.id) else { return (Choice::Nothing, None, 0.0) };
        let (mut best, mut choice) = (f64::INFINITY, Choice::Nothing);
        let (mut least, mut cheapest) = (f64::INFINITY, None);
        for (index, place) in plan.forecast.places.iter().enumerate() {
            let Some(penalty) = request.penalty(place.node) else { continue };
            let (total, first_token) = place.cost(work);
            if total < least {
                (least, cheapest) = (total, Some(place));
            }
            // A request that goes first by right has waited long enough, so only its first token counts.
            let counted = penalty + if next.by_right.is_some() { first_token } else { total };
            if counted < best {
                (best, choice) = (counted, Choice::Place(index));
            }
        }
        let cheapest = cheapest.map(|place| place.weigh(work));
        if !may_load {
            return (choice, cheapest, 0.0);
        }
        // The users beyond the look-ahead wait for the same slots, one service time each; a load adds slots.
        let service = match choice {
            Choice::Place(index) => Some(plan.forecast.places[index].weigh(work)),
            _ => None,
        };
        let round = service.map_or(0.0, |it| plan.users_behind as f64 * (it.prefill + it.decode));
        choose_load(plan, request, work, is_impatient, (best, choice, cheapest, round))
    }

    fn begin_planned_load(
        &mut self,
        plan: &mut Plan,
        id: RequestId,
        (option, is_impatient): (usize, bool),
        backlog: Backlog,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        let Some(model) = self.requests.get(&id).map(|request| request.model) else { return };
        let work = self.work(id);
        let best = self.alternatives(plan, id, work, is_impatient);
        let Some(options) = plan.options[usize::from(is_impatient)].take() else { return };
        let Some(chosen) = options.get(option) else { return };
        let (node, alternative) = (chosen.node, chosen.weigh(work));
        self.journal.asked_for_load(id, node, now, weighed(&best, backlog));
        self.loads_begun += 1;
        self.begin_load(node, model, chosen.victims().to_vec(), Some(id), now, decisions);
        self.settle(now);
        plan.options = [None, None];
        plan.may_load = self.may_load(model, now);
        let ready = self.ready_in(node, now);
        plan.forecast.add_load(&self.fleet[node], node, model, ready, now, self.guess);
        // The request itself takes the first of the new slots.
        let place = plan.forecast.places.len() - 1;
        plan.forecast.occupy(place, ready + alternative.prefill + alternative.decode);
    }

    fn start_at(
        &mut self,
        plan: &mut Plan,
        id: RequestId,
        place: usize,
        backlog: Backlog,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        let work = self.work(id);
        let best = self.alternatives(plan, id, work, false);
        let chosen = plan.forecast.places[place];
        let alternative = chosen.weigh(work);
        // A probe runs beside the slots and takes none of them.
        if alternative.wait == 0.0 {
            plan.forecast.occupy(place, alternative.total());
        }
        self.start(id, &chosen, weighed(&best, backlog), now, decisions);
        let node = &self.fleet[chosen.node];
        let Some(model) = self.requests.get(&id).map(|request| request.model) else { return };
        if let Some(instance) = node.instance(model) {
            plan.forecast.sent(place, node, instance, self.memories.get(model.0), now);
        }
    }

    /// The alternatives for a request, recorded so that operators can see why it went where it went.
    fn alternatives(&self, plan: &Plan, id: RequestId, work: Work, is_impatient: bool) -> Best {
        let mut best = Best::default();
        let Some(request) = self.requests.get(&id) else { return best };
        let is_allowed = |node: NodeId| request.penalty(node).is_some();
        for place in plan.forecast.places.iter().filter(|place| is_allowed(place.node)) {
            if best.takes(place.cost(work).0) {
                best.offer(place.weigh(work));
            }
        }
        let options = plan.options[usize::from(is_impatient)].iter().flatten();
        options.filter(|option| is_allowed(option.node)).for_each(|option| best.offer(option.weigh(work)));
        best
    }

    // 4.

    /// Gives a free slot that no request looked at wants to the first request that would not be served sooner by
    /// waiting; false if there is none.
    fn absorb(&mut self, plan: &mut Plan, model: ModelId, now: Time, decisions: &mut Vec<Decision>) -> bool {
        if !plan.forecast.has_start() || self.queue.waiting_for(model) <= plan.ahead {
            return false;
        }
        let Some(id) = self.beyond(plan, model, 0, now) else { return false };
        let Some((_, seconds)) = self.fastest_start(plan, id) else { return false };
        // The first of the others stands for all of them when the slots' capacity is estimated.
        let absorbed = plan.forecast.served_within(seconds, self.work(id));
        if self.queue.waiting_for(model) - plan.ahead <= absorbed {
            return false;
        }
        let Some(id) = self.beyond(plan, model, absorbed, now) else { return false };
        if self.has_its_share(plan, id, now) {
            return false;
        }
        let Some((place, _)) = self.fastest_start(plan, id) else { return false };
        let backlog = Backlog {
            waiting: plan.waiting,
            ahead: plan.ahead,
            absorbed: Some(absorbed),
            users_behind: plan.users_behind,
            behind_seconds: 0.0,
        };
        self.start_at(plan, id, place, backlog, now, decisions);
        true
    }

    /// The request `count` places behind those that were looked at, or the last one that counts.
    fn beyond(&self, plan: &Plan, model: ModelId, count: usize, now: Time) -> Option<RequestId> {
        let mut line = Vec::new();
        self.queue.line(model, now, 0, (plan.ahead + count + 1).min(MOST_ABSORBED), &mut line);
        line.last().map(|next| next.id)
    }

    /// The place where a request could start at once and would end first, and the seconds until then.
    fn fastest_start(&self, plan: &mut Plan, id: RequestId) -> Option<(usize, f64)> {
        let request = self.requests.get(&id)?;
        plan.forecast.set_cached(self.memories.get(request.model.0), &request.prefixes, request.prompt);
        let work = self.work(id);
        let places = plan.forecast.places.iter().enumerate();
        let starts = places.filter(|(_, place)| place.starts_at_once() && place.wait() == 0.0);
        // The rule must not push a request onto a node that has failed it.
        let allowed = starts.filter(|(_, place)| request.penalty(place.node) == Some(0.0));
        let totals = allowed.map(|(index, place)| (index, place.cost(work).0));
        totals.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// The alternatives, and the queue's influence if anything else waited.
fn weighed(best: &Best, backlog: Backlog) -> Weighed<'_> {
    Weighed { alternatives: best.as_slice(), backlog: Some(backlog).filter(|backlog| backlog.waiting > 1) }
}

/// Compares the best place with loading the model. `round` is how long one slot would take to serve every user
/// beyond the look-ahead once.
fn choose_load(
    plan: &Plan,
    request: &Request,
    work: Work,
    is_impatient: bool,
    (best, mut choice, mut cheapest, round): (f64, Choice, Option<Alternative>, f64),
) -> (Choice, Option<Alternative>, f64) {
    let slots = plan.forecast.slot_count().max(1);
    let (mut best, mut behind) = (best, 0.0_f64);
    for (index, option) in plan.options[usize::from(is_impatient)].iter().flatten().enumerate() {
        let Some(penalty) = request.penalty(option.node) else { continue };
        let gained = round / slots as f64 - round / (slots + option.slots) as f64;
        behind = behind.max(gained);
        let total = penalty + option.cost(work);
        if total - gained < best {
            (best, choice) = (total - gained, Choice::Load(index));
        }
    }
    if let (Choice::Load(index), Some(options)) = (choice, &plan.options[usize::from(is_impatient)]) {
        let alternative = options[index].weigh(work);
        if cheapest.is_none_or(|cheapest| alternative.total() < cheapest.total()) {
            cheapest = Some(alternative);
        }
    }
    (choice, cheapest, behind)
}
