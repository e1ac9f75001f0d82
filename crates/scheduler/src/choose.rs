//! Where does a waiting request go: to a slot that is free, to one that will be, or to a node that loads the model for
//! it? The third step of a [plan](crate::plan).

use std::sync::Arc;

use crate::{
    decision::Decision,
    explain::{Alternative, Backlog},
    ids::{NodeId, RequestId, Time},
    model::ModelId,
    node::speed::Work,
    place_search::Seeker,
    plan::{Plan, weighed},
    prefix::{Prefix, Trail},
    queue::{LaneId, Next},
    request::{Avoided, Request},
    scheduler::Scheduler,
};

/// A flood must not evict models that others use: this many requests of one user may begin any load in one plan, and
/// those behind them only one by which others lose at most so many seconds.
const MOST_LOADERS: usize = 2;
const HARMLESS_SECONDS: f64 = 2.0;

/// A waiting request that a plan looks at.
#[derive(Clone, Debug)]
pub(crate) struct Sought {
    pub(crate) next: Next,
    pub(crate) lane: LaneId,
    pub(crate) model: ModelId,
    pub(crate) work: Work,
    prefixes: Arc<[Prefix]>,
    pub(crate) avoided: Avoided,
    is_impatient: bool,
    /// An earlier plan has said what it waits for.
    was_planned: bool,
}

impl Sought {
    /// `output` is how many tokens its answer should have.
    fn of(next: Next, request: &Request, output: f64, now: Time) -> Self {
        Self {
            next,
            lane: request.lane,
            model: request.model,
            work: Work { prompt: request.prompt, output },
            prefixes: request.prefixes.clone(),
            avoided: request.avoided().clone(),
            is_impatient: request.is_impatient(now),
            was_planned: request.waits_for.is_some(),
        }
    }
}

/// What the plan does with a request.
#[derive(Copy, Clone)]
enum Choice {
    Place(usize),
    Load(usize),
    /// Nothing can be done for it at present.
    Nothing,
}

/// A choice, and what spoke for it.
pub(crate) struct Chosen {
    choice: Choice,
    cheapest: Option<Alternative>,
    /// How much longer the users beyond the look-ahead would wait without a load, in seconds.
    behind_seconds: f64,
}

impl Chosen {
    /// Whether it takes the request out of the queue, and the plan goes on after that.
    pub(crate) fn changes_queue(&self, plan: &Plan) -> bool {
        let goes_on = plan.may_load || plan.foretold.is_some();
        match self.choice {
            Choice::Place(place) if plan.forecast.places[place].starts_at_once() => {
                goes_on || !plan.forecast.is_last_start(place)
            }
            Choice::Place(_) | Choice::Load(_) => false,
            Choice::Nothing => true,
        }
    }
}

impl Scheduler {
    /// A request in line; `None` if the current plan has looked at it already.
    pub(crate) fn seek_for(&mut self, next: Next, now: Time) -> Option<Sought> {
        let request = self.requests.get_mut(&next.id)?;
        if std::mem::replace(&mut request.plan, self.plans) == self.plans {
            return None;
        }
        Some(Sought::of(next, request, self.models.expected_output(request), now))
    }

    /// A request as a plan would look at it.
    pub(crate) fn look_up(&self, id: RequestId, now: Time) -> Option<Sought> {
        let next = Next { id, by_right: None, ahead: 0 };
        let request = self.requests.get(&id)?;
        Some(Sought::of(next, request, self.models.expected_output(request), now))
    }

