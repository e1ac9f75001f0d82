//! Which waiting request goes where? A plan over the next ones, made anew after every event; nothing in it binds but
//! what is carried out at once.
//!
//! 1. *Slots in thought.* Each slot of a model in memory, or about to be, is free now or after what its request is
//!    expected to take still; those of a model that is being loaded, when it is there.
//! 2. *Order.* Whoever has a right to go first, then the users by least service, each pick charged in thought, up to
//!    [`LOOK_AHEAD`] requests; then, for every slot that is free all the same, the next who waits for its model.
//! 3. *Place* each request in that order where the sum of these is least:
//!    `wait for a slot + load + regret + reading the prompt + writing the answer`, over the nodes that have the model,
//!    and over those that could load it: `wait` is then for what must end first, and `regret` what others lose by it.
//!    * a slot that is free now: **dispatch**;
//!    * one that will be free: it is taken in thought only, so that the next request sees it taken;
//!    * a load: begin it; its slots count at once, so that the next request does not ask for a second one.
//! 4. *Guards*: a node loads one model at a time, a model is loaded on one node at a time, a plan begins at most
//!    [`MOST_LOADS`]; a model stays in memory for 30 s or two load times, unless whoever asks has waited for 30 s, or
//!    nobody uses or wants it.

use crate::{
    decision::{Decision, RefusalReason},
    explain::{Alternative, Kind, best},
    forecast::{ModelPlan, Outlook, Place, Plan},
    ids::{NodeId, RequestId, Time},
    instance::{Instance, Running},
    model::ModelId,
    node::{Node, fastest},
    request::{Attempt, Request, cost},
    scheduler::Scheduler,
};

/// Requests a plan looks at, besides those for slots that would stay free.
const LOOK_AHEAD: usize = 8;
/// Requests that go first by right, in one plan.
const MOST_FIRST: usize = 4;
const MOST_LOADS: usize = 4;
/// How much the loss of a model in memory counts beside the time of whoever asks.
const REGRET: f64 = 3.0;
/// The same where other nodes have the model as well.
const REGRET_OF_COPY: f64 = 0.3;
/// How far ahead demand is foreseen, seconds.
const FORESIGHT_SECONDS: f64 = 60.0;
/// Of the requests that wait for a copy among several, so many count.
const WAITING_FOR_COPY: f64 = 4.0;
const LEAST_RESIDENCE_SECONDS: f64 = 30.0;
/// Whoever waited so long may push out what has just come.
const IMPATIENT_SECONDS: f64 = 30.0;
/// Set on nodes that failed the request before: they are used only if there is no other.
const LAST_RESORT: f64 = 1e9;

/// Where a request goes.
enum Choice {
    Slot {
        place: usize,
        slot: usize,
        seconds: f64,
    },
    Load {
        node: NodeId,
        victims: Vec<ModelId>,
    },
    /// Nothing can be done for it now.
    None,
}

impl Scheduler {
    /// Places what waits, and lets begin what can.
    pub(crate) fn plan(&mut self, now: Time, decisions: &mut Vec<Decision>) {
        let mut plan = std::mem::take(&mut self.plan);
        plan.begin(now.as_secs_f64(), fastest(self.nodes.iter()), self.nodes.len());
        let mut order = std::mem::take(&mut plan.order);
        // 2.
        order.clear();
        let due: Vec<_> = self.queue.due(now).take(MOST_FIRST).collect();
        for (lane, id) in &due {
            if self.place(&mut plan, *id, true, now, decisions) {
                self.queue.went_first(*lane, now);
            }
        }
        self.queue.first(LOOK_AHEAD, &mut order);
        // Those were placed already, and take one slot in thought.
        order.retain(|id| !due.iter().any(|(_, first)| first == id));
        for id in &order {
            self.place(&mut plan, *id, false, now, decisions);
        }
        self.fill_free_slots(&mut plan, &order, now, decisions);
        plan.order = order;
        self.plan = plan;
    }

    /// No slot stays free for want of looking far enough.
    fn fill_free_slots(&mut self, plan: &mut Plan, seen: &[RequestId], now: Time, decisions: &mut Vec<Decision>) {
        let models: Vec<ModelId> = self.queue.models().collect();
        for model in models {
            while self.has_free_slot(plan, model, now) {
                let next = self.queue.for_model(model).find(|id| !seen.contains(id));
                if !next.is_some_and(|id| self.place(plan, id, false, now, decisions)) {
                    break;
                }
            }
        }
    }

