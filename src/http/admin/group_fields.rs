//! What is shown of a group, and what may an operator say of one?
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::given::{ShownLimits, body_with_limits, checked_tokens, checked_weight, limits_over, present};
use super::key_bodies::allowed;
use crate::http::error::ApiError;
use crate::http::standing::Standing;
use crate::http::time::rfc3339;
use crate::store::{GroupChange, GroupTerms, ListedGroup, NewGroup, UserId};
use limits::Limits;

body_with_limits! {
    /// A group to be made. A limit that is absent or null is no limit.
    pub struct CreateGroup {
        /// `[A-Za-z0-9._@-]{1,64}`
        #[schema(example = "research", pattern = "^[A-Za-z0-9._@-]{1,64}$")]
        group_id: String,
        /// Prompt and completion tokens per UTC month; null = no limit.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_000_u64, example = 1_000_000)]
        tokens_per_month: Option<Option<u64>>,
        /// The group's share of a busy service beside other groups, and users without one. Default 1.
        #[schema(minimum = 0.001, maximum = 1000, example = 1)]
        weight: Option<f64>,
        /// The models that its users may use, as /v1/models lists them; a name without a tag means `:latest`. Null or absent =
        /// all, also those to come.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<Vec<String>>, example = json!(["llama3.2", "llava"]))]
        allowed_models: Option<Option<Vec<String>>>,
    }
}

body_with_limits! {
    /// A change of a group: absent = unchanged, null = no limit, or every model.
    pub struct ChangeGroup {
        /// Prompt and completion tokens per UTC month; null = no limit.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_000_u64, example = 1_000_000)]
        tokens_per_month: Option<Option<u64>>,
        /// The group's share of a busy service beside other groups, and users without one.
        #[schema(minimum = 0.001, maximum = 1000, example = 1)]
        weight: Option<f64>,
        /// The models that its users may use. Null = all, also those to come.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<Vec<String>>, example = json!(["llama3.2", "llava"]))]
        allowed_models: Option<Option<Vec<String>>>,
    }
}

/// What becomes of a group's users when it is deleted.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MembersFate {
    /// They leave it.
    Release,
}

/// A group of users with limits for all of them together.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupRecord {
    /// The name.
    #[schema(example = "research")]
    group_id: String,
    /// RFC 3339 in UTC.
    created_at: String,
    #[serde(flatten)]
    limits: ShownLimits,
    /// Prompt and completion tokens per UTC month; null = no limit.
    tokens_per_month: Option<u64>,
    /// The group's share of a busy service beside other groups, and users without one.
    weight: f64,
    /// The models that its users may use; null = all.
    allowed_models: Option<Vec<String>>,
    /// How many users it has; null while the database is away.
    user_count: Option<u64>,
    /// Tokens of requests that have ended today (UTC); null while the database is away.
    tokens_today: Option<u64>,
    /// Tokens of requests that have ended this month (UTC); null while the database is away.
    tokens_this_month: Option<u64>,
}

/// A group, and how each of its limits stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupWithLimits {
    #[serde(flatten)]
    pub(super) group: GroupRecord,
    /// Every limit of the group, with what is used, held and left.
    pub(super) limits: Vec<Standing>,
}

/// A group that was made or changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedGroup {
    #[serde(flatten)]
    pub(super) group: GroupRecord,
    /// What may be a mistake, such as a model that no node has.
    pub(super) warnings: Vec<String>,
}

/// A page of groups.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupList {
    /// Always `list`.
    pub(super) object: &'static str,
    /// The groups.
    pub(super) data: Vec<GroupRecord>,
    /// For `after`; null on the last page.
    pub(super) next: Option<String>,
}

/// A deleted group.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedGroup {
    /// The name.
    pub(super) group_id: String,
    /// Always true.
    pub(super) deleted: bool,
    /// How many users have left it.
    pub(super) released: u64,
}

impl From<ListedGroup> for GroupRecord {
    fn from(listed: ListedGroup) -> Self {
        let terms = listed.group.terms();
        Self {
            group_id: listed.group.name().to_string(),
            created_at: rfc3339(listed.group.created_at_ms()),
            limits: terms.limits.into(),
            tokens_per_month: terms.tokens_per_month,
            weight: terms.weight,
            allowed_models: terms.allowed_models.map(|models| models.names().to_vec()),
            user_count: listed.users,
            tokens_today: listed.used.map(|used| used.tokens_today),
            tokens_this_month: listed.used.map(|used| used.tokens_this_month),
        }
    }
}

impl CreateGroup {
    pub(super) fn group(self) -> Result<NewGroup, ApiError> {
        let name = UserId::parse(&self.group_id).ok_or_else(|| {
            ApiError::invalid_field(
                "group_id",
                "`group_id` must be 1 to 64 of the characters A-Z a-z 0-9 . _ @ -, and not `.` or `..`",
            )
        })?;
        let limits = limits_over(Limits::default(), self.limits())?;
        let terms = GroupTerms {
            limits,
            tokens_per_month: checked_tokens("tokens_per_month", self.tokens_per_month.flatten())?,
            weight: checked_weight(self.weight.unwrap_or(1.0))?,
            allowed_models: self.allowed_models.flatten().map(allowed).transpose()?,
        };
        Ok(NewGroup { name, terms })
    }
}

impl ChangeGroup {
    pub(super) fn change(self) -> Result<GroupChange, ApiError> {
        let limits = self.limits();
        limits_over(Limits::default(), limits)?;
        checked_tokens("tokens_per_month", self.tokens_per_month.flatten())?;
        Ok(GroupChange {
            limits,
            tokens_per_month: self.tokens_per_month,
            weight: self.weight.map(checked_weight).transpose()?,
            allowed_models: self.allowed_models.map(|given| given.map(allowed).transpose()).transpose()?,
        })
    }
}

/// Terms as the audit log has them.
pub(super) fn shown(terms: &GroupTerms) -> Value {
    json!({
        "weight": terms.weight,
        "limits": ShownLimits::from(terms.limits),
        "tokens_per_month": terms.tokens_per_month,
        "allowed_models": terms.allowed_models.as_ref().map(|models| models.names()),
    })
}