    /// Carries out what was chosen for a request; true if it starts at once.
    pub(crate) fn place(
        &mut self,
        plan: &mut Plan,
        sought: &Sought,
        chosen: Chosen,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) -> bool {
        let next = sought.next;
        let Chosen { choice, cheapest, behind_seconds } = chosen;
        if let Some(request) = self.requests.get_mut(&next.id) {
            request.waits_for = cheapest;
        }
        let backlog = plan.backlog(None, behind_seconds);
        match choice {
            Choice::Nothing => {
                if self.has_no_node(sought.model, self.requests.get(&next.id).map(Box::as_ref), now) {
                    self.refuse_without_node(next.id, now, decisions);
                }
                false
            }
            Choice::Load(option) => {
                self.begin_planned_load(plan, sought, option, backlog, now, decisions);
                false
            }
            Choice::Place(place) if plan.forecast.places[place].starts_at_once() => {
                self.start_at(plan, sought, place, backlog, now, decisions);
                if let Some(lane) = next.by_right {
                    self.queue.went_first(lane, now);
                }
                true
            }
            Choice::Place(place) => {
                let alternative = plan.forecast.places[place].weigh(sought.work);
                if !sought.was_planned {
                    self.find_alternatives(plan, sought, sought.is_impatient);
                    self.journal.waits(next.id, now, weighed(&plan.best, backlog));
                }
                plan.forecast.occupy(place, alternative.total());
                false
            }
        }
    }

    /// Weighs what can be done for a request.
    pub(crate) fn choose(&mut self, plan: &mut Plan, sought: &Sought, now: Time) -> Chosen {
        // Kept for the others of this plan; a load that it begins changes what is possible.
        if plan.may_load {
            let options = &mut plan.options[usize::from(sought.is_impatient)];
            options.get_or_insert_with(|| self.load_options(sought.model, sought.is_impatient, now));
        }
        let trail = self.trail(sought.model, &sought.prefixes, sought.work);
        let found = plan.forecast.seek(Seeker {
            work: sought.work,
            trail: &trail,
            // A request that goes first by right has waited long enough, so only its first token counts.
            is_urgent: sought.next.by_right.is_some(),
            penalty: |node| sought.avoided.penalty(node),
        });
        let weigh = |place: usize| plan.forecast.places[place].weigh(sought.work);
        let cheapest = found.cheapest.map(weigh);
        let choice = found.best.map_or(Choice::Nothing, |(place, _)| Choice::Place(place));
        if !plan.may_load {
            return Chosen { choice, cheapest, behind_seconds: 0.0 };
        }
        // The users beyond the look-ahead wait for the same slots, one service time each; a load adds slots.
        let service = found.best.map(|(place, _)| weigh(place)).map_or(0.0, |best| best.prefill + best.decode);
        let round = plan.users_behind as f64 * service;
        let best = found.best.map_or(f64::INFINITY, |(_, seconds)| seconds);
        choose_load(plan, sought, (best, round), Chosen { choice, cheapest, behind_seconds: 0.0 })
    }

