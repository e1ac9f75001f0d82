//! How do several gateways on one Postgres keep limits together?
//!
//! One task at each gateway, the [`Leaser`], says every second that the gateway lives and looks who else does:
//!
//! * *Sole*: nobody else is there. The limits are this gateway's, without a word to the database, and stay so while it is
//!   away: who was alone when they last looked goes on alone.
//! * *Sharing*: of each limit it holds a share (`limits::share` has the rules), in the table `leases`. A request that does
//!   not fit into it asks through the [`Broker`]; those that come while a trade is under way are traded for together. In
//!   between, what is not used any more is given back.
//! * *Waiting*: another one is there that does not share yet; it will within a second, or its time runs out.
//!
//! While the database is away a gateway that shares uses what it holds, until `database.lease_seconds` have passed since
//! it was last heard; then requests under a limit are refused, and those without one go on.
mod broker;
mod identity;
mod in_database;
mod line;
mod others;
mod stances;
mod table;
mod trading;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::broker::Ask;
pub use self::broker::{Broker, NotLeased};
#[cfg(test)]
pub(super) use self::in_database::tokens_of_users;
use self::line::Line;
pub use self::others::OtherGateways;
pub use self::stances::{Published, Stances};
use self::table::Table;
use super::accounts::Accounts;
use super::database::Store;
use super::error::StoreError;
use super::settings::DatabaseSettings;
use crate::clock::Clock;
use limits::{Amounts, Calendar, Holding, Moment};

/// How often a gateway says that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// Longest wait for the database.
const DEADLINE: Duration = Duration::from_secs(2);
/// Subjects of one trade.
const MANY: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Sole,
    Sharing,
    Waiting,
}

/// The task that holds this gateway's shares.
#[derive(Debug)]
pub struct Leaser {
    store: Store,
    accounts: Arc<Accounts>,
    clock: Clock,
    table: Table,
    percent: u64,
    asks: mpsc::Receiver<Ask>,
    mode: Mode,
    /// Whether we were alone when we last looked before we started.
    was_sole: bool,
    /// Whether the database answered the last time.
    is_up: bool,
    /// Uptime until which the others know that we live.
    until: Duration,
    /// Since when we are alone, if there was somebody before whose use counts this day; and the same for this month.
    alone_since: Option<Moment>,
    alone_in_month: Option<Moment>,
    /// What the table has of us.
    written: HashMap<String, Holding>,
}

impl Leaser {
    /// The task and the way to it; `None` with SQLite, where no other gateway shares the limits.
    ///
    /// # Errors
    /// When the local file cannot tell who we are.
    pub async fn open(
        store: Store,
        accounts: Arc<Accounts>,
        clock: Clock,
        settings: &DatabaseSettings,
    ) -> Result<Option<(Broker, Self)>, StoreError> {
        if !store.local.is_outbox {
            return Ok(None);
        }
        let identity = store.identity().await?;
        let (broker, asks) = Broker::new();
        let table = Table {
            db: store.db.clone(),
            gateway: identity.gateway,
            patience: Duration::from_secs(settings.lease_seconds),
        };
        let leaser = Self {
            accounts,
            clock,
            table,
            percent: settings.lease_percent.into(),
            was_sole: identity.is_sole,
            asks,
            mode: Mode::Waiting,
            is_up: true,
            until: Duration::ZERO,
            alone_since: None,
            alone_in_month: None,
            written: HashMap::new(),
            store,
        };
        Ok(Some((broker, leaser)))
    }

    /// Where gateways agree how they divide the nodes.
    pub fn stances(&self) -> Stances {
        Stances { store: self.store.clone(), table: self.table.clone(), was_sole: self.was_sole }
    }

    /// Looks who is there, before the first request.
    pub async fn join(&mut self) {
        self.beat().await;
        if !self.is_up && self.was_sole {
            tracing::info!("limits are this gateway's alone, as they were when it last saw the database");
            self.keep_all();
            self.mode = Mode::Sole;
        }
    }

