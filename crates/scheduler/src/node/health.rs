//! What do requests and probes say about a node's health?

use std::time::Duration;

use super::Node;
use crate::{
    accusations::Accusation,
    breaker::Epoch,
    catalog::NodeSpec,
    failure::{Blame, CanaryVerdict, Failure},
    ids::{RequestId, Route, Time},
    model::ModelId,
    running::Running,
    slots::Slots,
};

/// How long a node that answered that it is busy gets no new request.
const BUSY_BACK_OFF: Duration = Duration::from_secs(1);
/// Requests that a node takes at a time after its return; each answer that begins doubles the number.
const FIRST_RAMP: u32 = 1;
const WHOLE_RAMP: u32 = 64;

/// The back-off after a failed load; each further failure doubles it.
const FIRST_BACK_OFF_SECONDS: f64 = 10.0;
const LONGEST_BACK_OFF_SECONDS: f64 = 300.0;

/// A failed attempt.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Failed<'a> {
    pub(crate) accusation: Accusation<'a>,
    pub(crate) model: ModelId,
    pub(crate) route: Route,
    pub(crate) failure: Failure,
    /// The epoch of its dispatch.
    pub(crate) epoch: Epoch,
}

impl Node {
    /// A request is sent here.
    pub(crate) fn occupy(&mut self, model: ModelId, running: Running) -> Epoch {
        self.use_estimates(model, running.sent_at);
        self.in_flight += 1;
        let id = running.id;
        if let Some(instance) = self.instance_mut(model) {
            instance.slots.sent(id, instance.running.len());
            instance.running.push(running);
        }
        self.settle_active(self.main(model));
        self.breaker.dispatched(id)
    }

    /// A request is about to use what is estimated here.
    fn use_estimates(&mut self, model: ModelId, now: f64) {
        self.used_at = now;
        if self.in_flight == 0 {
            self.speed.drift.used();
        }
        if let Some(instance) = self.instance_mut(model) {
            instance.used_at = now;
            if instance.running.is_empty() {
                instance.prefill.drift.used();
                instance.correction.drift.used();
            }
        }
    }

    /// A request runs here that another gateway's scheduler sent.
    pub(crate) fn resume(&mut self, model: ModelId, running: Running) -> Epoch {
        self.use_estimates(model, running.heard_at);
        self.in_flight += 1;
        let id = running.id;
        if let Some(instance) = self.instance_mut(model) {
            // It brings the slot that it holds with it, and says nothing about the number of slots.
            instance.ceiling = instance.ceiling.map(|held| held.saturating_add(1));
            instance.running.push(running);
        }
        self.settle_active(self.main(model));
        self.breaker.dispatched(id)
    }

