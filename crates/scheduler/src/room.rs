//! Where could a model be loaded, what would have to be unloaded there, and what would others lose by it?

use crate::{
    explain::{Alternative, Kind},
    ids::{NodeId, Time},
    instance::Instance,
    model::ModelId,
    node::{
        Node,
        speed::{Rates, Work},
    },
    scheduler::Scheduler,
};

/// Nodes examined in one look for a load. In a larger fleet the next look continues where this one ended.
const MOST_CANDIDATES: usize = 32;
/// Nodes skipped in one look because they have the model or are loading.
const MOST_PASSED_OVER: usize = 64;
/// The weight of losing a model in memory, relative to the time of the request that needs the room.
const REGRET: f64 = 3.0;
/// The same if other nodes have the model as well.
const REGRET_OF_COPY: f64 = 0.3;
/// How far ahead demand is extrapolated, in seconds.
const FORESIGHT_SECONDS: f64 = 60.0;
/// If a model has several copies, at most this many of its waiting requests count for one copy.
const WAITING_FOR_COPY: f64 = 4.0;
const LEAST_RESIDENCE_SECONDS: f64 = 30.0;

/// A node that could load a model.
#[derive(Clone, Debug)]
pub(crate) struct LoadOption {
    pub(crate) node: NodeId,
    load: f64,
    room: Room,
    rates: Rates,
    stretch: (f64, f64),
    /// The slots that the load would add.
    pub(crate) slots: usize,
}

/// The nodes that could load a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadChoices {
    options: Vec<LoadOption>,
    most_slots: usize,
    /// The least seconds until the model is loaded, regret included, and the least seconds a token.
    least: (f64, f64),
}

impl LoadChoices {
    fn of(options: Vec<LoadOption>) -> Self {
        let least = |figure: fn(&LoadOption) -> f64| options.iter().map(figure).fold(f64::INFINITY, f64::min);
        let least = (least(LoadOption::before_service), least(|option| option.rates.token * option.stretch.1));
        let most_slots = options.iter().map(|option| option.slots).max().unwrap_or(0);
        Self { options, most_slots, least }
    }

