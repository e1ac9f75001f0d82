//! Why did a request wait? When it was sent, and which faults fell into its wait.
use std::time::Duration;

use serde_json::{Value, json};

/// A fault goes on having effects for this long after its end.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How many of the longest waits are kept.
const SHOWN: usize = 10;

/// What was done to one gateway, or to Postgres. Times are since the start of the run.
pub struct Fault {
    pub what: &'static str,
    /// The gateway that was struck; any, if Postgres was.
    pub gateway: usize,
    /// Whether the gateway's process did nothing all the while.
    pub is_pause: bool,
    pub from: Duration,
    pub to: Duration,
}

/// A request that was answered. Times are since the start of the run.
pub struct Wait {
    pub gateway: usize,
    /// When it was sent.
    pub from: Duration,
    /// When its first byte came.
    pub to: Duration,
}

impl Wait {
    /// Whether the fault fell into this wait.
    pub fn met(&self, fault: &Fault) -> bool {
        fault.from < self.to && self.from < fault.to + AFTERMATH
    }

    /// How long it waited while its own gateway was not paused: a process that is paused answers nobody.
    pub fn awake(&self, faults: &[Fault]) -> Duration {
        let paused = self.own_pauses(faults).map(|pause| pause.to.min(self.to) - pause.from.max(self.from));
        (self.to - self.from).saturating_sub(paused.sum())
    }

    /// How long it waited since the last fault began, or since its own gateway was woken.
    pub fn since_fault(&self, faults: &[Fault]) -> Duration {
        let begun = faults.iter().map(|fault| fault.from).filter(|from| *from < self.to);
        let woken = self.own_pauses(faults).map(|pause| pause.to.min(self.to));
        self.to - begun.chain(woken).fold(self.from, Duration::max)
    }

    fn own_pauses<'a>(&'a self, faults: &'a [Fault]) -> impl Iterator<Item = &'a Fault> {
        let is_own = |fault: &&Fault| fault.is_pause && fault.gateway == self.gateway;
        faults.iter().filter(is_own).filter(|pause| pause.from < self.to && self.from < pause.to)
    }
}

/// The requests that waited longest, whole waits and those with an awake gateway, each with its faults.
pub fn slowest(waits: &[Wait], faults: &[Fault]) -> Value {
    let longest = |of: &dyn Fn(&Wait) -> Duration| {
        let mut waits: Vec<&Wait> = waits.iter().collect();
        waits.sort_by_key(|wait| std::cmp::Reverse(of(wait)));
        waits.into_iter().take(SHOWN).map(|wait| shown(wait, faults)).collect::<Vec<_>>()
    };
    json!({"in_all": longest(&|wait| wait.to - wait.from), "awake": longest(&|wait| wait.awake(faults))})
}

fn shown(wait: &Wait, faults: &[Fault]) -> Value {
    let ms = |time: Duration| time.as_millis() as u64;
    let met = faults.iter().filter(|fault| wait.met(fault)).map(
        |fault| json!({"what": fault.what, "gateway": fault.gateway, "from_ms": ms(fault.from), "to_ms": ms(fault.to)}),
    );
    json!({
        "gateway": wait.gateway, "sent_ms": ms(wait.from), "first_byte_ms": ms(wait.to), "waited_ms": ms(wait.to - wait.from),
        "awake_ms": ms(wait.awake(faults)), "since_fault_ms": ms(wait.since_fault(faults)),
        "faults": met.collect::<Vec<_>>(),
    })
}

#[test]
fn a_wait_leaves_out_the_pause_of_its_own_gateway_only() {
    let seconds = Duration::from_secs;
    let pause = Fault { what: "pause", gateway: 0, is_pause: true, from: seconds(1), to: seconds(11) };
    let kill = Fault { what: "kill", gateway: 1, is_pause: false, from: seconds(13), to: seconds(20) };
    let faults = [pause, kill];
    let own = Wait { gateway: 0, from: seconds(2), to: seconds(12) };
    assert_eq!((own.awake(&faults), own.since_fault(&faults)), (seconds(1), seconds(1)));
    let other = Wait { gateway: 1, from: seconds(2), to: seconds(12) };
    assert_eq!((other.awake(&faults), other.since_fault(&faults)), (seconds(10), seconds(10)));
    let both = Wait { gateway: 0, from: seconds(10), to: seconds(18) };
    assert_eq!((both.awake(&faults), both.since_fault(&faults)), (seconds(7), seconds(5)));
    assert!(both.met(&faults[0]) && both.met(&faults[1]) && !own.met(&faults[1]));
}
