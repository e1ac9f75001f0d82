//! How does a follower speak with its leader?

use std::{sync::Arc, time::Duration};

use scheduler::{Decision, Event, Failure, RequestId, Time};

use crate::{
    frame::{Frame, Travelling},
    ledger::adopted,
    member::Member,
    role::{Effect, Role},
};

impl Member {
    /// A frame came on the link with this gateway. The shell passes on only what comes on a link that stands.
    pub fn said(&mut self, gateway: &Arc<str>, frame: Frame, now: Time) -> Vec<Effect> {
        let mut effects = self.tick(now);
        match &self.role {
            Role::Leading { .. } => self.hear_follower(gateway, frame, now, &mut effects),
            Role::Following { leader, .. } if leader == gateway => {
                self.leader_heard(gateway, now, &mut effects);
                if matches!(frame, Frame::Pong { .. }) {
                    self.is_known(now);
                }
                self.hear_leader(frame, now, &mut effects);
            }
            // The other side believes in a link that counts for nothing here.
            _ => effects.push(Effect::Close { gateway: gateway.clone() }),
        }
        effects
    }

    fn hear_leader(&mut self, frame: Frame, now: Time, effects: &mut Vec<Effect>) {
        match frame {
            Frame::Grant { id, node, attempt, takes, foreseen } => {
                self.granted((id, &node, attempt), now + takes, now, effects);
                self.ledger.foresee(id, attempt, foreseen);
            }
            Frame::Refuse { id, refusal } if self.ledger.get(id).is_some() => {
                self.ledger.end(id);
                effects.push(Effect::Decided(Decision::Refuse { id, refusal }));
            }
            Frame::Abandon { id } => {
                let Some(sent) = self.ledger.sent_mut(id) else { return };
                // A request whose client has its first byte cannot wait again: it ends with the attempt.
                if sent.began_at.is_none() {
                    self.ledger.wait(id);
                }
                effects.push(Effect::Decided(Decision::Abandon { id }));
            }
            Frame::Began { id, attempt, goes_on } => {
                let is_current = self.ledger.runs(id, attempt);
                let Some(sent) = self.ledger.sent_mut(id).filter(|sent| is_current && sent.is_asked) else { return };
                sent.is_asked = false;
                if goes_on {
                    sent.began_at = Some(now);
                } else {
                    self.ledger.wait(id);
                }
                effects.push(Effect::Began { id, attempt, goes_on });
            }
            _ => {}
        }
    }

    /// The leader grants a slot. Every grant is used or answered, unless the request has left: the leader hears of that.
    /// `until`: when the attempt should be over.
    fn granted(
        &mut self,
        (id, name, attempt): (RequestId, &str, u32),
        until: Time,
        now: Time,
        effects: &mut Vec<Effect>,
    ) {
        let Role::Following { leader, .. } = &self.role else { return };
        let gateway = leader.clone();
        if self.ledger.get(id).is_none_or(|carried| carried.sent.is_some()) {
            return;
        }
        match self.scheduler.find_node(name) {
            Some(node) => {
                self.ledger.send(id, name.into(), attempt, now, until);
                effects.push(Effect::Decided(Decision::Dispatch { id, node, attempt }));
            }
            None => {
                let frame = Frame::Failed { id, attempt, failure: Failure::Unreachable };
                effects.push(Effect::Say { gateway, frame });
            }
        }
    }

    /// There is no leader any more: all that this gateway carries is its own scheduler's. An attempt that has a slot here
    /// goes on; if the leader had ended it, it would have said so before it fell silent.
    pub(crate) fn schedule_own(&mut self, goes_on: bool, now: Time, effects: &mut Vec<Effect>) {
        let asked = self.ledger.answer_asked(goes_on, now).into_iter();
        effects.extend(asked.map(|(id, attempt)| Effect::Began { id, attempt, goes_on }));
        for reported in self.ledger.report(now) {
            if let Some(adopted) = adopted(reported, &self.scheduler, now) {
                self.decide(Event::Adopted(Box::new(adopted)), now, effects);
            }
        }
    }

    /// What the leader must hear of an event; `None` if it is not about a live request.
    pub(crate) fn frame(&self, event: &Event, now: Time) -> Option<Frame> {
        Some(match event {
            Event::Arrived(arrival) => Frame::Arrived {
                request: Travelling::from(arrival),
                patience: arrival.deadline.checked_sub(now).unwrap_or(Duration::ZERO),
            },
            Event::Wanted { model } => Frame::Wanted { model: model.to_string() },
            Event::Progress { id, tokens } => {
                self.ledger.get(*id)?;
                Frame::Progress { id: *id, tokens: *tokens }
            }
            Event::Worked { id, time, writing } => {
                self.ledger.get(*id)?;
                Frame::Worked { id: *id, time: *time, writing: *writing }
            }
            Event::Stalled { id } => {
                self.ledger.get(*id)?.sent.as_ref()?;
                Frame::Stalled { id: *id }
            }
            Event::Failed { id, failure } => {
                let carried = self.ledger.get(*id).filter(|carried| carried.sent.is_some())?;
                Frame::Failed { id: *id, attempt: carried.attempts, failure: *failure }
            }
            Event::Left { id, outcome } => {
                self.ledger.get(*id)?;
                Frame::Left { id: *id, outcome: *outcome }
            }
            _ => return None,
        })
    }
}