    /// Holds the shares until `stop`, and gives them back then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = Vec::with_capacity(MANY);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = beat.tick() => self.beat().await,
                // When nobody can ask any more, shares are held all the same: usage is still on its way.
                _ = self.asks.recv_many(&mut asks, MANY / 2), if !self.asks.is_closed() => self.answer(&mut asks).await,
            }
        }
        self.leave().await;
    }

    /// Says that we live, and does what follows from who else does.
    async fn beat(&mut self) {
        let beaten = match tokio::time::timeout(DEADLINE, self.try_beat()).await {
            Ok(beaten) => beaten,
            Err(_) => Err(NotLeased::Away),
        };
        if let Err(error) = &beaten
            && self.is_up
        {
            tracing::warn!(%error, "limits cannot be shared; what this gateway holds of them stays in use for a while");
        }
        self.is_up = beaten.is_ok();
    }

    async fn try_beat(&mut self) -> Result<(), NotLeased> {
        self.forget_others();
        if !self.store.is_online() {
            return Err(NotLeased::Away);
        }
        let asked = self.clock.uptime();
        let mut seen = self.table.renew(self.mode == Mode::Sole).await?;
        self.renewed(asked);
        if self.mode == Mode::Sole && seen.has_peers {
            // First here, then where they can see it. Not if both were alone, cut off from each other: then one has to begin.
            self.share_all();
            if !seen.has_sole_peer {
                self.give_up(self.percent).await?;
            }
            seen = self.table.renew(false).await?;
            self.set_mode(if seen.has_sole_peer { Mode::Waiting } else { Mode::Sharing }).await;
        }
        match self.mode {
            Mode::Sole => Ok(()),
            _ if seen.is_sole => self.go_alone(seen.has_leases).await,
            _ if seen.has_sole_peer => {
                self.set_mode(Mode::Waiting).await;
                Ok(())
            }
            _ => {
                self.set_mode(Mode::Sharing).await;
                self.give_up(self.percent).await
            }
        }
    }

    fn renewed(&mut self, asked: Duration) {
        self.until = asked + self.table.patience;
        if self.mode == Mode::Sole {
            return;
        }
        let now = self.clock.now();
        for subject in self.accounts.subjects() {
            subject.with(|_, ledger| ledger.extend(self.until, now));
        }
    }

    /// Nobody else is there any more: takes what they have left.
    async fn go_alone(&mut self, has_leases: bool) -> Result<(), NotLeased> {
        // Those who shared with us may have given back all they held, but have used something.
        if has_leases || self.mode == Mode::Sharing {
            self.trade_for_all().await?;
            self.alone_since = Some(self.clock.now());
            self.alone_in_month = self.alone_since;
        } else {
            self.keep_all();
        }
        self.set_mode(Mode::Sole).await;
        Ok(())
    }

    async fn trade_for_all(&mut self) -> Result<(), NotLeased> {
        let now = self.clock.now();
        // Others have used, or hold, something of these; of some of them this gateway has seen no request.
        self.accounts.wake(&self.table.known(now.day()).await?, now);
        let lines: Vec<Line> = self
            .accounts
            .subjects()
            .into_iter()
            .filter_map(|subject| Line::of(subject, None, Amounts::default(), Amounts::all(), now))
            .collect();
        self.trade(lines).await?;
        let now = self.clock.now();
        for subject in self.accounts.subjects() {
            subject.with(|_, ledger| ledger.extend(Duration::MAX, now));
        }
        Ok(())
    }

    /// Nobody else has, or has used, anything.
    fn keep_all(&mut self) {
        (self.alone_since, self.alone_in_month) = (None, None);
        self.accounts.set_sharing(false);
        self.end_sharing(Calendar::Day);
        self.end_sharing(Calendar::Month);
    }

    /// What others used counts no more once that day, or month, is over, and the last minute.
    fn forget_others(&mut self) {
        let now = self.clock.now();
        let is_over = |calendar: Calendar, since: Option<Moment>| {
            since.is_some_and(|since| calendar.of(now) > calendar.of(since) && now.uptime > since.uptime + 2 * MINUTE)
        };
        if self.mode != Mode::Sole {
            return;
        }
        if is_over(Calendar::Day, self.alone_since) {
            self.alone_since = None;
            self.accounts.set_sharing(false);
            self.end_sharing(Calendar::Day);
        }
        if is_over(Calendar::Month, self.alone_in_month) {
            self.alone_in_month = None;
            self.end_sharing(Calendar::Month);
        }
    }

    fn end_sharing(&self, calendar: Calendar) {
        for subject in self.accounts.subjects().iter().filter(|subject| subject.calendar() == calendar) {
            subject.with(|_, ledger| ledger.end_sharing());
        }
    }

    /// From now on nothing is used that is not leased.
    fn share_all(&mut self) {
        (self.alone_since, self.alone_in_month) = (None, None);
        self.accounts.set_sharing(true);
        let now = self.clock.now();
        for subject in self.accounts.subjects() {
            subject.with(|_, ledger| {
                ledger.begin_sharing(now);
                ledger.extend(self.until, now);
            });
        }
    }

    /// Gives back what is not used, and tells what is.
    async fn give_up(&mut self, percent: u64) -> Result<(), NotLeased> {
        let now = self.clock.now();
        let mut lines = Vec::new();
        for subject in self.accounts.subjects() {
            let most = subject.with(|limits, ledger| ledger.most(limits, percent, now));
            lines.extend(Line::of(subject, Some(&most), most.free, Amounts::default(), now));
        }
        if self.written.is_empty() {
            // Those of an earlier run.
            let own = self.table.own().await?;
            self.written = own.into_iter().map(|name| (name, Holding::default())).collect();
        }
        lines.retain(|line| !line.claim.is_empty());
        let kept: HashSet<String> = lines.iter().map(|line| line.subject.name()).collect();
        lines.retain(|line| self.written.get(&line.subject.name()) != Some(&line.claim.holding()) || line.is_short());
        self.trade(lines).await?;
        let gone: Vec<String> = self.written.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        for gone in gone.chunks(MANY) {
            self.table.give_back(gone).await?;
            for name in gone {
                self.written.remove(name);
            }
        }
        Ok(())
    }

    async fn set_mode(&mut self, mode: Mode) {
        if self.mode == mode {
            return;
        }
        tracing::info!(
            gateway = self.table.gateway,
            ?mode,
            "how limits are shared with the other gateways on this database has changed"
        );
        self.mode = mode;
        if let Err(error) = self.store.keep_identity(&self.table.gateway, mode == Mode::Sole).await {
            tracing::warn!(%error, "whether limits are shared could not be stored for the next start");
        }
    }

    /// Gives everything back but what still counts.
    async fn leave(mut self) {
        self.share_all();
        let left = async {
            if self.mode != Mode::Waiting {
                self.give_up(0).await?;
            }
            Ok::<_, NotLeased>(self.table.leave().await?)
        };
        match tokio::time::timeout(DEADLINE, left).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "shares of limits could not be given back; they end by themselves")
            }
            Err(_) => tracing::warn!("shares of limits could not be given back in time; they end by themselves"),
        }
    }
}