    fn has_free_slot(&self, plan: &mut Plan, model: ModelId, now: Time) -> bool {
        let index = self.look_at(plan, model, now);
        let model = &plan.models[index];
        let is_free = |place: &&Place| model.slots[place.first..place.first + place.count].contains(&0.0);
        model.places.iter().filter(is_free).any(|place| self.nodes[place.node.0].opens_in(now) == 0.0)
    }

    /// Finds a place for a request; true if it goes there at once.
    fn place(
        &mut self,
        plan: &mut Plan,
        id: RequestId,
        is_first: bool,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) -> bool {
        let Some(request) = self.requests.get(&id).filter(|request| request.attempt.is_none()) else { return false };
        let model = request.model;
        let index = self.look_at(plan, model, now);
        let choice = self.choose(plan, index, request, is_first);
        let was_planned = request.waits_for.is_some();
        let waits_for = best(&plan.alternatives).copied();
        if let Some(request) = self.requests.get_mut(&id) {
            request.waits_for = waits_for;
        }
        match choice {
            Choice::None => {
                if self.has_no_node(model, self.requests.get(&id), now) {
                    self.refuse_without_node(id, now, decisions);
                }
                false
            }
            Choice::Load { node, victims } => {
                plan.loads += 1;
                victims.iter().for_each(|victim| plan.loses(*victim));
                // What is to leave takes nothing more, in this plan either.
                for leaving in plan.models.iter_mut().filter(|known| victims.contains(&known.model)) {
                    leaving.places.retain(|place| place.node != node);
                }
                self.journal.asked_for_load(id, node, now, &plan.alternatives);
                self.begin_load(node, model, victims, Some(id), now, decisions);
                let ready = self.ready_in(node, plan.now, plan.guess);
                let service = plan.models[index].add(&self.nodes[node.0], node, ready, false, now);
                plan.models[index].is_pending = true;
                // The request itself takes the first of the slots to come.
                plan.models[index].slots[service] += self.service_seconds(plan, node, id);
                plan.extra[node.0] += 1.0;
                false
            }
            Choice::Slot { place, slot, seconds } => {
                let Place { node, is_resident, .. } = plan.models[index].places[place];
                let waits = plan.models[index].slots[slot];
                // What this plan has sent there may be all that a node on trial takes.
                let is_open = is_resident && self.nodes[node.0].opens_in(now) == 0.0;
                let is_probe = is_open && waits > 0.0 && self.wants_probe(node, model, plan.now);
                let starts = is_open && (waits == 0.0 || is_probe);
                if !is_probe {
                    plan.models[index].slots[slot] = seconds;
                }
                if starts {
                    self.start(plan, id, node, now, decisions);
                } else {
                    plan.extra[node.0] += 1.0;
                    if !was_planned {
                        self.journal.waits(id, now, &plan.alternatives);
                    }
                }
                starts
            }
        }
    }

    fn wants_probe(&self, node: NodeId, model: ModelId, now: f64) -> bool {
        self.nodes[node.0].instance(model).is_some_and(|instance| instance.wants_probe(now))
    }

    // 1.

