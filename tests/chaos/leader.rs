//! Three gateways of which one schedules for all, while each of them, their links and their Postgres are struck again and
//! again. The nodes count what is in flight; clients of gateways that live must not notice more than a wait.
//!
//! `CHAOS_CLUSTER` says how often: so many times SIGTERM, pauses, cuts of a link and cuts of Postgres, and five times as many
//! kills. The long run is
//! `CHAOS_CLUSTER=20 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos leader:: -- --nocapture`.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ollama_sim::SimNode;
use serde_json::{Value, json};

use crate::gateway::{PATIENCE, nodes, until_known, wait_for};
use crate::harm::build;
use crate::load::exchange;
use crate::postgres::Postgres;
use crate::run::{Random, keep, number};
use crate::seat::{GATEWAYS, Seat};
use crate::wait::{Fault, Wait, slowest};

const SLOTS: [usize; 2] = [4, 5];
/// Of each gateway, with one request each at a time: twice as many as there are slots.
const CLIENTS: usize = 6;
/// By when another gateway must lead, on a busy machine too: the lease's 5 s and 3 s more, or 1 s after a SIGTERM, and the
/// time in which such a machine does nothing.
const HANDOVER: [Duration; 2] = [Duration::from_secs(12), Duration::from_secs(5)];

/// For how long a gateway that was paused may refuse its own clients.
const WAKES: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
enum Strike {
    Kill,
    Terminate,
    Pause,
    CutLink,
    CutPostgres,
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    waits: Vec<Wait>,
    /// At a gateway that was not ended meanwhile.
    errors: Vec<String>,
    /// At one that was.
    interrupted: u64,
    /// At one that was paused, within [`WAKES`] of the end of the pause.
    waking: u64,
}

struct Cluster {
    seats: Vec<Seat>,
    nodes: Vec<SimNode>,
    postgres: Postgres,
    random: Random,
    /// How long an answer is paused, and the like.
    pause: Duration,
    seen: Rc<RefCell<Seen>>,
    began: Instant,
    faults: Vec<Fault>,
    handovers: BTreeMap<&'static str, Vec<u64>>,
}

impl Cluster {
    async fn until_settled(&self) {
        for seat in &self.seats {
            wait_for("it is known which slots are whose", async || seat.is_settled().await).await;
        }
    }

    async fn leader(&self) -> Option<usize> {
        for (index, seat) in self.seats.iter().enumerate() {
            if seat.leads().await {
                return Some(index);
            }
        }
        None
    }

    /// Waits until one of the others leads, with every slot; how long since `began`.
    async fn until_another_leads(&mut self, victim: usize, began: Instant, after: &'static str) {
        let others = || self.seats.iter().enumerate().filter(|(index, _)| *index != victim);
        wait_for("another one leads", async || {
            for (_, seat) in others() {
                if seat.leads().await {
                    return true;
                }
            }
            false
        })
        .await;
        self.handovers.entry(after).or_default().push(began.elapsed().as_millis() as u64);
    }

    async fn strike(&mut self, strike: Strike) {
        let leader = self.leader().await;
        let victim = match leader {
            Some(leader) if self.random.below(2) == 0 => leader,
            _ => self.random.below(GATEWAYS as u64) as usize,
        };
        let is_leader = leader == Some(victim);
        let time = Duration::from_millis(500 + self.random.below(5_000));
        let from = self.began.elapsed();
        let what = match strike {
            Strike::Kill => {
                let gateway = self.seats[victim].take();
                let began = Instant::now();
                gateway.kill();
                self.seats[victim].link.end().await;
                // Some come back at once, before the others have noticed.
                if is_leader && self.random.below(5) > 0 {
                    self.until_another_leads(victim, began, "kill").await;
                }
                self.seats[victim].start().await;
                if is_leader { "kill of the leader" } else { "kill of another" }
            }
            Strike::Terminate => {
                let gateway = self.seats[victim].take();
                let began = Instant::now();
                let stopping = actix_rt::spawn(gateway.stop());
                if is_leader {
                    self.until_another_leads(victim, began, "SIGTERM").await;
                }
                stopping.await.unwrap();
                self.seats[victim].link.end().await;
                self.seats[victim].start().await;
                if is_leader { "SIGTERM of the leader" } else { "SIGTERM of another" }
            }
            Strike::Pause => {
                self.seats[victim].gateway.as_ref().unwrap().pause(self.pause).await;
                self.seats[victim].woken.set(Some(Instant::now()));
                if is_leader { "pause of the leader" } else { "pause of another" }
            }
            Strike::CutLink => {
                self.seats[victim].link.cut(time).await;
                if is_leader { "link of the leader cut" } else { "link of another cut" }
            }
            Strike::CutPostgres => self.cut_postgres(victim, time, is_leader).await,
        };
        let is_pause = matches!(strike, Strike::Pause);
        self.faults.push(Fault { what, gateway: victim, is_pause, from, to: self.began.elapsed() });
    }

