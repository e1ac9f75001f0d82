//! What do the nodes do as time passes? They answer, load, unload, write, freeze and die.
use super::*;

impl Fleet {
    /// A node is away for a while, and its memory is lost.
    pub(crate) fn kill(&mut self, machine: usize, lasting: Duration) {
        let dead = &mut self.machines[machine];
        dead.dead_until = self.now + lasting;
        dead.resident.clear();
        for id in dead.running() {
            self.fail(id, Failure::Reset);
        }
    }

    pub(super) fn say_residents(&mut self, machine: usize) {
        let machine = &self.machines[machine];
        let loaded = |model: &usize| Loaded { name: name(*model), vram_bytes: BYTES, context_length: None };
        let loaded = machine.resident.iter().map(loaded).collect();
        self.hear(Event::Resident { node: machine.id, loaded });
    }

    /// Advances the time by a tenth of a second.
    pub(crate) fn step(&mut self) {
        self.now += TICK;
        self.ticks += 1;
        for machine in 0..self.machines.len() {
            if self.machines[machine].dead_until > self.now {
                self.be_dead(machine);
            } else if self.machines[machine].frozen_until > self.now {
                self.say_silent(machine);
            } else {
                self.live(machine);
            }
        }
        if self.scheduler.next_deadline().is_some_and(|due| due <= self.now) {
            self.hear(Event::Tick);
        }
        self.check_occupancy();
    }

    fn be_dead(&mut self, machine: usize) {
        let node = self.machines[machine].id;
        if let Some((model, _)) = self.machines[machine].loading.take() {
            let (model, result) = (name(model).as_str().into(), Err(Failure::Unreachable));
            self.hear(Event::Loaded { node, model, result });
        }
        for model in std::mem::take(&mut self.machines[machine].unloaded) {
            self.hear(Event::Unloaded { node, model: name(model).as_str().into(), result: Err(Failure::Unreachable) });
        }
        for id in self.machines[machine].running() {
            self.fail(id, Failure::Unreachable);
        }
        self.say_silent(machine);
    }

    fn say_silent(&mut self, machine: usize) {
        if self.ticks.is_multiple_of(5 * TICKS_A_SECOND) {
            self.hear(Event::Silent { node: self.machines[machine].id, error: "refused".into() });
        }
    }

    fn live(&mut self, machine: usize) {
        let (ticks, node) = (self.ticks, self.machines[machine].id);
        for model in std::mem::take(&mut self.machines[machine].unloaded) {
            self.hear(Event::Unloaded { node, model: name(model).as_str().into(), result: Ok(()) });
        }
        if let Some((model, left)) = &mut self.machines[machine].loading {
            *left -= 1;
            if *left == 0 {
                let model = *model;
                self.machines[machine].loading = None;
                self.machines[machine].resident.insert(model);
                self.hear(Event::Loaded { node, model: name(model).as_str().into(), result: Ok(()) });
            }
        }
        if ticks.is_multiple_of(2 * TICKS_A_SECOND) {
            self.say_residents(machine);
        }
        if ticks.is_multiple_of(5 * TICKS_A_SECOND) {
            self.hear(Event::Answered { node });
        }
        for id in self.machines[machine].running() {
            self.work(machine, id);
        }
    }

    /// Gives a request one tick of its node's time, if it is in a slot.
    fn work(&mut self, machine: usize, id: RequestId) {
        let Some(asked) = self.asked.get(&id) else { return };
        let (model, output) = (asked.ask.model, asked.ask.output);
        let machine = &mut self.machines[machine];
        let jobs = machine.jobs.get_mut(&model);
        let Some(job) = jobs.and_then(|jobs| jobs.iter_mut().take(machine.slots).find(|job| job.id == id)) else {
            return;
        };
        job.ticks += 1;
        if job.to_read > 0 {
            job.to_read = job.to_read.saturating_sub(machine.reading * machine.tokens);
            return;
        }
        machine.written += machine.tokens.min(output - job.written);
        job.written = output.min(job.written + machine.tokens);
        let (tokens, is_first) = (job.written, !std::mem::replace(&mut job.has_begun, true));
        let is_told = job.ticks.is_multiple_of(TICKS_A_SECOND);
        if is_first {
            if let Some(asked) = self.asked.get_mut(&id) {
                asked.began_at = Some(self.now);
            }
            self.hear(Event::FirstByte { id });
        }
        if tokens == output {
            self.hear(Event::Progress { id, tokens });
            self.take_job(id);
            self.end(id, Outcome::Completed);
        } else if is_told {
            self.hear(Event::Progress { id, tokens });
        }
    }

    /// P8.
    fn check_occupancy(&self) {
        for machine in &self.machines {
            let instances = self.scheduler.fleet[machine.id].instances();
            let mut listed: Vec<_> = instances.flat_map(|(_, it)| it.running.iter().map(|it| it.id)).collect();
            let mut running = machine.running();
            listed.sort();
            running.sort();
            assert_eq!(listed, running);
        }
    }
}
