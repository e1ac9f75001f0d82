//! When does a follower give a slot back to its leader, and who has it if the leader has fallen silent?
//!
//! A slot belongs to whoever knows that it is free and may grant it. The end of a request hands its slot from the
//! follower that carried it to the leader. If the leader has been paused by then, nobody can use the slot: the follower
//! has given it away, and the leader grants it only when it is back, at once if the message waits in its socket. So a
//! new leader may not use it either.
//!
//! So a follower gives a slot back only while it knows that the leader is awake, which is 20 ms after it was last
//! heard. Otherwise it *keeps the end back* and asks for a sign of life:
//!
//! ```text
//!                    heard from the leader: the end is said
//!          +-----------------------------------------------> the leader's
//! kept back
//!          +-----------------------------------------------> spare here, and then at the next leader
//!                    link lost: nothing was said
//! ```
//!
//! A *spare* slot is one that a gateway holds under [`Reach::Held`] and nothing runs on. A follower that has lost its
//! leader uses its spare slots for its own requests, and brings what is left of them to the next leader in its report,
//! which uses them for everybody.
//!
//! That no slot is used twice follows from one thing: to all others, an end that is kept back looks as if the request
//! went on. Whatever they do about a running request at this gateway is right for a kept one as well:
//!
//! * *The old leader wakes up inside its lease.* The link still stands: it is heard, and the ends are said. Or the link
//!   is lost: the requests are running in its books, and keep their slots until this gateway reports again or is known
//!   dead, as all that run at a gateway that it has lost.
//! * *It wakes up after its lease.* It stops deciding before anything else, and reports to its successor what runs at
//!   itself. What ran at others was never its to report.
//! * *It is cut off from its followers only.* It leads on with its own slots, and the followers serve their clients with
//!   theirs. When a link stands again, the report says what runs there then, and the spare slots are the leader's.
//! * *It is cut off from the database only.* It is heard, so nothing is kept back.
//! * *A second new leader follows.* The first one brings it the spare slots that it has not granted, as it would as a
//!   follower. If it falls silent itself, they are out of reach until it is back: like what it runs.
//! * *A follower dies that keeps ends back.* Whoever leads finds it dead, or silent for long, and then takes its slots,
//!   as those of all that ran there. Those that it had brought to a leader by then are that leader's: they were in its
//!   report, and it forgot them as it was sent.
//! * *A gateway that was out of contact for too long* may not use what it held, and forgets its spare slots.
//!
//! An attempt whose first byte the leader was asked about goes on when the link is lost, as its slot is held here.
//!
//! What is left: slots that an earlier message gave back and that the leader has not granted again, and those that were
//! free all the time, as in an idle fleet. Only the leader knows whether it has granted such a slot to a client of its
//! own, and no message tells the others before it is awake. To promise them to others nevertheless, it would have to
//! ask for leave each time it grants its own clients a slot. So they stay closed until it is back or counts as gone.

use std::sync::Arc;

use scheduler::{Event, NodeId, Reach, Spare, Time};

use crate::{
    frame::{Frame, FreeSlots},
    kept::Kept,
    member::Member,
    role::Effect,
};

/// The number of the question for a sign of life. The shell counts its own from 1.
pub(crate) const SIGN_OF_LIFE: u64 = 0;

impl Member {
    /// What to tell the leader: the frame itself, unless it would give a slot back to a leader that may be silent.
    pub(crate) fn release(&mut self, frame: Frame, now: Time) -> Frame {
        let slot = self.slot_given_by(&frame).filter(|_| !self.releases.is_awake(now));
        let Some((node, model)) = slot else { return frame };
        self.releases.kept.push(Kept { frame, node, model });
        Frame::Ping { number: SIGN_OF_LIFE }
    }

    fn slot_given_by(&self, frame: &Frame) -> Option<(Arc<str>, Arc<str>)> {
        let Frame::Left { id, .. } = frame else { return None };
        let carried = self.ledger.get(*id)?;
        Some((carried.sent.as_ref()?.node.clone(), carried.arrival.model.clone()))
    }

    /// The leader was heard: it is told what was kept back.
    pub(crate) fn leader_heard(&mut self, leader: &Arc<str>, now: Time, effects: &mut Vec<Effect>) {
        let ends =
            self.releases.heard(now).into_iter().map(|kept| Effect::Say { gateway: leader.clone(), frame: kept.frame });
        effects.extend(ends);
    }

    /// The leader has read this gateway's report, as it answers a question that came after it. Until then it may have given
    /// this gateway up long ago, so a link alone does not count as contact.
    pub(crate) fn is_known(&mut self, now: Time) {
        self.releases.is_reported = true;
        (self.has_lapsed, self.contact_at) = (false, now);
    }

    /// The leader was lost: slots that were not given back to it stay here.
    pub(crate) fn take_kept(&mut self) -> Vec<Spare> {
        let kept = self.releases.take();
        let spare = |Kept { node, model, .. }| Some(Spare { node: self.scheduler.find_node(&node)?, model, slots: 1 });
        kept.into_iter().filter_map(spare).collect()
    }

    /// Holds these slots as well, if it may use what it holds.
    pub(crate) fn hold(&mut self, spare: Vec<Spare>, now: Time, effects: &mut Vec<Effect>) {
        if *self.scheduler.reach() == Reach::Held {
            spare.into_iter().for_each(|spare| self.decide(Event::Spared(spare), now, effects));
        }
    }

    /// The spare slots of this gateway, for the next leader.
    pub(crate) fn free_slots(&self) -> Vec<FreeSlots> {
        let name = |node: NodeId| self.scheduler.node_name(node).map(str::to_owned);
        let spare = self.scheduler.spare_slots().into_iter();
        spare
            .filter_map(|Spare { node, model, slots }| {
                Some(FreeSlots { node: name(node)?, model: model.to_string(), slots })
            })
            .collect()
    }

    /// Free slots that another gateway reports. Those on nodes that are unknown here are nobody's until all have reported.
    pub(crate) fn found(&self, free: Vec<FreeSlots>) -> Vec<Spare> {
        let spare = |FreeSlots { node, model, slots }: FreeSlots| {
            Some(Spare { node: self.scheduler.find_node(&node)?, model: model.into(), slots })
        };
        free.into_iter().filter_map(spare).collect()
    }
}
