//! Which users are there, in which order, and what do they use? For operators' lists, page by page.
//!
//! Names, and what operators say of users, are in memory; tokens come from the sums that the database keeps.
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use entity::{usage_rollup, user};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait};

use super::account::{Profile, Terms};
use super::accounts::Accounts;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::many;
use limits::{Moment, Month};

/// Users that are looked at before others have their turn.
const AT_A_TIME: usize = 1_000;

/// By what users are put in order. All but names begin with the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserOrder {
    /// Their names.
    #[default]
    Name,
    /// When they were made.
    CreatedAt,
    /// When they last sent a request.
    LastSeen,
    /// Tokens of this day, UTC.
    TokensToday,
    /// Tokens of this month, UTC.
    TokensThisMonth,
}

/// Which users.
#[derive(Clone, Debug, Default)]
pub struct UserSearch {
    /// What their name, display name, e-mail or note holds, in any case; `None` = all.
    pub text: Option<String>,
    /// Only users of this group; an empty name = only users without one; `None` = all.
    pub group: Option<String>,
    /// By what.
    pub order: UserOrder,
    /// The place of the last one of the page before.
    pub after: Option<UserPlace>,
    /// At most so many.
    pub limit: usize,
}

/// Where a user stands in a list: by the value that the order asks for, and then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserPlace(pub Reverse<i64>, pub Arc<str>);

/// A user in a list.
#[derive(Clone, Debug)]
pub struct ListedUser {
    /// Where it stands in this list.
    pub place: UserPlace,
    /// Epoch milliseconds.
    pub created_at_ms: i64,
    /// Limits and weight.
    pub terms: Terms,
    /// What the operator says.
    pub profile: Profile,
    /// The name of the group.
    pub group: Option<Arc<str>>,
    /// How many keys they have.
    pub keys: usize,
    /// When they last sent a request, to the minute, epoch milliseconds.
    pub last_seen_ms: Option<i64>,
    /// What they have used; `None` while the database is away.
    pub used: Option<UsedLately>,
    usage_id: Arc<str>,
}

/// Tokens that are in the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedLately {
    /// Of this day, UTC.
    pub tokens_today: u64,
    /// Of this month, UTC.
    pub tokens_this_month: u64,
}

type UsedById = HashMap<Arc<str>, UsedLately>;

impl Accounts {
    /// A page of users, and whether others follow.
    ///
    /// # Errors
    /// When an order needs the database, and it fails.
    pub async fn users(&self, search: &UserSearch, now: Moment) -> Result<(Vec<ListedUser>, bool), StoreError> {
        let by_tokens = matches!(search.order, UserOrder::TokensToday | UserOrder::TokensThisMonth);
        let used = if by_tokens { self.used_lately(None, now).await? } else { UsedById::new() };
        if search.order == UserOrder::LastSeen {
            self.learn_last_seen(None).await?;
        }
        let mut places = self.places(search, &used).await;
        places.sort_unstable();
        let more = places.len() > search.limit;
        places.truncate(search.limit);
        let mut page: Vec<ListedUser> = places.into_iter().filter_map(|place| self.listed(place)).collect();
        self.fill_in(&mut page, now).await;
        Ok((page, more))
    }