    async fn cut_postgres(&mut self, victim: usize, time: Duration, is_leader: bool) -> &'static str {
        match self.random.below(3) {
            0 => {
                self.postgres.freeze();
                tokio::time::sleep(time).await;
                self.postgres.thaw();
                "Postgres frozen"
            }
            1 => {
                self.postgres.stop_at_once();
                tokio::time::sleep(time).await;
                self.postgres.up();
                "Postgres stopped"
            }
            _ => {
                self.seats[victim].postgres.cut(time).await;
                if is_leader { "Postgres cut off from the leader" } else { "Postgres cut off from another" }
            }
        }
    }

    /// How often each kind of fault happened.
    fn strikes(&self) -> BTreeMap<&'static str, u64> {
        let mut strikes = BTreeMap::new();
        self.faults.iter().for_each(|fault| *strikes.entry(fault.what).or_default() += 1);
        strikes
    }

    /// The longest wait into which each fault fell, in milliseconds.
    fn longest_waits(&self, waits: &[Wait]) -> BTreeMap<&'static str, Vec<u64>> {
        let mut longest: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for fault in &self.faults {
            let waits = waits.iter().filter(|wait| wait.met(fault));
            let most = waits.map(|wait| wait.awake(&self.faults).as_millis() as u64).max();
            longest.entry(fault.what).or_default().push(most.unwrap_or_default());
        }
        longest
    }

    fn peaks(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.stats().peak_in_flight).collect()
    }
}

/// One that always has a request at the gateway in this seat.
fn client(cluster: &Cluster, index: usize, stop: &Rc<Cell<bool>>, key: &str, seed: u64) {
    let (seat, seen, start) = (&cluster.seats[index], &cluster.seen, cluster.began);
    let (address, lives, seen, stop) = (seat.address.clone(), seat.lives.clone(), seen.clone(), stop.clone());
    let (key, mut random, woken) = (key.to_owned(), Random::new(seed), seat.woken.clone());
    actix_rt::spawn(async move {
        while !stop.get() {
            let (life, Some(address)) = (lives.get(), address.get()) else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let tokens = 5 + random.below(60);
            let messages = json!([{"role": "user", "content": format!("[[n={tokens}]] tell me")}]);
            let body = json!({"model": "llama3.2", "messages": messages, "stream": true}).to_string();
            let began = Instant::now();
            let answer = exchange(address, "POST", "/v1/chat/completions", &key, &body, PATIENCE).await;
            let mut seen = seen.borrow_mut();
            match answer.first_byte.filter(|_| answer.status == 200 && answer.body.contains("data: [DONE]")) {
                Some(first_byte) => {
                    let from = began - start;
                    seen.waits.push(Wait { gateway: index, from, to: from + first_byte });
                }
                None if lives.get() != life => seen.interrupted += 1,
                // 408 would say that the client was slow.
                None if answer.status != 408 && woken.get().is_some_and(|woken| woken.elapsed() < WAKES) => {
                    seen.waking += 1
                }
                None => {
                    let end = answer.body.chars().rev().take(200).collect::<Vec<_>>();
                    let end: String = end.into_iter().rev().collect();
                    seen.errors.push(format!("gateway {index}: {} after {:?}: {end}", answer.status, began.elapsed()));
                }
            }
        }
    });
}

/// In a random order.
fn plan(times: u64, random: &mut Random) -> Vec<Strike> {
    let kinds = [
        (Strike::Kill, 5 * times),
        (Strike::Terminate, times),
        (Strike::Pause, times),
        (Strike::CutLink, times),
        (Strike::CutPostgres, times),
    ];
    let mut plan: Vec<Strike> =
        kinds.iter().flat_map(|(strike, times)| vec![*strike; usize::try_from(*times).unwrap()]).collect();
    for index in (1..plan.len()).rev() {
        plan.swap(index, random.below(index as u64 + 1) as usize);
    }
    plan
}

fn summary(times: &BTreeMap<&'static str, Vec<u64>>) -> Value {
    let of = |(what, times): (&&'static str, &Vec<u64>)| {
        let mut times = times.clone();
        times.sort_unstable();
        let most = times.last().copied().unwrap_or_default();
        ((*what).to_owned(), json!({"count": times.len(), "p50": times[times.len() / 2], "max": most}))
    };
    Value::Object(times.iter().map(of).collect())
}