    /// A request sent here is over; `is_whole` if its answer came to its end.
    pub(crate) fn vacate(&mut self, id: RequestId, model: ModelId, is_whole: bool, now: Time) -> Option<Running> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.used_at = now.as_secs_f64();
        self.breaker.released(id);
        let instance = self.instance_mut(model)?;
        instance.used_at = now.as_secs_f64();
        let running = instance.take_running(id)?;
        instance.slots.ended(&running, is_whole, &instance.running, now.as_secs_f64());
        self.settle_active(self.main(model));
        Some(running)
    }

    /// A request was sent here. `attempt` starts at 1.
    pub(crate) fn count_routed(&mut self, attempt: u32, caused_load: bool) {
        match (attempt, caused_load) {
            (1, false) => self.routed.warm += 1,
            (1, true) => self.routed.cold += 1,
            _ => self.routed.fallback += 1,
        }
    }

    /// The first byte of an answer came.
    pub(crate) fn started(&mut self, epoch: Epoch, now: Time) {
        self.worked_at = Some(now);
        self.breaker.started(epoch);
        self.ramp = self.ramp.map(|ramp| ramp * 2).filter(|ramp| *ramp < WHOLE_RAMP);
        self.forget_error_when_up();
    }

    /// A whole answer came.
    pub(crate) fn completed(&mut self, epoch: Epoch, now: Time) {
        self.completed += 1;
        self.breaker.succeeded(epoch);
        self.started(epoch, now);
    }

    /// An attempt failed after its first byte.
    pub(crate) fn broke_off(&mut self, failed: Failed<'_>, now: Time) {
        self.failed += 1;
        match failed.failure.blame() {
            Blame::Undecided => self.breaker.broke_off(failed.accusation, failed.epoch, now),
            _ => self.blame(failed, now),
        }
        self.note_error(failed.failure);
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, failed: Failed<'_>, now: Time) {
        self.failed += 1;
        self.blame(failed, now);
        self.note_error(failed.failure);
    }

    fn blame(&mut self, Failed { accusation, model, route, failure, epoch }: Failed<'_>, now: Time) {
        match failure {
            Failure::Busy => {
                self.busy_until = Some(now + BUSY_BACK_OFF);
                if let Some(instance) = self.instance_mut(model) {
                    instance.slots.overrun(instance.running.len(), now.as_secs_f64());
                }
            }
            // The next request would fail for the same reason.
            Failure::Starved => self.busy_until = Some(now + BUSY_BACK_OFF),
            Failure::Missing => self.forget(model),
            Failure::Unsupported => self.routes = self.routes.without(route),
            Failure::Unloadable => self.could_not_load(model, failure, now),
            Failure::Unreachable => self.breaker.unreachable(epoch, now),
            // Whoever found that out has judged the node by everything that runs there.
            Failure::Silent => {}
            Failure::Denied => self.breaker.failed(epoch, now),
            Failure::Reset | Failure::Crashed | Failure::TimedOut | Failure::Garbled | Failure::Stuck => {
                self.breaker.accused(accusation, epoch, now);
            }
        }
    }

    /// Another node answered a request that had failed here.
    pub(crate) fn convicted(&mut self, user: &str, failure: Failure, epoch: Epoch, now: Time) {
        self.breaker.convicted(user, failure, epoch, now);
        self.note_error(failure);
    }

    fn note_error(&mut self, failure: Failure) {
        if matches!(failure.blame(), Blame::Node | Blame::Undecided) {
            self.last_error = Some(failure.to_string());
            self.forget_error_when_up();
        }
        self.went_out();
    }

    /// A model could not be loaded: it is not tried again for a while, which doubles with every failure.
    pub(crate) fn could_not_load(&mut self, model: ModelId, failure: Failure, now: Time) {
        let Some(instance) = self.instance_mut(model) else { return };
        instance.last_load_failure = Some(failure);
        instance.load_failures += 1;
        let doubled = f64::from(instance.load_failures - 1).min(10.0).exp2();
        let back_off = (FIRST_BACK_OFF_SECONDS * doubled).min(LONGEST_BACK_OFF_SECONDS);
        instance.load_again_at = now.as_secs_f64() + back_off;
        self.layouts += 1;
        self.set_resident(model, None);
    }

    /// It produces no tokens, although it may answer probes.
    pub(crate) fn fell_silent(&mut self, now: Time) {
        self.breaker.fell_silent(now);
        self.last_error = Some(Failure::Silent.to_string());
        self.went_out();
    }

    /// Whether the gateway should try the node itself now: nothing else goes on there.
    pub(crate) fn is_canary_due(&self, now: Time) -> bool {
        let is_wanted = !self.has_left && !self.is_draining && self.spec.slots != Some(0);
        is_wanted && self.in_flight == 0 && self.load.is_none() && self.breaker.is_canary_due(now)
    }

    /// A canary ended.
    pub(crate) fn canary_ended(&mut self, verdict: CanaryVerdict, now: Time) {
        self.breaker.canary_ended(verdict, now);
        if verdict == CanaryVerdict::Failed && !self.breaker.is_live() {
            self.last_error = Some("it did not answer the gateway's own request".to_owned());
        }
        self.went_out();
        self.forget_error_when_up();
    }

    pub(crate) fn fail_load(&mut self, failure: Failure) {
        self.last_error = Some(format!("could not load a model: it {failure}"));
    }

    /// Called after anything that may have taken the node out. It comes back gradually, and its next report says what
    /// is in its memory then.
    fn went_out(&mut self) {
        if !self.breaker.is_live() {
            self.ramp = Some(FIRST_RAMP);
            for model in self.active.clone() {
                self.set_resident(model, None);
            }
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

    /// When the node's back-off ends, if it is in one.
    pub(crate) fn closed_until(&self) -> Option<Time> {
        self.busy_until.into_iter().chain(self.quiet_until).max()
    }

    /// It gets no new request until then, or until it sends a token.
    pub(crate) fn rest(&mut self, until: Time) {
        self.quiet_until = Some(until);
    }

    /// Whether its streams are overdue.
    pub(crate) fn is_quiet(&self, now: Time) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    /// Ends a back-off that has passed.
    pub(crate) fn end_back_off(&mut self, now: Time) {
        self.busy_until = self.busy_until.filter(|until| *until > now);
        self.quiet_until = self.quiet_until.filter(|until| *until > now);
    }

    pub(crate) fn reconfigure(&mut self, spec: NodeSpec) {
        if spec.slots != self.spec.slots {
            for instance in self.instances.iter_mut().flatten() {
                instance.slots = Slots::new(spec.slots);
            }
        }
        self.spec = spec;
    }

    fn forget_error_when_up(&mut self) {
        if self.breaker.is_faultless() {
            self.last_error = None;
        }
    }
}
