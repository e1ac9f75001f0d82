//! Which part of the gateway looks after the nodes? Their roster, what the scheduler knows of them, and their tasks.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cluster::Link;
use super::error::StartError;
use super::thread::{self, Task};
use super::upkeep::recall;
use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::{Dispatcher, Errand, Sharer};
use crate::fleet::{
    Chronicler, Fleet, FleetContext, Loader, Maintenances, NodeSettings, Plots, Resolver, Roster, Sampler, Upstream,
    Watch, Watchers,
};
use crate::metrics::Metrics;
use crate::store::{Stances, Store};

/// The parts, built but not started.
pub(super) struct Nodes {
    pub(super) fleet: FleetContext,
    pub(super) roster: Arc<Roster>,
    watches: mpsc::Receiver<Watch>,
    /// The scheduler's errands for the nodes' memory.
    errands: mpsc::Receiver<Errand>,
    sharer: Option<Sharer>,
    link: Option<Link>,
}

impl Nodes {
    /// Reads the nodes of the configuration and of the database, and recalls what was learned about them. They may be
    /// down. `stop` ends the tasks.
    ///
    /// # Errors
    /// The link to other gateways cannot be used as it is configured.
    pub(super) async fn open(
        config: &Config,
        (store, stances): (&Store, Option<Stances>),
        (clock, metrics): (Clock, Arc<Metrics>),
        resolver: Resolver,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let (dispatcher, errands) = Dispatcher::new(config.queue, Vec::new(), clock, metrics.scheduler_lock());
        let mut link = None;
        let sharer = match stances {
            Some(stances) => {
                link = Link::open(&config.cluster, &stances)?;
                let address = link.as_ref().map(Link::address);
                Some(Sharer::begin(stances, dispatcher.clone(), clock, address).await)
            }
            None => None,
        };
        let fleet = FleetContext {
            nodes: Fleet::default(),
            catalog: Arc::default(),
            maintenances: Maintenances::default(),
            changes: Arc::default(),
            plots: Plots::new(clock.uptime()),
            dispatcher,
            clock,
            metrics,
        };
        let (roster, watches) = Roster::open(config.nodes.clone(), fleet.clone(), store.clone(), resolver, stop).await;
        recall(store, &fleet.dispatcher, clock).await;
        Ok(Self { fleet, roster, watches, errands, sharer, link })
    }

    /// Starts the tasks that watch the nodes, load their models, and look for changes of the roster.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub(super) fn start(
        self,
        config: &Config,
        draining: &CancellationToken,
        stop: &CancellationToken,
    ) -> io::Result<Vec<Task>> {
        let Self { fleet, roster, watches, errands, sharer, link } = self;
        let loader = {
            let upstream = Upstream::new(config.relay.connect());
            Loader::new(fleet.clone(), config.relay.load_terms(), upstream, errands)
        };
        let sampler = Sampler::new(fleet.clone());
        let chronicler = Chronicler { context: fleet.clone() };
        let interval = Duration::from_secs(config.health.fleet_interval_seconds);
        let (connect, health, context) = (config.relay.connect(), config.health.clone(), fleet.clone());
        let keep_alive = config.relay.load_terms().keep_alive;
        let (watching, ticking) = (stop.clone(), stop.clone());
        let sharing = sharer.map(|sharer| thread::spawn(sharer.run(draining.clone(), stop.clone())));
        let linking = match link {
            Some(link) => Some(link.start(fleet.dispatcher.clone(), stop.clone())?),
            None => None,
        };
        let tasks = [
            thread::spawn(roster.run(interval)),
            thread::spawn(loader.run(stop.clone())),
            thread::spawn(chronicler.run(stop.clone())),
            thread::spawn(sampler.run(stop.clone())),
            // A thread of its own, so that busy workers make no node look silent.
            thread::run("probes", move || {
                let upstream = Upstream::new(connect);
                Watchers { context, upstream, health, keep_alive, wanted: watches }.run(watching)
            })?,
            thread::run("deadlines", move || fleet.dispatcher.run_deadlines(ticking))?,
        ];
        Ok(tasks.into_iter().chain(sharing).chain(linking).collect())
    }
}

/// Refuses nodes that [`crate::config::load`] would have refused.
pub(super) fn check(nodes: &[NodeSettings]) -> Result<(), StartError> {
    let flaws = |(index, node): (usize, &NodeSettings)| node.flaws().into_iter().next().map(|flaw| (index, flaw));
    match nodes.iter().enumerate().find_map(flaws) {
        Some((index, flaw)) => Err(StartError::Setting(format!("nodes[{index}].{flaw}"))),
        None => Ok(()),
    }
}
