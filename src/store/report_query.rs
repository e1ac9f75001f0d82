//! What can be asked of a report, and what is a part of one?
use entity::usage_rollup::Column;
use sea_orm::{DbErr, QueryResult, Value};
use serde::{Deserialize, Serialize};

/// What a report can group and filter usage by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// The user.
    User,
    /// The id of the key.
    Key,
    /// The model, as the client spelled it.
    Model,
    /// The node that was asked last.
    Node,
    /// The UTC day of arrival.
    Day,
    /// How the requests ended.
    Status,
    /// The group under whose limits they were admitted.
    Group,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::User, Self::Key, Self::Model, Self::Node, Self::Day, Self::Status, Self::Group];

    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Model => "model",
            Self::Node => "node",
            Self::Day => "day",
            Self::Status => "status",
            Self::Group => "group",
        }
    }

    pub(super) fn column(self) -> Column {
        match self {
            Self::User => Column::UserId,
            Self::Key => Column::KeyId,
            Self::Model => Column::Model,
            Self::Node => Column::Node,
            Self::Day => Column::Day,
            Self::Status => Column::Status,
            Self::Group => Column::GroupId,
        }
    }

    /// Whether its values are users or keys, of which there may be very many; users share those of any other.
    pub(super) fn is_name(self) -> bool {
        matches!(self, Self::User | Self::Key)
    }
}

/// A group's value in one dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// A UTC day, in days since 1970-01-01.
    Day(i32),
    /// The value of any other dimension; empty if the requests had none.
    Name(String),
}

impl Label {
    /// Whether it can be a value of this dimension.
    pub fn is_of(&self, dimension: Dimension) -> bool {
        matches!(self, Self::Day(_)) == (dimension == Dimension::Day)
    }

    pub(super) fn read(row: &QueryResult, index: usize, dimension: Dimension) -> Result<Self, DbErr> {
        Ok(match dimension {
            Dimension::Day => Self::Day(row.try_get_by_index(index)?),
            _ => Self::Name(row.try_get_by_index(index)?),
        })
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::Day(day) => (*day).into(),
            Self::Name(name) => name.as_str().into(),
        }
    }
}

/// What a report should cover, and how it groups.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What to group by, which is also the order of the groups. Empty = one group of everything.
    pub group_by: Vec<Dimension>,
    /// The first day, in days since 1970-01-01; `None` = from the beginning.
    pub from_day: Option<i32>,
    /// The first day that is not included; `None` = no end.
    pub to_day: Option<i32>,
    /// Only usage with all these values. An empty name = usage without a value.
    pub only: Vec<(Dimension, String)>,
}

impl Report {
    /// Whether it tells no users apart, so that the sums of all users are enough.
    pub(super) fn is_of_all_users(&self) -> bool {
        !self.group_by.iter().copied().any(Dimension::is_name) && !self.is_of_one()
    }

    /// Whether it is of one user or key.
    pub(super) fn is_of_one(&self) -> bool {
        self.only.iter().any(|(dimension, _)| dimension.is_name())
    }

    /// Of what the groups begin with, up to users or keys: what users share.
    pub(super) fn shared(&self) -> &[Dimension] {
        let names = self.group_by.iter().position(|dimension| dimension.is_name());
        &self.group_by[..names.unwrap_or(self.group_by.len())]
    }

    /// The part of the report with these labels in the dimensions of [`Report::shared`].
    pub(super) fn part(&self, labels: &[Label]) -> Self {
        let mut part = self.clone();
        for (dimension, label) in self.shared().iter().zip(labels) {
            match label {
                Label::Day(day) => (part.from_day, part.to_day) = (Some(*day), day.checked_add(1)),
                Label::Name(name) => part.only.push((*dimension, name.clone())),
            }
        }
        part
    }
}
