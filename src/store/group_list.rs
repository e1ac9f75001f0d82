//! Which groups are there, how many users has each, and what have they used? For operators' lists, page by page.
use std::collections::HashMap;
use std::sync::Arc;

use entity::{usage_total, user};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use super::accounts::Accounts;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::group::UserGroup;
use super::many;
use super::user_list::UsedLately;
use limits::{Moment, Month};

/// Which groups: those whose names hold `text`, in any case, after the one named `after`, and at most `limit`.
#[derive(Clone, Debug, Default)]
pub struct GroupSearch {
    /// `None` = all.
    pub text: Option<String>,
    /// The last one of the page before.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A group in a list.
#[derive(Clone, Debug)]
pub struct ListedGroup {
    /// The group.
    pub group: Arc<UserGroup>,
    /// How many users it has; `None` while the database is away.
    pub users: Option<u64>,
    /// What they have used; `None` while the database is away.
    pub used: Option<UsedLately>,
}

impl Accounts {
    /// A page of groups, by name, and whether others follow.
    pub async fn groups(&self, search: &GroupSearch, now: Moment) -> (Vec<ListedGroup>, bool) {
        let text = search.text.as_ref().map(|text| text.to_lowercase());
        let is_wanted = |group: &&Arc<UserGroup>| {
            search.after.as_ref().is_none_or(|after| **group.name() > *after.as_str())
                && text.as_ref().is_none_or(|text| group.name().to_lowercase().contains(text))
        };
        let mut page: Vec<Arc<UserGroup>> =
            self.read().groups().filter(is_wanted).take(search.limit.saturating_add(1)).cloned().collect();
        let more = page.len() > search.limit;
        page.truncate(search.limit);
        (self.listed_groups(page, now).await, more)
    }

    /// One group, as in a list.
    ///
    /// # Errors
    /// [`StoreError::NoGroup`]
    pub async fn listed_group(&self, name: &str, now: Moment) -> Result<ListedGroup, StoreError> {
        let listed = self.listed_groups(vec![self.group(name)?], now).await;
        listed.into_iter().next().ok_or_else(|| StoreError::NoGroup(name.to_owned()))
    }

    async fn listed_groups(&self, groups: Vec<Arc<UserGroup>>, now: Moment) -> Vec<ListedGroup> {
        if groups.is_empty() {
            return Vec::new();
        }
        let (users, used) = (self.users_of(&groups).await, self.used_by(&groups, now).await);
        if let Err(error) = users.as_ref().map(|_| ()).and(used.as_ref().map(|_| ())) {
            tracing::debug!(%error, "groups are listed without what only the database knows, as it did not answer");
        }
        let listed = |group: Arc<UserGroup>| ListedGroup {
            users: users.as_ref().ok().map(|users| users.get(&**group.name()).copied().unwrap_or_default()),
            used: used.as_ref().ok().map(|used| used.get(&**group.usage_id()).copied().unwrap_or_default()),
            group,
        };
        groups.into_iter().map(listed).collect()
    }

    /// How many users these have, by name.
    async fn users_of(&self, groups: &[Arc<UserGroup>]) -> Result<HashMap<String, u64>, StoreError> {
        use user::Column::{GroupId, Id};
        let counts = user::Entity::find()
            .filter(many::is_any(
                GroupId,
                self.store.reads.get_database_backend(),
                groups.iter().map(|group| &**group.name()),
            ))
            .select_only()
            .column(GroupId)
            .column_as(Id.count(), "users")
            .group_by(GroupId);
        let counts: Vec<(String, i64)> = within_deadline(counts.into_tuple().all(&self.store.reads)).await?;
        Ok(counts.into_iter().map(|(name, users)| (name, u64::try_from(users).unwrap_or_default())).collect())
    }

    /// Tokens of the day and of the month, by the id in usage.
    async fn used_by(&self, groups: &[Arc<UserGroup>], now: Moment) -> Result<HashMap<String, UsedLately>, StoreError> {
        use usage_total::Column::{CompletionTokens, Day, GroupId, PromptTokens};
        let (today, first) = (now.day(), Month::of_day(now.day()).first_day());
        let sums = usage_total::Entity::find()
            .filter(many::is_any(
                GroupId,
                self.store.reads.get_database_backend(),
                groups.iter().map(|group| &**group.usage_id()),
            ))
            .filter(Day.between(first, today))
            .select_only()
            .column(GroupId)
            .column(Day)
            // A sum of bigints is NUMERIC on Postgres.
            .column_as(PromptTokens.sum().add(CompletionTokens.sum()).cast_as("bigint"), "tokens")
            .group_by(GroupId)
            .group_by(Day);
        let sums: Vec<(String, i32, i64)> = within_deadline(sums.into_tuple().all(&self.store.reads)).await?;
        let mut used: HashMap<String, UsedLately> = HashMap::new();
        for (group, day, tokens) in sums {
            let tokens = u64::try_from(tokens).unwrap_or_default();
            let used = used.entry(group).or_default();
            used.tokens_this_month = used.tokens_this_month.saturating_add(tokens);
            if day == today {
                used.tokens_today = used.tokens_today.saturating_add(tokens);
            }
        }
        Ok(used)
    }
}
