//! How does memory follow the database? Everybody is read at the start, and then what has changed, change by change.
use std::collections::BTreeSet;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::account::UserEntry;
use super::accounts::{Accounts, Position};
use super::administrators::{AdminRows, Administrators};
use super::columns::{KeyColumns, group_entry, put_user, secret_entry};
use super::database::Store;
use super::directory::Directory;
use super::error::StoreError;
use super::everybody::read_all;
use super::group::{GroupEntry, limited_by_minute};
use super::group_spent::spent_by_groups;
use super::groups::read_groups;
use super::keys::{KeySettings, Peppers};
use super::people::{Changed, People, Since, changes_since, newest_change};
use super::spent::{Whose, spent};
use limits::Moment;

/// New users whose use of the day is looked up one by one; of more, everybody's is.
const FEW: usize = 20;

impl Accounts {
    /// Reads everybody, and what they have used today and in the last minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn load(store: Store, settings: &KeySettings, now: Moment) -> Result<Self, StoreError> {
        let peppers = Peppers::load(settings)?;
        let is_outbox = store.local.is_outbox;
        let (directory, position) = match read(&store, &peppers).await {
            Ok(read) => read,
            Err(error) if is_outbox => {
                if store.is_online() {
                    tracing::warn!(%error, "the database went away: users and keys are those of the last copy");
                    store.go_offline();
                }
                let seq = store.people_copy().await?.seq;
                (read_all(&store.local.db, &peppers).await?, Position { seq, copied: seq })
            }
            Err(error) => return Err(error),
        };
        let admins = read_admins(&store).await?;
        let groups = read_groups(if store.is_online() { &store.db } else { &store.local.db }).await?;
        let accounts = Self {
            admins: Administrators::new(&admins),
            current: AtomicBool::new(store.is_online()),
            store,
            peppers,
            directory: RwLock::new(directory),
            changing: tokio::sync::Mutex::new(position),
            copy_due: tokio::sync::Notify::new(),
            foreign: AtomicUsize::new(0),
            // Until it is known who else is there.
            sharing: AtomicBool::new(is_outbox),
        };
        let entries: Vec<GroupEntry> = groups.iter().map(group_entry).collect();
        let spent_groups = spent_by_groups(&accounts.store, &limited_by_minute(&entries), now).await?;
        accounts.write().set_groups(&entries, |entry| accounts.group_of(entry, &spent_groups, now));
        if accounts.store.is_online() {
            let mut position = accounts.changing.lock().await;
            Box::pin(accounts.catch_up(&mut position, now)).await?;
        }
        accounts.say_foreign();
        let spent = spent(&accounts.store, &accounts.everybody(), now).await?;
        accounts.begin_with(&spent, now);
        Ok(accounts)
    }

    /// Takes up what has changed in the database since the last time.
    ///
    /// # Errors
    /// When the database fails; memory is then as it was.
    pub async fn refresh(&self, now: Moment) -> Result<(), StoreError> {
        let mut position = self.changing.lock().await;
        let mut refreshed = Box::pin(self.catch_up(&mut position, now)).await;
        if refreshed.is_ok() && !self.is_current() {
            // The copy may be that of a version which knew no administrators.
            refreshed = self.take_up_admins(&mut position).await;
        }
        self.current.store(refreshed.is_ok(), Ordering::Relaxed);
        refreshed?;
        if self.store.local.is_outbox && position.copied < position.seq {
            self.copy_due.notify_one();
        }
        Ok(())
    }

    /// Copies everybody for a start without the database, whenever the copy has fallen behind. Does not end.
    pub async fn keep_copied(&self) {
        loop {
            self.copy_due.notified().await;
            if let Err(error) = Box::pin(self.copy()).await {
                tracing::warn!(%error, "users and keys could not be copied for a start without the database");
            }
        }
    }

    /// A million keys take minutes, in which users and keys change as ever; so the copy ends with what has changed.
    async fn copy(&self) -> Result<(), StoreError> {
        let position = self.changing.lock().await;
        let Some(seq) = position.seq.filter(|_| position.copied < position.seq) else { return Ok(()) };
        // There are few of these, so nobody waits long.
        self.store.copy_admins(&AdminRows::read(&self.store.db).await?).await?;
        self.store.copy_groups(&read_groups(&self.store.db).await?).await?;
        drop(position);
        self.store.copy_everybody(seq).await?;
        let mut position = self.changing.lock().await;
        let mut copied = seq;
        while position.seq > Some(copied) {
            let Since::Some(changed, up_to) = changes_since(&self.store.db, copied).await? else {
                // The log does not reach back so far: the copy is made anew.
                return Ok(());
            };
            let people = People::read(&self.store.db, &changed).await?;
            self.store.copy_changes(&people, &changed, up_to).await?;
            copied = up_to;
        }
        position.copied = Some(copied);
        Ok(())
    }

    async fn catch_up(&self, position: &mut Position, now: Moment) -> Result<(), StoreError> {
        self.store.meet().await?;
        loop {
            let since = match position.seq {
                Some(seq) => changes_since(&self.store.db, seq).await?,
                None => Since::Unknown,
            };
            match since {
                Since::Nothing => return Ok(()),
                Since::Some(changed, seq) => {
                    let people = Box::pin(People::read(&self.store.db, &changed)).await?;
                    self.drop_gone(&people, &changed);
                    if changed.groups {
                        self.take_up_groups(now).await?;
                    }
                    self.take_up(&people, now).await?;
                    if self.store.local.is_outbox && position.copied >= position.seq {
                        let copied = self.store.copy_changes(&people, &changed, seq).await;
                        position.copied = copied.is_ok().then_some(seq);
                    }
                    if changed.admins {
                        self.take_up_admins(position).await?;
                    }
                    position.seq = Some(seq);
                }
                Since::Unknown => {
                    let seq = newest_change(&self.store.db).await?;
                    let mut directory = read_all(&self.store.db, &self.peppers).await?;
                    // First of all, so that whoever is gone is out whatever fails after it.
                    {
                        let mut old = self.write();
                        directory.inherit(&mut old);
                        *old = directory;
                    }
                    let spent = spent(&self.store, &self.everybody(), now).await?;
                    self.begin_with(&spent, now);
                    self.take_up_groups(now).await?;
                    self.take_up_admins(position).await?;
                    position.seq = Some(seq);
                }
            }
            self.say_foreign();
        }
    }

    /// Takes up all administrators: there are few.
    async fn take_up_admins(&self, position: &mut Position) -> Result<(), StoreError> {
        let rows = AdminRows::read(&self.store.db).await?;
        self.admins.set(&rows);
        if self.store.local.is_outbox
            && let Err(error) = self.store.copy_admins(&rows).await
        {
            tracing::warn!(%error, "administrators could not be copied for a start without the database");
            position.copied = None;
        }
        Ok(())
    }

    /// Drops users and keys that are there no more. Comes before whatever may fail: a key that was revoked must not open
    /// anything because a sum cannot be read.
    fn drop_gone(&self, people: &People, changed: &Changed) {
        let mut directory = self.write();
        let there: BTreeSet<&str> = people.users.iter().map(|row| row.id.as_str()).collect();
        for gone in changed.users.iter().filter(|name| !there.contains(name.as_str())) {
            directory.remove_user(gone);
        }
        let there: BTreeSet<&str> = people.keys.iter().map(|row| row.id.as_str()).collect();
        for gone in changed.keys.iter().filter(|id| !there.contains(id.as_str())) {
            directory.remove_key(gone);
        }
    }

    async fn take_up(&self, people: &People, now: Moment) -> Result<(), StoreError> {
        let mut fresh = Vec::new();
        {
            let mut directory = self.write();
            for row in &people.users {
                if put_user(&mut directory, row) {
                    fresh.extend(directory.user(&row.id).map(UserEntry::usage_id));
                }
            }
            for row in &people.keys {
                directory.put_key(&KeyColumns::of(row).entry());
                let digests = people.digests.iter().filter(|digest| digest.key_id == row.id);
                let secrets: Vec<_> = digests.filter_map(|digest| secret_entry(digest, &self.peppers)).collect();
                directory.set_secrets(&row.id, &secrets);
            }
        }
        // Other gateways may have let them in already.
        match fresh.len() {
            0 => {}
            1..=FEW => {
                for user in fresh {
                    self.begin_with(&spent(&self.store, &Whose::User(user), now).await?, now);
                }
            }
            _ => self.begin_with(&spent(&self.store, &self.everybody(), now).await?, now),
        }
        Ok(())
    }

    fn say_foreign(&self) {
        let foreign = self.read().foreign_secrets();
        if foreign != self.foreign.swap(foreign, Ordering::Relaxed) && foreign > 0 {
            tracing::warn!(secrets = foreign, "keys were made with a pepper that is not configured: they open nothing");
        }
    }
}