    pub(crate) fn trail(&self, model: ModelId, prefixes: &[Prefix], work: Work) -> Trail<'_> {
        self.memories.get(model.0).map(|memory| memory.trail(prefixes, work.prompt)).unwrap_or_default()
    }

    fn begin_planned_load(
        &mut self,
        plan: &mut Plan,
        sought: &Sought,
        option: usize,
        backlog: Backlog,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        let (id, model, work) = (sought.next.id, sought.model, sought.work);
        self.find_alternatives(plan, sought, sought.is_impatient);
        let Some(options) = plan.options[usize::from(sought.is_impatient)].take() else { return };
        let Some(chosen) = options.get(option) else { return };
        let (node, alternative) = (chosen.node, chosen.weigh(work));
        self.journal.asked_for_load(id, node, now, weighed(&plan.best, backlog));
        self.loads_begun += 1;
        self.begin_load(node, model, chosen.victims().to_vec(), Some(id), now, decisions);
        self.settle(now);
        plan.options = [None, None];
        plan.may_load = self.may_load(model, now);
        let ready = self.add_load(&mut plan.forecast, node, model, now);
        // The request itself takes the first of the new slots.
        let place = plan.forecast.places.len() - 1;
        plan.forecast.occupy(place, ready + alternative.prefill + alternative.decode);
    }

    pub(crate) fn start_at(
        &mut self,
        plan: &mut Plan,
        sought: &Sought,
        place: usize,
        backlog: Backlog,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        self.find_alternatives(plan, sought, false);
        let chosen = plan.forecast.places[place];
        let alternative = chosen.weigh(sought.work);
        // A probe runs beside the slots and takes none of them.
        if alternative.wait == 0.0 {
            plan.forecast.occupy(place, alternative.total());
        }
        self.start(sought.next.id, &chosen, sought.work.output, weighed(&plan.best, backlog), now, decisions);
        let node = &self.fleet[chosen.node];
        if let Some(instance) = node.instance(sought.model) {
            plan.forecast.sent(place, node, instance, self.memories.get(sought.model.0), now);
        }
    }

    /// Sets the alternatives for the request that was looked at last, recorded so that operators can see why it went
    /// where it went.
    fn find_alternatives(&self, plan: &mut Plan, sought: &Sought, is_impatient: bool) {
        let Plan { best, forecast, options, .. } = plan;
        best.clear();
        forecast.complete_cached(|| self.trail(sought.model, &sought.prefixes, sought.work));
        let is_allowed = |node: NodeId| sought.avoided.penalty(node).is_some();
        for place in forecast.places.iter().filter(|place| is_allowed(place.node)) {
            if best.takes(place.cost(sought.work).0) {
                best.offer(place.weigh(sought.work));
            }
        }
        let options = options[usize::from(is_impatient)].iter().flat_map(|options| options.iter());
        options.filter(|option| is_allowed(option.node)).for_each(|option| best.offer(option.weigh(sought.work)));
    }

    /// The place where a request could start at once and would end first, and the seconds until then.
    pub(crate) fn fastest_start(&self, plan: &mut Plan, sought: &Sought) -> Option<(usize, f64)> {
        plan.forecast.set_cached(&self.trail(sought.model, &sought.prefixes, sought.work));
        let places = plan.forecast.places.iter().enumerate();
        let starts = places.filter(|(_, place)| place.starts_at_once() && place.wait() == 0.0);
        // The rule must not push a request onto a node that has failed it.
        let allowed = starts.filter(|(_, place)| sought.avoided.penalty(place.node) == Some(0.0));
        let totals = allowed.map(|(index, place)| (index, place.cost(sought.work).0));
        totals.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Compares the best place, which costs `best` seconds, with loading the model. `round` is how long one slot would
/// take to serve every user beyond the look-ahead once.
fn choose_load(plan: &Plan, sought: &Sought, (best, round): (f64, f64), chosen: Chosen) -> Chosen {
    let Some(options) = &plan.options[usize::from(sought.is_impatient)] else { return chosen };
    let slots = plan.forecast.slot_count().max(1);
    let gained = |more: usize| round / slots as f64 - round / (slots + more) as f64;
    let behind_seconds = gained(options.most_slots());
    if options.least_cost(sought.work) - behind_seconds >= best {
        return Chosen { behind_seconds, ..chosen };
    }
    let most_lost = if sought.next.ahead < MOST_LOADERS { f64::INFINITY } else { HARMLESS_SECONDS };
    let (mut best, mut load) = (best, None);
    for (index, option) in options.iter().enumerate().filter(|(_, option)| option.regret() <= most_lost) {
        let Some(penalty) = sought.avoided.penalty(option.node) else { continue };
        let total = penalty + option.cost(sought.work) - gained(option.slots);
        if total < best {
            (best, load) = (total, Some((index, option)));
        }
    }
    let Some((index, option)) = load else { return Chosen { behind_seconds, ..chosen } };
    let alternative = option.weigh(sought.work);
    let cheapest = chosen.cheapest.filter(|cheapest| cheapest.total() <= alternative.total());
    Chosen { choice: Choice::Load(index), cheapest: cheapest.or(Some(alternative)), behind_seconds }
}
