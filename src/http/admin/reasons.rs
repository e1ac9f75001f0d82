//! What spoke for the node that a request went to, beside the seconds expected there? In sentences.
use scheduler::{Alternative, Backlog, Step, Story, What};

/// What the queue contributed and what was expected in the cache, each sentence with a space before it. `sent` is the
/// step in which it was dispatched, and `taken` is where it went.
pub(super) fn reasons(story: &Story, sent: Option<&Step>, taken: Option<(&Alternative, &str)>) -> String {
    let slot = sent.and_then(|step| step.backlog).and_then(|backlog| slot_taken_for_the_queue(&backlog));
    let cached = taken.and_then(|(taken, node)| cached(taken.prompt, taken.cached, node));
    let reasons = [slot, load_for_the_queue(story), cached].into_iter().flatten();
    reasons.map(|reason| format!(" {reason}")).collect()
}

/// How much of the prompt its node did not have to read.
fn cached(prompt: f64, cached: f64, node: &str) -> Option<String> {
    let (prompt, cached) = (prompt.round() as u64, cached.round() as u64);
    let sentence = || {
        let (cached, prompt) = (thousands(cached), thousands(prompt));
        format!("{cached} of {prompt} prompt tokens were expected in {node}'s cache.")
    };
    (cached > 0).then(sentence)
}

/// Why it did not wait for a faster node, if the queue was the reason.
fn slot_taken_for_the_queue(backlog: &Backlog) -> Option<String> {
    let served = backlog.absorbed?;
    let served = if served == 0 { "none".to_owned() } else { thousands(served as u64) };
    let waiting = thousands(backlog.waiting as u64);
    Some(format!(
        "It did not wait for a faster node: of {waiting} requests for the same model, the slots in use could have \
         served {served} sooner."
    ))
}

/// What spoke for the load that it caused, if those behind it did.
fn load_for_the_queue(story: &Story) -> Option<String> {
    let load = story.steps.iter().rev().find(|step| matches!(step.what, What::AskedForLoad(_)))?;
    let backlog = load.backlog.filter(|backlog| backlog.users_behind > 0 && backlog.behind_seconds >= 0.05)?;
    let behind = match backlog.users_behind {
        1 => "1 user behind it uses".to_owned(),
        users => format!("{} users behind it use", thousands(users as u64)),
    };
    Some(format!(
        "{behind} the same model and would have waited {:.1} s longer without the load.",
        backlog.behind_seconds
    ))
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn backlog(waiting: usize) -> Backlog {
        Backlog { waiting, ahead: 0, absorbed: None, users_behind: 0, behind_seconds: 0.0 }
    }

    fn asked_for_load(backlog: Backlog) -> Story {
        let what = What::AskedForLoad(scheduler::NodeId(0));
        let step = Step { at: Duration::ZERO, what, alternatives: Vec::new(), backlog: Some(backlog) };
        Story { arrived: Duration::ZERO, ahead: 0, expected: None, foretold: None, steps: vec![step] }
    }

    #[test]
    fn all_reasons_follow_one_another() {
        let story = asked_for_load(Backlog { users_behind: 2, behind_seconds: 1.0, ..backlog(9) });
        let sent = Step { backlog: Some(Backlog { absorbed: Some(0), ..backlog(9) }), ..story.steps[0].clone() };
        assert_eq!(
            reasons(&story, Some(&sent), None),
            " It did not wait for a faster node: of 9 requests for the same model, the slots in use could have served \
             none sooner. 2 users behind it use the same model and would have waited 1.0 s longer without the load."
        );
    }

    #[test]
    fn what_was_expected_in_the_cache_is_said_and_nothing_otherwise() {
        let said = cached(3400.4, 3100.0, "fast");
        assert_eq!(said.as_deref(), Some("3,100 of 3,400 prompt tokens were expected in fast's cache."));
        assert_eq!(cached(3400.0, 0.0, "fast"), None);
    }

    #[test]
    fn a_slot_taken_because_of_the_queue_names_those_who_wait() {
        let said = slot_taken_for_the_queue(&Backlog { absorbed: Some(7), ..backlog(1200) });
        assert_eq!(
            said.as_deref(),
            Some(
                "It did not wait for a faster node: of 1,200 requests for the same model, the slots in use could have \
                 served 7 sooner."
            )
        );
        assert_eq!(slot_taken_for_the_queue(&backlog(1200)), None, "it was its own choice");
    }

    #[test]
    fn a_load_names_the_users_behind_if_they_would_have_waited_longer() {
        let behind = |users_behind, behind_seconds| {
            load_for_the_queue(&asked_for_load(Backlog { users_behind, behind_seconds, ..backlog(20) }))
        };
        let said = "12 users behind it use the same model and would have waited 2.7 s longer without the load.";
        assert_eq!(behind(12, 2.7).as_deref(), Some(said));
        let said = "1 user behind it uses the same model and would have waited 2.7 s longer without the load.";
        assert_eq!(behind(1, 2.7).as_deref(), Some(said));
        assert_eq!((behind(0, 2.7), behind(12, 0.01)), (None, None));
    }
}