/// Everybody, and up to which change. With Postgres the copy in the local file is read, and what has changed since, if the
/// log reaches back so far: so Postgres does not have to send everybody, and the copy goes on from where it was.
async fn read(store: &Store, peppers: &Peppers) -> Result<(Directory, Position), StoreError> {
    if !store.local.is_outbox {
        let seq = newest_change(&store.db).await?;
        return Ok((read_all(&store.db, peppers).await?, Position { seq: Some(seq), copied: None }));
    }
    if !store.is_online() {
        return Err(sea_orm::DbErr::Custom("the database is away".to_owned()).into());
    }
    let copy = store.people_copy().await?;
    if let Some(seq) = copy.seq.filter(|_| copy.is_whole)
        && !matches!(changes_since(&store.db, seq).await?, Since::Unknown)
    {
        return Ok((read_all(&store.local.db, peppers).await?, Position { seq: Some(seq), copied: Some(seq) }));
    }
    let seq = newest_change(&store.db).await?;
    Ok((read_all(&store.db, peppers).await?, Position { seq: Some(seq), copied: None }))
}

/// All administrators: those of the database, or of the copy while it is away.
async fn read_admins(store: &Store) -> Result<AdminRows, StoreError> {
    if !store.is_online() {
        return AdminRows::read(&store.local.db).await;
    }
    match AdminRows::read(&store.db).await {
        Ok(rows) => {
            if store.local.is_outbox
                && let Err(error) = store.copy_admins(&rows).await
            {
                tracing::warn!(%error, "administrators could not be copied for a start without the database");
            }
            Ok(rows)
        }
        Err(error) if store.local.is_outbox => {
            tracing::warn!(%error, "the database went away: administrators are those of the last copy");
            store.go_offline();
            AdminRows::read(&store.local.db).await
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use sea_orm::{ConnectionTrait, EntityTrait};

    use super::*;
    use crate::store::account::{Terms, UserId};
    use crate::store::group::GroupTerms;
    use crate::store::groups::NewGroup;
    use crate::store::people_copy::Copy;
    use crate::store::scratch::Scratch;
    use crate::store::settings::DatabaseSettings;
    use crate::store::users::NewUser;

    #[actix_rt::test]
    async fn whoever_is_deleted_is_out_even_if_nothing_else_can_be_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
        let settings = DatabaseSettings { url, ..DatabaseSettings::default() };
        let store = Store::open(&settings).await.unwrap();
        let now = crate::clock::Clock::start().now();
        let here = Accounts::load(store.clone(), &KeySettings::default(), now).await.unwrap();
        for name in ["ann", "ben"] {
            let user = UserId::parse(name).unwrap();
            here.create(NewUser { user, terms: Terms::default(), group: None }, now).await.unwrap();
        }
        let there = Accounts::load(store.clone(), &KeySettings::default(), now).await.unwrap();
        here.delete("ann").await.unwrap();
        let name = UserId::parse("staff").unwrap();
        here.create_group(NewGroup { name, terms: GroupTerms::default() }, now).await.unwrap();
        store.db.execute_unprepared("ALTER TABLE user_groups RENAME TO gone").await.unwrap();

        assert!(there.refresh(now).await.is_err());

        assert!(!there.has_user("ann") && there.has_user("ben"));
    }

    #[actix_rt::test]
    async fn while_everybody_is_copied_users_are_made_and_come_into_the_copy() {
        let Some(scratch) = Scratch::postgres().await else { return };
        let folder = tempfile::tempdir().unwrap();
        let outbox = folder.path().join("outbox.db");
        let settings = DatabaseSettings { url: scratch.url.clone(), outbox, ..DatabaseSettings::default() };
        let store = Store::open(&settings).await.unwrap();
        let many =
            "INSERT INTO users (id, created_at_ms) SELECT 'user-' || number, 1 FROM generate_series(1, 50000) number";
        store.db.execute_unprepared(many).await.unwrap();
        let now = crate::clock::Clock::start().now();
        let accounts = Arc::new(Accounts::load(store.clone(), &KeySettings::default(), now).await.unwrap());
        let copying = accounts.clone();
        let copying = actix_rt::spawn(async move { copying.keep_copied().await });
        accounts.refresh(now).await.unwrap();
        while store.people_copy().await.unwrap() != (Copy { seq: None, is_whole: false }) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }

        let user = UserId::parse("ann").unwrap();
        accounts.create(NewUser { user, terms: Terms::default(), group: None }, now).await.unwrap();
        accounts.refresh(now).await.unwrap();

        assert!(!store.people_copy().await.unwrap().is_whole, "nobody has waited for the copy");
        let there = || entity::user::Entity::find_by_id("ann").one(&store.local.db);
        while there().await.unwrap().is_none() || !store.people_copy().await.unwrap().is_whole {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        copying.abort();
        store.close().await;
        scratch.remove().await;
    }
}