    /// The slots of a model, looked up once a plan; its index in the plan.
    fn look_at(&self, plan: &mut Plan, model: ModelId, now: Time) -> usize {
        if let Some(index) = plan.models.iter().position(|known| known.model == model) {
            return index;
        }
        let mut model_plan = ModelPlan {
            model,
            places: Vec::new(),
            slots: Vec::new(),
            is_pending: false,
            loadable: Vec::new(),
            cheapest_load: f64::INFINITY,
        };
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_open()) {
            let Some(instance) = node.instance(model).filter(|instance| instance.listing.is_some()) else { continue };
            let is_loading = node.load.as_ref().is_some_and(|load| load.model == model);
            let is_resident = instance.resident_since.is_some() && !instance.is_leaving;
            model_plan.is_pending |= is_loading;
            if is_loading {
                let ready = self.ready_in(NodeId(index), plan.now, plan.guess);
                model_plan.add(node, NodeId(index), ready, false, now);
            } else if is_resident {
                let first = model_plan.add(node, NodeId(index), 0.0, true, now);
                for (slot, running) in instance.running.iter().take(instance.slot_count()).enumerate() {
                    let left = node.seconds_left(instance, running, plan.now, plan.guess);
                    // Never mistaken for a free one.
                    model_plan.slots[first + slot] = left.max(1e-3);
                }
            } else if instance.resident_since.is_none()
                && instance.slot_count() > 0
                && node.may_load()
                && instance.load_again_at <= plan.now
            {
                let seconds = node.load_seconds(instance);
                model_plan.loadable.push((NodeId(index), seconds));
                model_plan.cheapest_load = model_plan.cheapest_load.min(seconds);
            }
        }
        plan.models.push(model_plan);
        plan.models.len() - 1
    }

    // 3.

    fn choose(&self, plan: &mut Plan, index: usize, request: &Request, is_first: bool) -> Choice {
        plan.alternatives.clear();
        let mut best = (f64::INFINITY, Choice::None);
        for place in 0..plan.models[index].places.len() {
            let Place { node, first, count, opens_in, .. } = plan.models[index].places[place];
            let Some(penalty) = penalty(request, node) else { continue };
            let slots = plan.models[index].slots[first..first + count].iter().enumerate();
            let Some((slot, wait)) = slots.min_by(|a, b| a.1.total_cmp(b.1)) else { continue };
            let node_state = &self.nodes[node.0];
            let wait = wait.max(opens_in);
            let Some(instance) = node_state.instance(request.model) else { continue };
            let leaves = f64::from(u8::from(wait > 0.0));
            let others = (f64::from(node_state.in_flight()) + plan.extra[node.0] - leaves).max(0.0);
            let (prefill, decode) = self.service(node_state, instance, request, others, plan.guess);
            let kind = if wait > 0.0 { Kind::Wait } else { Kind::Now };
            let alternative = Alternative { node, kind, wait, load: 0.0, regret: 0.0, prefill, decode };
            plan.alternatives.push(alternative);
            let total = penalty + if is_first { wait + prefill } else { alternative.total() };
            if total < best.0 {
                let seconds = wait + prefill + decode;
                best = (total, Choice::Slot { place, slot: first + slot, seconds });
            }
        }
        let known = &plan.models[index];
        if !known.is_pending && plan.loads < MOST_LOADS && known.cheapest_load < best.0 {
            self.choose_load(plan, index, request, &mut best);
        }
        best.1
    }

    fn choose_load(&self, plan: &mut Plan, index: usize, request: &Request, best: &mut (f64, Choice)) {
        let model = request.model;
        for candidate in 0..plan.models[index].loadable.len() {
            let (id, load) = plan.models[index].loadable[candidate];
            let node = &self.nodes[id.0];
            // A load that this plan began.
            if load >= best.0 || node.load.is_some() {
                continue;
            }
            let Some(instance) = node.instance(model) else { continue };
            let Some(penalty) = penalty(request, id) else { continue };
            let others = f64::from(node.in_flight()) + plan.extra[id.0];
            let (prefill, decode) = self.service(node, instance, request, others, plan.guess);
            if penalty + load + prefill + decode >= best.0
                || (is_too_small(node, instance) && self.fits_elsewhere(model))
            {
                continue;
            }
            let Some(room) = self.make_room(plan, node, model, request) else { continue };
            let kind = Kind::Load;
            let alternative =
                Alternative { node: id, kind, wait: room.drain, load, regret: room.regret, prefill, decode };
            plan.alternatives.push(alternative);
            let total = penalty + alternative.total();
            if total < best.0 {
                *best = (total, Choice::Load { node: id, victims: room.victims });
            }
        }
    }

    /// Whether some open node has memory enough for the model.
    fn fits_elsewhere(&self, model: ModelId) -> bool {
        let fits = |node: &Node| {
            node.instance(model).is_some_and(|instance| instance.listing.is_some() && !is_too_small(node, instance))
        };
        self.nodes.iter().any(|node| node.is_open() && fits(node))
    }

    /// Seconds to read the prompt and to write the answer.
    pub(crate) fn service(
        &self,
        node: &Node,
        instance: &Instance,
        request: &Request,
        others: f64,
        guess: f64,
    ) -> (f64, f64) {
        let uncached = request.prompt - instance.cached(request.session, request.prompt);
        let prefill = node.prefill_seconds(instance, uncached, others, guess);
        let output = self.expected_output(request);
        (prefill, output * node.token_seconds(instance, guess) * node.speed.stretch(others))
    }

    fn service_seconds(&self, plan: &Plan, node: NodeId, id: RequestId) -> f64 {
        let node = &self.nodes[node.0];
        let Some(request) = self.requests.get(&id) else { return 0.0 };
        let Some(instance) = node.instance(request.model) else { return 0.0 };
        let (prefill, decode) = self.service(node, instance, request, f64::from(node.in_flight()), plan.guess);
        prefill + decode
    }

    pub(crate) fn expected_output(&self, request: &Request) -> f64 {
        let mean = self.models.get(request.model).output.get();
        request.known_output.unwrap_or(request.max_output.map_or(mean, |most| mean.min(most))).max(1.0)
    }

    // 4.

    /// What has to go from a node so that a model fits; `None` if it cannot be made to.
    fn make_room(&self, plan: &mut Plan, node: &Node, model: ModelId, request: &Request) -> Option<Room> {
        let (Some(budget), Some(wanted)) = (node.budget(), node.instance(model).map(Instance::footprint)) else {
            return Some(Room::default());
        };
        let taken = node.residents().map(|(_, instance)| instance.footprint()).fold(0, u64::saturating_add);
        let missing = wanted.saturating_add(taken).saturating_sub(budget);
        if missing == 0 {
            return Some(Room::default());
        }
        let mut victims: Vec<Victim> = Vec::new();
        for (model, instance) in node.residents() {
            if !instance.is_leaving && !self.is_protected(node, model, instance, request, plan.now) {
                let regret = self.regret(plan, node, model, instance);
                let drain = self.drained_in(node, model, plan.now, plan.guess);
                victims.push(Victim { model, regret, drain, bytes: instance.footprint() });
            }
        }
        victims.sort_by(|a, b| (a.regret + a.drain).total_cmp(&(b.regret + b.drain)));
        let mut freed: u64 = 0;
        let needed = victims.iter().take_while(|victim| {
            let is_needed = freed < missing;
            freed += if is_needed { victim.bytes } else { 0 };
            is_needed
        });
        let needed = needed.count();
        victims.truncate(needed);
        // A model larger than the whole memory is tried in an empty one, if there is no better node.
        if freed < missing && wanted <= budget {
            return None;
        }
        // A small one taken first may not be needed beside a large one taken later.
        let mut spare = freed.saturating_sub(missing);
        let mut room = Room::default();
        for victim in victims.into_iter().rev() {
            if victim.bytes <= spare {
                spare -= victim.bytes;
                continue;
            }
            room.regret += victim.regret;
            room.drain = room.drain.max(victim.drain);
            room.victims.push(victim.model);
        }
        Some(room)
    }

    fn is_protected(&self, node: &Node, model: ModelId, instance: &Instance, by: &Request, now: f64) -> bool {
        let load = node.load_seconds(instance);
        let resident = instance.resident_since.map_or(0.0, |since| now - since);
        let is_young = resident < LEAST_RESIDENCE_SECONDS.max(2.0 * load);
        let is_impatient = now - by.arrived.as_secs_f64() > IMPATIENT_SECONDS;
        let asked = self.models.get(model).demand.asked_at.map_or(f64::INFINITY, |asked| now - asked);
        let is_unused = instance.running.is_empty() && self.queue.waiting_for(model) == 0 && asked > 2.0 * load;
        is_young && !is_impatient && !is_unused
    }

    /// What others lose, in seconds, if a model leaves a node.
    fn regret(&self, plan: &mut Plan, node: &Node, model: ModelId, instance: &Instance) -> f64 {
        let load = node.load_seconds(instance);
        let Outlook { coming, copies } = plan.outlook(self, model);
        let waiting = self.queue.waiting_for(model) as f64;
        match copies {
            0 | 1 => REGRET * load * (coming + waiting),
            copies => REGRET * REGRET_OF_COPY * load * (coming + waiting.min(WAITING_FOR_COPY)) / (copies as f64 - 1.0),
        }
    }

    /// Nodes that have a model in memory and keep it.
    fn copies(&self, model: ModelId) -> usize {
        let has = |instance: &Instance| instance.resident_since.is_some() && !instance.is_leaving;
        self.nodes.iter().filter(|node| node.is_open() && node.instance(model).is_some_and(has)).count()
    }

    fn start(&mut self, plan: &Plan, id: RequestId, node: NodeId, now: Time, decisions: &mut Vec<Decision>) {
        let Some(request) = self.requests.get(&id) else { return };
        let node_state = &self.nodes[node.0];
        let Some(instance) = node_state.instance(request.model) else { return };
        let output = self.expected_output(request);
        let uncached = request.prompt - instance.cached(request.session, request.prompt);
        let charged = cost(uncached, output, instance.model_bytes());
        let seconds = now.as_secs_f64();
        let running = Running {
            id,
            sent_at: seconds,
            is_stream: request.is_stream,
            prompt: uncached,
            whole_prompt: request.prompt,
            output,
            others: f64::from(node_state.in_flight()),
            session: request.session,
            began_at: None,
            delivered: 0.0,
            heard_at: seconds,
            stalled_at: None,
        };
        let Some(request) = self.requests.get_mut(&id) else { return };
        self.queue.remove(request.lane, request.position(), now);
        self.queue.dispatched(request.lane, charged, now);
        let node_state = &mut self.nodes[node.0];
        if node_state.in_flight() == 0 {
            node_state.heard_at = seconds;
        }
        let epoch = node_state.occupy(request.model, running);
        request.attempt = Some(Attempt { node, epoch, has_first_byte: false, is_abandoned: false, charged });
        request.attempts += 1;
        node_state.count_routed(request.attempts, request.caused_load);
        self.journal.dispatched(id, node, request.attempts, now, &plan.alternatives);
        decisions.push(Decision::Dispatch { id, node, attempt: request.attempts });
    }

    /// Whether no node will ever take a request like this as things stand.
    pub(crate) fn has_no_node(&self, model: ModelId, request: Option<&Request>, now: Time) -> bool {
        let seconds = now.as_secs_f64();
        let serves = |(index, node): (usize, &Node)| {
            let may_load = |instance: &Instance| {
                let is_there = instance.resident_since.is_some() || instance.load_again_at <= seconds;
                instance.listing.is_some() && is_there
            };
            let is_barred = request.is_some_and(|request| penalty(request, NodeId(index)).is_none());
            node.is_open() && !is_barred && node.instance(model).is_some_and(may_load)
        };
        !self.nodes.iter().enumerate().any(serves)
    }

    /// Whether nodes would take it if it had come by another route.
    fn has_no_route(&self, model: ModelId, request: Option<&Request>) -> bool {
        let mut nodes = self.nodes.iter().filter(|node| node.is_open() && node.lists(model)).peekable();
        nodes.peek().is_some() && request.is_some_and(|request| nodes.all(|node| !node.routes.has(request.route)))
    }

    /// Why nobody takes it.
    pub(crate) fn why_no_node(&self, model: ModelId, request: Option<&Request>) -> RefusalReason {
        let last = request.and_then(Request::last_failure).filter(|last| !last.allows_same_node());
        let instances = self.nodes.iter().filter(|node| node.is_open()).filter_map(|node| node.instance(model));
        let mut failed_loads = instances.filter_map(|instance| instance.last_load_failure);
        match (last, failed_loads.next()) {
            (Some(last), _) => RefusalReason::Exhausted { last },
            (None, _) if self.has_no_route(model, request) => RefusalReason::NoRoute,
            (None, Some(last)) => RefusalReason::NotLoaded { last },
            (None, None) => RefusalReason::NoNode,
        }
    }
}

