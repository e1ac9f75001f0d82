//! How many tokens does the database have of those who trade, whoever used them?
use std::collections::{BTreeMap, BTreeSet, HashMap};

use entity::usage_rollup::{
    Column::{CompletionTokens, Day, GroupId, KeyId, PromptTokens, UserId},
    Entity,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter,
    QuerySelect, Select,
};

use super::line::Line;
use crate::store::many;
use crate::store::subject::{name_of_group, name_of_key, name_of_user};
use limits::Calendar;

/// Sums of tokens, by the name of the subject.
#[derive(Default)]
struct TokenSums(HashMap<String, u64>);

impl TokenSums {
    fn add(&mut self, name: String, tokens: i64) {
        let sum = self.0.entry(name).or_default();
        *sum = sum.saturating_add(u64::try_from(tokens).unwrap_or_default());
    }
}

/// What of each line's day or month is in the database, by subject.
pub(super) async fn tokens_in_database(
    db: &DatabaseTransaction,
    lines: &[Line],
) -> Result<HashMap<String, u64>, DbErr> {
    let mut sums = TokenSums::default();
    let backend = db.get_database_backend();
    let mut users: BTreeMap<i32, BTreeSet<&str>> = BTreeMap::new();
    let mut groups: BTreeMap<(i32, i32), (Calendar, BTreeSet<&str>)> = BTreeMap::new();
    for line in lines {
        let calendar = line.subject.calendar();
        users.entry(line.claim.day).or_default().extend(line.subject.user());
        let of_group = groups.entry(calendar.days(line.claim.day)).or_insert((calendar, BTreeSet::new()));
        of_group.1.extend(line.subject.group());
    }
    for (day, users) in users.into_iter().filter(|(_, users)| !users.is_empty()) {
        let used = tokens_of_users(backend, day, users);
        let used: Vec<(i64, String, String)> = used.into_tuple().all(db).await?;
        for (tokens, user, key) in used {
            sums.add(name_of_user(&user), tokens);
            // A request without a key adds to the key '', which nobody asks for.
            sums.add(name_of_key(&key), tokens);
        }
    }
    for ((first, last), (calendar, groups)) in groups.into_iter().filter(|(_, (_, groups))| !groups.is_empty()) {
        let used = tokens().filter(Day.between(first, last)).filter(many::is_any(GroupId, backend, groups));
        let used: Vec<(i64, String)> = used.column(GroupId).group_by(GroupId).into_tuple().all(db).await?;
        for (tokens, group) in used {
            sums.add(name_of_group(&group, calendar), tokens);
        }
    }
    Ok(sums.0)
}

/// The tokens of some users on a day, by user and key.
pub(in crate::store) fn tokens_of_users<'a>(
    backend: DatabaseBackend,
    day: i32,
    users: impl IntoIterator<Item = &'a str>,
) -> Select<Entity> {
    let used = tokens().filter(Day.eq(day)).filter(many::is_any(UserId, backend, users));
    used.column(UserId).column(KeyId).group_by(UserId).group_by(KeyId)
}

fn tokens() -> Select<Entity> {
    // A sum of bigints is NUMERIC on Postgres.
    Entity::find().select_only().column_as(PromptTokens.sum().add(CompletionTokens.sum()).cast_as("bigint"), "tokens")
}
