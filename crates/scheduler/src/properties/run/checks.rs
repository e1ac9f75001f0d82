//! What must hold after each decision of a random run, and between two steps?
use super::*;

impl Run {
    pub(crate) fn account(&mut self, decision: &Decision) {
        match decision {
            Decision::Dispatch { id, node, attempt } => {
                let known = self.known.get_mut(id).expect("only live requests are dispatched");
                assert!(known.node.is_none() && !known.has_first_byte, "sent twice, or after its first byte");
                known.attempts += 1;
                assert!(*attempt == known.attempts && *attempt <= 3 + known.excused);
                known.node = Some(node.0);
                let model = known.model;
                let is_leaving = |model: usize| self.errands.contains(&Errand::Unload(node.0, model));
                let is_any = self.same(node.0, model).into_iter().any(is_leaving);
                assert!(!is_any, "sent to a model that is being unloaded");
            }
            Decision::Refuse { id, refusal } => {
                let known = self.known.remove(id).expect("only live requests are refused");
                assert!(known.node.is_none() && self.ended.insert(*id));
                let is_overdue = known.deadline <= self.now;
                assert!(refusal.reason != RefusalReason::DeadlinePassed || is_overdue);
                assert!(refusal.retry_after >= Duration::from_secs(1));
                assert!(refusal.retry_after <= Duration::from_secs(120));
            }
            Decision::Abandon { id } => {
                let known = self.known.get_mut(id).expect("only live requests are broken off");
                assert!(known.node.is_some() && !known.is_abandoned, "broken off twice");
                known.is_abandoned = known.has_first_byte;
                if !known.has_first_byte {
                    known.excused += 1;
                    known.node = None;
                }
            }
            Decision::Load { node, model, cause } => {
                let model = index_of(model);
                let cause = cause.expect("nobody gives hints here");
                match self.known.get(&cause) {
                    Some(known) => assert_eq!(known.model, model, "a load of another model"),
                    None => {
                        let waits = |known: &Known| known.model == model && known.node.is_none();
                        assert!(!self.known.values().any(waits), "a load of somebody gone, though others wait for it");
                    }
                }
                let is_there = |same: usize| self.memory[node.0].contains(&same);
                let is_known = self.scheduler.fleet[*node].instance(self.scheduler.models.find(LISTED[model]).unwrap());
                let is_known = is_known.is_some_and(|instance| instance.resident_since.is_some());
                assert!(!is_known || !self.same(node.0, model).into_iter().any(is_there), "loaded twice");
                let errand = Errand::Load(node.0, model);
                let loads = |errand: &&Errand| matches!(errand, Errand::Load(at, _) if *at == node.0);
                assert_eq!(self.errands.iter().filter(loads).count(), 0, "one load at a time on a node");
                self.errands.push(errand);
            }
            Decision::Unload { node, model } => {
                let model = index_of(model);
                let runs = |model: usize| !self.running(node.0, model).is_empty();
                assert!(!self.same(node.0, model).into_iter().any(runs), "only what is idle is unloaded");
                self.errands.push(Errand::Unload(node.0, model));
            }
        }
    }

    pub(crate) fn check_conservation(&self) {
        assert_eq!(self.known.len() + self.ended.len(), self.arrived as usize);
        let running = self.known.values().filter(|known| known.node.is_some()).count();
        assert_eq!(self.scheduler.in_flight(), running);
        assert_eq!(self.scheduler.queued(), self.known.len() - running);
        assert_eq!(self.scheduler.queued_by_model().values().sum::<usize>(), self.scheduler.queued());
        let fresh = |user: usize| self.known.values().filter(move |it| it.attempts == 0 && it.user == user).count();
        assert!((0..USERS.len()).map(fresh).sum::<usize>() <= SETTINGS.max_queued);
        assert!((0..USERS.len()).all(|user| fresh(user) <= SETTINGS.max_queued_per_user));
        let costly = self.scheduler.requests.values().filter(|request| request.is_budgeted_retry());
        assert_eq!(costly.count(), self.scheduler.costly_retries);
    }

    /// Where something was sent, no more requests run than there are slots, or one more if their number is learned.
    /// What ran before the number was lowered may go on, but nothing is added.
    pub(super) fn check_slots_after(&self, decision: &Decision) {
        let Decision::Dispatch { id, node, .. } = decision else { return };
        let model = self.known[id].model;
        let known = self.scheduler.models.find(LISTED[model]).and_then(|id| self.scheduler.fleet[*node].instance(id));
        let learned = known.map_or(0, |instance| instance.slot_count());
        let most = self.slots[node.0].map_or(learned + 1, |slots| slots as usize);
        let running: usize = self.same(node.0, model).into_iter().map(|it| self.running(node.0, it).len()).sum();
        assert!(running <= most, "over-commitment on {node:?}");
    }

    /// The scheduler's lists match what the nodes have.
    pub(crate) fn check_occupancy(&self) {
        for (node, view) in self.scheduler.nodes().iter().enumerate() {
            let mut count = 0;
            for (model, listed) in LISTED.iter().enumerate() {
                let id = self.scheduler.models.find(listed);
                let known = id.and_then(|id| self.scheduler.fleet[NodeId(node)].instance(id));
                let running = known.into_iter().flat_map(|instance| &instance.running);
                let running = running.filter(|running| Some(running.model) == id).map(|running| running.id);
                let running: BTreeSet<_> = running.collect();
                assert_eq!(running, self.running(node, model));
                count += running.len();
            }
            assert_eq!(view.in_flight as usize, count);
        }
    }
}