/// Whether a model would not even fit if it were alone there.
fn is_too_small(node: &Node, instance: &Instance) -> bool {
    node.budget().is_some_and(|budget| instance.footprint() > budget)
}

/// A model that may go from a node's memory.
struct Victim {
    model: ModelId,
    regret: f64,
    drain: f64,
    bytes: u64,
}

/// What must go from a node's memory, how long until it has drained, and what others lose by it.
#[derive(Default)]
struct Room {
    victims: Vec<ModelId>,
    drain: f64,
    regret: f64,
}

/// `None` if the request is not to be sent there at all.
fn penalty(request: &Request, node: NodeId) -> Option<f64> {
    match request.failed_on(node) {
        Some(failed_on) if failed_on.is_barred => None,
        Some(_) => Some(LAST_RESORT),
        None => Some(0.0),
    }
}

impl Plan {
    fn begin(&mut self, now: f64, guess: f64, nodes: usize) {
        self.models.clear();
        self.extra.clear();
        self.extra.resize(nodes, 0.0);
        self.outlooks.clear();
        self.loads = 0;
        (self.now, self.guess) = (now, guess);
    }

    fn outlook(&mut self, scheduler: &Scheduler, model: ModelId) -> Outlook {
        if self.outlooks.len() <= model.0 {
            self.outlooks.resize(model.0 + 1, None);
        }
        let now = self.now;
        *self.outlooks[model.0].get_or_insert_with(|| {
            let rate = scheduler.models.get(model).demand.at(now);
            Outlook { coming: (FORESIGHT_SECONDS * rate).min(1.0), copies: scheduler.copies(model) }
        })
    }

    /// A model on a node is about to go: one copy less.
    fn loses(&mut self, model: ModelId) {
        if let Some(Some(outlook)) = self.outlooks.get_mut(model.0) {
            outlook.copies = outlook.copies.saturating_sub(1);
        }
    }
}