    /// One user, as in a list.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn user(&self, name: &str, now: Moment) -> Result<ListedUser, StoreError> {
        let listed = self.listed(UserPlace(Reverse(0), name.into()));
        let mut page: Vec<ListedUser> = listed.into_iter().collect();
        self.fill_in(&mut page, now).await;
        page.pop().ok_or_else(|| StoreError::NotFound(name.to_owned()))
    }

    /// Where those stand who are wanted; of names in their own order no more than a page and one.
    async fn places(&self, search: &UserSearch, used: &UsedById) -> Vec<UserPlace> {
        let text = search.text.as_ref().map(|text| text.to_lowercase());
        let in_order = search.order == UserOrder::Name;
        let mut places = Vec::new();
        let mut last = search.after.as_ref().filter(|_| in_order).map(|UserPlace(_, name)| name.clone());
        loop {
            let names = self.names_after(last.as_deref(), AT_A_TIME);
            let Some(newest) = names.last().cloned() else { return places };
            last = Some(newest);
            let found = names.into_iter().filter_map(|name| self.place(name, search, text.as_deref(), used));
            places.extend(found.filter(|place| search.after.as_ref().is_none_or(|after| place > after)));
            if in_order && places.len() > search.limit {
                return places;
            }
            // A million users take a while.
            tokio::task::yield_now().await;
        }
    }

    fn place(&self, name: Arc<str>, search: &UserSearch, text: Option<&str>, used: &UsedById) -> Option<UserPlace> {
        let directory = self.read();
        let entry = directory.user(&name)?;
        if search.group.as_ref().is_some_and(|group| *group != entry.group.as_deref().unwrap_or_default()) {
            return None;
        }
        let profile = entry.profile.as_deref();
        let noted = profile.map(|profile| [&profile.display_name, &profile.email, &profile.note]);
        let mut texts = std::iter::once(&*name).chain(noted.into_iter().flatten().flatten().map(String::as_str));
        let is_found = text.is_none_or(|text| texts.any(|own| own.to_lowercase().contains(text)));
        drop(texts);
        if !is_found {
            return None;
        }
        let of_used = || used.get(&entry.usage_id()).copied().unwrap_or_default();
        let value = match search.order {
            UserOrder::Name => 0,
            UserOrder::CreatedAt => entry.created_at_ms,
            UserOrder::LastSeen => directory.last_seen_ms(&name),
            UserOrder::TokensToday => i64::try_from(of_used().tokens_today).unwrap_or(i64::MAX),
            UserOrder::TokensThisMonth => i64::try_from(of_used().tokens_this_month).unwrap_or(i64::MAX),
        };
        Some(UserPlace(Reverse(value), name))
    }

    fn listed(&self, place: UserPlace) -> Option<ListedUser> {
        let directory = self.read();
        let entry = directory.user(&place.1)?;
        Some(ListedUser {
            created_at_ms: entry.created_at_ms,
            terms: entry.terms,
            profile: entry.profile.as_deref().cloned().unwrap_or_default(),
            group: entry.group.clone(),
            keys: directory.keys_of(&place.1).len(),
            last_seen_ms: None,
            used: None,
            usage_id: entry.usage_id(),
            place,
        })
    }

    /// Adds what only the database knows, as far as it answers.
    async fn fill_in(&self, page: &mut [ListedUser], now: Moment) {
        if page.is_empty() {
            return;
        }
        let ids: Vec<Arc<str>> = page.iter().map(|listed| listed.usage_id.clone()).collect();
        let names: Vec<Arc<str>> = page.iter().map(|listed| listed.place.1.clone()).collect();
        let used = self.used_lately(Some(&ids), now).await;
        let learned = self.learn_last_seen(Some(&names)).await;
        if let Err(error) = used.as_ref().map(|_| ()).and(learned.as_ref()) {
            tracing::debug!(%error, "users are listed without what only the database knows, as it did not answer");
        }
        let directory = self.read();
        for listed in page {
            let of_user = |used: &UsedById| used.get(&listed.usage_id).copied().unwrap_or_default();
            listed.used = used.as_ref().ok().map(of_user);
            listed.last_seen_ms = Some(directory.last_seen_ms(&listed.place.1)).filter(|seen_ms| *seen_ms > 0);
        }
    }

    /// Tokens of the day and of the month, by the id in usage.
    async fn used_lately(&self, of: Option<&[Arc<str>]>, now: Moment) -> Result<UsedById, StoreError> {
        use usage_rollup::Column::{CompletionTokens, Day, PromptTokens, UserId};
        let mut used = UsedById::new();
        let backend = self.store.reads.get_database_backend();
        for (since, is_today) in [(now.day(), true), (Month::of_day(now.day()).first_day(), false)] {
            let sums = usage_rollup::Entity::find()
                .filter(Day.between(since, now.day()))
                .apply_if(of, |sums, ids| sums.filter(many::is_any(UserId, backend, ids)))
                .select_only()
                .column(UserId)
                // A sum of bigints is NUMERIC on Postgres.
                .column_as(PromptTokens.sum().add(CompletionTokens.sum()).cast_as("bigint"), "tokens")
                .group_by(UserId);
            let sums: Vec<(String, i64)> = within_deadline(sums.into_tuple().all(&self.store.reads)).await?;
            for (id, tokens) in sums {
                let tokens = u64::try_from(tokens).unwrap_or_default();
                let sum = used.entry(id.into()).or_default();
                *(if is_today { &mut sum.tokens_today } else { &mut sum.tokens_this_month }) = tokens;
            }
        }
        Ok(used)
    }

    /// Takes up when other gateways have seen users last.
    async fn learn_last_seen(&self, names: Option<&[Arc<str>]>) -> Result<(), StoreError> {
        let backend = self.store.reads.get_database_backend();
        let seen = user::Entity::find()
            .filter(user::Column::LastSeenMs.is_not_null())
            .apply_if(names, |users, names| users.filter(many::is_any(user::Column::Id, backend, names)))
            .select_only()
            .column(user::Column::Id)
            .column(user::Column::LastSeenMs);
        let seen: Vec<(String, i64)> = within_deadline(seen.into_tuple().all(&self.store.reads)).await?;
        let mut directory = self.write();
        for (name, seen_ms) in seen {
            directory.seen(&name, seen_ms);
        }
        Ok(())
    }
}