    pub(crate) fn len(&self) -> usize {
        self.options.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LoadOption> {
        self.options.iter()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&LoadOption> {
        self.options.get(index)
    }

    /// The most slots that one of them would add.
    pub(crate) fn most_slots(&self) -> usize {
        self.most_slots
    }

    /// What every one of them costs at least.
    pub(crate) fn least_cost(&self, work: Work) -> f64 {
        self.least.0 + work.output * self.least.1
    }
}

/// The models that must be unloaded, how long they need to drain, and what others lose by it.
#[derive(Clone, Debug, Default)]
struct Room {
    victims: Vec<ModelId>,
    drain: f64,
    regret: f64,
}

/// A model that may be unloaded.
struct Victim {
    model: ModelId,
    regret: f64,
    drain: f64,
    bytes: u64,
}

impl LoadOption {
    pub(crate) fn victims(&self) -> &[ModelId] {
        &self.room.victims
    }

    /// What others lose by the load, in seconds.
    pub(crate) fn regret(&self) -> f64 {
        self.room.regret
    }

    /// The total of [`LoadOption::weigh`].
    pub(crate) fn cost(&self, work: Work) -> f64 {
        let (prefill, decode) = self.rates.service(work.prompt, work.output, self.stretch);
        self.before_service() + prefill + decode
    }

    fn before_service(&self) -> f64 {
        self.room.drain + self.load + self.room.regret
    }

    /// The expected cost of loading the model here and then serving a request.
    pub(crate) fn weigh(&self, work: Work) -> Alternative {
        let (prefill, decode) = self.rates.service(work.prompt, work.output, self.stretch);
        let Room { drain, regret, .. } = self.room;
        let (wait, load, kind) = (drain, self.load, Kind::Load);
        Alternative { node: self.node, kind, wait, load, regret, prefill, decode, prompt: work.prompt, cached: 0.0 }
    }
}

impl Scheduler {
    /// Finds where a model could be loaded. An impatient request may evict models that were loaded only recently.
    pub(crate) fn load_options(&mut self, model: ModelId, is_impatient: bool, now: Time) -> LoadChoices {
        let mut options = Vec::new();
        let shelves = &self.fleet.of(model).shelves;
        let (count, start) = (shelves.len(), self.load_cursor % shelves.len().max(1));
        let mut passed = 0;
        let fits_somewhere = || shelves.iter().any(|node| !self.is_too_small(*node, model));
        let mut knows_fit = None;
        for step in 0..count.min(MOST_PASSED_OVER + MOST_CANDIDATES) {
            passed = step + 1;
            let id = shelves[(start + step) % count];
            let node = &self.fleet[id];
            let Some(instance) = node.instance(model) else { continue };
            // No slots are this gateway's share of the node: a load there would serve only others.
            let may_load = node.may_load() && instance.slot_count() > 0 && instance.load_again_at <= now.as_secs_f64();
            if !may_load || instance.resident_since.is_some() {
                continue;
            }
            // A model too large for any memory is tried all the same; one that fits elsewhere is loaded there.
            if self.is_too_small(id, model) && *knows_fit.get_or_insert_with(fits_somewhere) {
                continue;
            }
            let Some(room) = self.make_room(id, model, is_impatient, now) else { continue };
            let (load, rates) = (node.load_seconds(instance), Rates::of(node, instance, self.guess));
            let stretch = rates.stretch(f64::from(node.in_flight()));
            options.push(LoadOption { node: id, load, room, rates, stretch, slots: instance.slot_count() });
            if options.len() == MOST_CANDIDATES {
                break;
            }
        }
        if passed < count {
            self.load_cursor = start + passed;
        }
        LoadChoices::of(options)
    }

    /// Whether a model would not fit even if it were alone there.
    fn is_too_small(&self, node: NodeId, model: ModelId) -> bool {
        let node = &self.fleet[node];
        let footprint = node.instance(model).map_or(0, Instance::footprint);
        node.budget().is_some_and(|budget| footprint > budget)
    }

    /// Chooses what to unload from a node so that the model fits; `None` if it cannot be made to fit.
    fn make_room(&self, id: NodeId, model: ModelId, is_impatient: bool, now: Time) -> Option<Room> {
        let node = &self.fleet[id];
        let (Some(budget), Some(wanted)) = (node.budget(), node.instance(model).map(Instance::footprint)) else {
            return Some(Room::default());
        };
        let missing = wanted.saturating_add(node.taken_bytes()).saturating_sub(budget);
        if missing == 0 {
            return Some(Room::default());
        }
        let mut victims: Vec<Victim> = Vec::new();
        for (model, instance) in node.residents() {
            if !instance.is_leaving && !self.is_protected(node, model, instance, is_impatient, now) {
                let regret = self.regret(node, model, instance, now);
                let drain = self.drained_in(node, model, now);
                victims.push(Victim { model, regret, drain, bytes: instance.footprint() });
            }
        }
        // Cheapest first: what others lose, plus the wait until the model has drained.
        victims.sort_by(|a, b| (a.regret + a.drain).total_cmp(&(b.regret + b.drain)));
        let mut freed: u64 = 0;
        let needed = victims.iter().take_while(|victim| {
            let is_needed = freed < missing;
            freed += if is_needed { victim.bytes } else { 0 };
            is_needed
        });
        let needed = needed.count();
        victims.truncate(needed);
        // A model larger than the whole memory is tried alone there, if there is no better node.
        if freed < missing && wanted <= budget {
            return None;
        }
        Some(Room::of(victims, freed.saturating_sub(missing)))
    }

    /// Whether a model has to stay in a node's memory for now.
    pub(crate) fn is_protected(
        &self,
        node: &Node,
        model: ModelId,
        instance: &Instance,
        is_impatient: bool,
        now: Time,
    ) -> bool {
        let (load, now) = (node.load_seconds(instance), now.as_secs_f64());
        let resident = instance.resident_since.map_or(0.0, |since| now - since);
        let is_young = resident < LEAST_RESIDENCE_SECONDS.max(2.0 * load);
        let asked = node.names(model).filter_map(|name| self.models.get(name).demand.asked_at);
        let asked = asked.map(|asked| now - asked).fold(f64::INFINITY, f64::min);
        // Nobody is robbed by unloading it: none runs, none waits, and none has come for the time of two loads.
        let is_unused = instance.running.is_empty() && self.waiting_for(node, model) == 0 && asked > 2.0 * load;
        is_young && !is_impatient && !is_unused
    }

    /// What others lose, in seconds, if a model is unloaded from a node.
    fn regret(&self, node: &Node, model: ModelId, instance: &Instance, now: Time) -> f64 {
        let load = node.load_seconds(instance);
        let demand: f64 = node.names(model).map(|name| self.models.get(name).demand.at(now.as_secs_f64())).sum();
        let coming = (FORESIGHT_SECONDS * demand).min(1.0);
        let waiting = self.waiting_for(node, model) as f64;
        match self.fleet.of(model).hosts.len() {
            0 | 1 => REGRET * load * (coming + waiting),
            copies => {
                let lost = REGRET * REGRET_OF_COPY * load * (coming + waiting.min(WAITING_FOR_COPY));
                lost / (copies as f64 - 1.0) + self.lost_behind(node, model, instance)
            }
        }
    }

    /// How much longer the users beyond the look-ahead would wait for a model if it had no slots on this node.
    fn lost_behind(&self, node: &Node, model: ModelId, instance: &Instance) -> f64 {
        let (slots, own) = (self.fleet.of(model).slots, instance.slot_count());
        let (users, output) = (self.users_behind(model), self.models.get(model).output.mean());
        let token = node.token_seconds(instance, self.guess);
        let service = output * token * node.speed.stretch(f64::from(node.in_flight().saturating_sub(1)));
        let round = |slots: usize| users as f64 * service / slots.max(1) as f64;
        round(slots.saturating_sub(own)) - round(slots)
    }
}

impl Room {
    /// Keeps only the victims that are needed: a small one chosen first may be unnecessary after a large one chosen
    /// later.
    fn of(victims: Vec<Victim>, mut spare: u64) -> Self {
        let mut room = Self::default();
        for victim in victims.into_iter().rev() {
            if victim.bytes <= spare {
                spare -= victim.bytes;
                continue;
            }
            room.regret += victim.regret;
            room.drain = room.drain.max(victim.drain);
            room.victims.push(victim.model);
        }
        room
    }
}