/// A cluster in order, and a key that every gateway knows.
async fn cluster(postgres: Postgres, random: Random, pause: Duration) -> (Cluster, String) {
    let (nodes, listed) = nodes(&SLOTS).await;
    let database = postgres.new_database().await;
    let mut seats = Vec::new();
    for _ in 0..GATEWAYS {
        let mut seat = Seat::new(&listed, &database).await;
        seat.start().await;
        seats.push(seat);
    }
    let key = seats[0].gateway.as_ref().unwrap().user("ann").await;
    for seat in &seats {
        until_known(seat.gateway.as_ref().unwrap(), &key).await;
    }
    let (seen, faults, handovers) = (Rc::default(), Vec::new(), BTreeMap::new());
    let cluster = Cluster { seats, nodes, postgres, random, pause, seen, began: Instant::now(), faults, handovers };
    cluster.until_settled().await;
    (cluster, key)
}

/// Keeps what was measured.
fn report(cluster: &Cluster, seen: &Seen, since_fault: Duration, seed: u64) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    keep(
        "leader",
        &json!({
            "gateways": GATEWAYS, "slots": SLOTS, "peak_in_flight": cluster.peaks(), "seed": seed.to_string(),
            "build": build(), "seconds": cluster.began.elapsed().as_secs(), "load_average": load.split(' ').next(),
            "strikes": cluster.strikes(), "handover_ms": summary(&cluster.handovers),
            "longest_wait_ms": summary(&cluster.longest_waits(&seen.waits)),
            "longest_wait_since_a_fault_ms": since_fault.as_millis() as u64,
            "slowest": slowest(&seen.waits, &cluster.faults),
            "clients": {
                "answered": seen.waits.len(), "interrupted_at_an_ended_gateway": seen.interrupted,
                "refused_within_2_s_of_a_pause": seen.waking, "errors_elsewhere": seen.errors.len(),
            },
        }),
    );
}

#[actix_rt::test]
async fn three_gateways_of_which_one_leads_never_run_more_than_the_slots_and_only_the_struck_one_fails() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let (seed, times) = (Random::seed(), number("CHAOS_CLUSTER").unwrap_or(1));
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let plan = plan(times, &mut random);
    let pause = Duration::from_secs(if times > 1 { 10 } else { 3 });
    let (mut cluster, key) = cluster(postgres, random, pause).await;
    let (seen, stop) = (cluster.seen.clone(), Rc::new(Cell::new(false)));
    for index in 0..GATEWAYS * CLIENTS {
        let seed = cluster.random.next();
        client(&cluster, index % GATEWAYS, &stop, &key, seed);
    }
    for strike in plan {
        // Most find everybody in order, some do not.
        if cluster.random.below(4) > 0 {
            cluster.until_settled().await;
        }
        tokio::time::sleep(Duration::from_millis(cluster.random.below(1_500))).await;
        cluster.strike(strike).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (peaks, what) = (cluster.peaks(), cluster.faults.last().unwrap().what);
        assert!(
            peaks.iter().zip(SLOTS).all(|(peak, slots)| *peak <= slots),
            "CHAOS_SEED={seed}: {what}, after {:?}: {peaks:?}",
            cluster.strikes()
        );
        if number("CHAOS_CLUSTER").is_some() {
            let seen = seen.borrow();
            let longest = cluster.longest_waits(&seen.waits)[what].last().copied().unwrap_or_default();
            let (after, errors) = (cluster.began.elapsed(), &seen.errors);
            println!("{after:.0?} {what}: {longest} ms, {} errors, last {:?}", errors.len(), errors.last());
        }
    }
    cluster.until_settled().await;
    for (index, seat) in cluster.seats.iter().enumerate() {
        let answer = seat.gateway.as_ref().unwrap().ask("GET", "/v1/models", &key, &Value::Null).await;
        assert_eq!(answer.status, 200, "CHAOS_SEED={seed}: gateway {index}");
    }
    stop.set(true);
    wait_for("nothing is in flight", async || cluster.nodes.iter().all(|node| node.stats().in_flight == 0)).await;
    let peaks = cluster.peaks();
    let seen = seen.take();
    let since_fault = seen.waits.iter().map(|wait| wait.since_fault(&cluster.faults)).max().unwrap_or_default();
    report(&cluster, &seen, since_fault, seed);
    assert_eq!(seen.errors, [] as [&str; 0], "CHAOS_SEED={seed}");
    assert!(since_fault <= HANDOVER[0], "CHAOS_SEED={seed}: a request waited for {since_fault:?} after a fault");
    // All slots were used, and never one more.
    assert_eq!(peaks, SLOTS, "CHAOS_SEED={seed}");
    for (what, most) in ["kill", "SIGTERM"].into_iter().zip(HANDOVER) {
        let longest = cluster.handovers.get(what).and_then(|times| times.iter().max()).copied().unwrap_or_default();
        assert!(u128::from(longest) <= most.as_millis(), "CHAOS_SEED={seed}: {what}: {longest} ms");
    }
}
