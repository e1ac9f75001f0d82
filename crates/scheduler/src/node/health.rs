//! What do requests and probes tell of a node?

use std::time::Duration;

use super::Node;
use crate::{
    breaker::Epoch,
    catalog::NodeSpec,
    failure::Failure,
    ids::{RequestId, Time},
    instance::Running,
    model::ModelId,
    slots::Slots,
};

/// How long a node that called itself busy is left alone.
const BUSY_BACK_OFF: Duration = Duration::from_secs(1);
/// After its return a node takes so many at first, and twice as many with every answer that begins.
const FIRST_RAMP: u32 = 1;
const WHOLE_RAMP: u32 = 64;

impl Node {
    // What happens to it.

    /// A request is sent here.
    pub(crate) fn occupy(&mut self, model: ModelId, running: Running) -> Epoch {
        self.in_flight += 1;
        let id = running.id;
        if let Some(instance) = self.instance_mut(model) {
            if instance.running.len() >= instance.slot_count() {
                instance.slots.probing(id);
            }
            instance.running.push(running);
        }
        self.breaker.dispatched(id)
    }

    /// A request sent here is over.
    pub(crate) fn vacate(&mut self, id: RequestId, model: ModelId) -> Option<Running> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.breaker.released(id);
        let instance = self.instance_mut(model)?;
        let index = instance.running.iter().position(|running| running.id == id)?;
        instance.slots.ended(id);
        Some(instance.running.swap_remove(index))
    }

    /// A request was sent here, in its so-manieth attempt.
    pub(crate) fn count_routed(&mut self, attempt: u32, caused_load: bool) {
        match (attempt, caused_load) {
            (1, false) => self.routed.warm += 1,
            (1, true) => self.routed.cold += 1,
            _ => self.routed.fallback += 1,
        }
    }

    /// The first byte of an answer came.
    pub(crate) fn started(&mut self, epoch: Epoch) {
        self.breaker.started(epoch);
        self.ramp = self.ramp.map(|ramp| ramp * 2).filter(|ramp| *ramp < WHOLE_RAMP);
        self.forget_error_when_up();
    }

    /// A whole answer came.
    pub(crate) fn completed(&mut self, epoch: Epoch) {
        self.completed += 1;
        self.breaker.succeeded(epoch);
        self.started(epoch);
    }

    /// An attempt failed after its first byte.
    pub(crate) fn broke_off(&mut self, failure: Failure, epoch: Epoch, now: Time) {
        self.failed += 1;
        self.breaker.broke_off(epoch, now);
        self.last_error = Some(failure.to_string());
        self.went_out();
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, model: ModelId, failure: Failure, epoch: Epoch, now: Time) {
        self.failed += 1;
        match failure {
            Failure::Busy => {
                self.busy_until = Some(now + BUSY_BACK_OFF);
                if let Some(instance) = self.instance_mut(model) {
                    instance.slots.overrun(instance.running.len(), now.as_secs_f64());
                }
            }
            Failure::Missing => self.forget(model),
            Failure::Unreachable | Failure::Silent => self.breaker.unreachable(epoch, now),
            _ => self.breaker.failed(epoch, now),
        }
        if !matches!(failure, Failure::Busy | Failure::Missing) {
            self.last_error = Some(failure.to_string());
            self.forget_error_when_up();
        }
        self.went_out();
    }

    /// It is taken for dead although it answers probes.
    pub(crate) fn fell_silent(&mut self, now: Time) {
        self.breaker.take_out(now);
        self.last_error = Some(Failure::Silent.to_string());
        self.went_out();
    }

    pub(crate) fn fail_load(&mut self, failure: Failure) {
        self.last_error = Some(format!("could not load a model: it {failure}"));
    }

    /// After what may have taken it out: it comes back slowly, and what is in its memory then is for it to say.
    fn went_out(&mut self) {
        if !self.breaker.is_live() {
            self.ramp = Some(FIRST_RAMP);
            self.instances_mut().for_each(|(_, instance)| instance.resident_since = None);
        }
    }

    /// The model is not there although it was listed.
    pub(crate) fn forget(&mut self, model: ModelId) {
        if let Some(instance) = self.instance_mut(model) {
            instance.listing = None;
            instance.resident_since = None;
            self.listings += 1;
        }
    }

    /// A probe was answered.
    pub(crate) fn answered(&mut self, now: Time) {
        self.breaker.answered(now);
        self.forget_error_when_up();
    }

    /// A probe was not answered.
    pub(crate) fn silent(&mut self, error: String, now: Time) {
        self.breaker.silent(now);
        self.last_error = Some(error);
        self.went_out();
    }

    /// When a node that called itself busy is to be asked again.
    pub(crate) fn busy_until(&self) -> Option<Time> {
        self.busy_until
    }

    /// Ends a back-off that has passed.
    pub(crate) fn end_back_off(&mut self, now: Time) {
        self.busy_until = self.busy_until.filter(|until| *until > now);
    }

    pub(crate) fn reconfigure(&mut self, spec: NodeSpec) {
        if spec.slots != self.spec.slots {
            for (_, instance) in self.instances_mut() {
                instance.slots = Slots::new(spec.slots);
            }
        }
        self.spec = spec;
    }
}
