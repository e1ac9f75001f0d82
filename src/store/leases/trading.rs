//! How are shares traded? For one gateway's own needs, and for the requests that ask.
use std::collections::HashMap;
use std::time::Duration;

use super::broker::{Ask, NotLeased};
use super::line::Line;
use super::{DEADLINE, Leaser, MANY, Mode};
use crate::store::subject::Subject;
use limits::{Amounts, Most};

impl Leaser {
    pub(super) async fn trade(&mut self, mut lines: Vec<Line>) -> Result<(), NotLeased> {
        for lines in lines.chunks_mut(MANY) {
            self.table.trade(lines).await?;
            for line in lines {
                let traded = (&line.holding, line.free);
                line.subject.with(|_, ledger| ledger.take(&line.limits, &line.claim, traded, &line.elsewhere));
                self.written.insert(line.subject.name(), line.holding);
            }
        }
        Ok(())
    }

    /// Trades for all who ask.
    pub(super) async fn answer(&mut self, asks: &mut Vec<Ask>) {
        let result = match (self.mode, self.is_up) {
            (_, false) => Err(NotLeased::Away),
            (Mode::Waiting, true) => Err(NotLeased::NotShared),
            (Mode::Sole | Mode::Sharing, true) => match tokio::time::timeout(DEADLINE, self.trade_for(asks)).await {
                Ok(result) => result,
                Err(_) => Err(NotLeased::Away),
            },
        };
        for ask in asks.drain(..) {
            let answer = match &result {
                Ok(()) => Ok(()),
                Err(NotLeased::NotShared) => Err(NotLeased::NotShared),
                // Nobody can be told, so that what is held may be used to the end.
                Err(_) if ask.need.is_some() && declare_all(&ask.subjects) => Ok(()),
                Err(_) => Err(NotLeased::Away),
            };
            // Whoever asked may have left.
            let _ = ask.done.send(answer);
        }
    }

    async fn trade_for(&mut self, asks: &[Ask]) -> Result<(), NotLeased> {
        let now = self.clock.now();
        let mut needs: HashMap<String, (Subject, Option<Amounts>)> = HashMap::new();
        for ask in asks {
            for subject in &ask.subjects {
                let (_, sum) = needs.entry(subject.name()).or_insert_with(|| (subject.clone(), None));
                *sum = ask.need.map(|need| sum.unwrap_or_default().plus(need)).or(*sum);
            }
        }
        let is_sole = self.mode == Mode::Sole;
        let until = if is_sole { Duration::MAX } else { self.until };
        let lines = needs.into_values().filter_map(|(subject, need)| {
            // One that was made a moment ago has no share yet.
            subject.with(|_, ledger| ledger.extend(until, now));
            let block = need.map(|_| subject.with(|limits, _| Most::of(limits, self.percent).free));
            let need = if is_sole { Some(Amounts::all()) } else { need };
            Line::of(subject, None, block.unwrap_or_default(), need.unwrap_or_default(), now)
        });
        self.trade(lines.collect()).await
    }
}

/// Whether there is more to be used now than before, of any.
fn declare_all(subjects: &[Subject]) -> bool {
    subjects.iter().fold(false, |more, subject| subject.with(|_, ledger| ledger.declare_all()) | more)
}
