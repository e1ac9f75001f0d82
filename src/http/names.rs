//! Which model does a client mean by a name?
use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use protocol::ModelName;
use scheduler::Scheduler;
use serde::{Deserialize, Serialize};

use super::Live;
use super::credentials::dependency;
use super::error::ApiError;
use crate::fleet::FleetContext;
use crate::store::AllowedModels;

/// Other names for models, and substitutes for missing ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelNames {
    /// Other names that clients may use: `{gpt-4o-mini: llama3.2}`. Default none.
    pub aliases: BTreeMap<String, String>,
    /// Models to use instead, in this order, when no node has the requested one:
    /// `{llama3.1: [llama3.2, llama3.2:1b]}`. Default none.
    pub fallbacks: BTreeMap<String, Vec<String>>,
    /// Context that each model should be loaded with, tokens: `{llama3.2: 8192}`. The gateway never sends it, since
    /// that would reload the model: set `OLLAMA_CONTEXT_LENGTH` on the nodes. A node that differs shows
    /// `context_drift` in `GET /admin/nodes`. Default none.
    pub context_length: BTreeMap<String, u64>,
}

impl ModelNames {
    /// The model to use for `asked`: that model if a node lists it, or else its first fallback that a node lists.
    ///
    /// A key that may use an alias may use whatever the alias leads to, fallbacks included. Otherwise, fallbacks that the
    /// key may not use are skipped, while a listed model that it may not use is forbidden and not replaced.
    pub fn resolve(&self, asked: &str, allowed: &[AllowedModels], scheduler: &Scheduler) -> Meaning {
        let alias = self.alias_of(asked);
        let meant = alias.map_or(asked, String::as_str);
        let by_alias = |allowed: &AllowedModels| alias.is_some() && allowed.allow(asked);
        let may = |listed: &str| allowed.iter().all(|allowed| by_alias(allowed) || allowed.allow(listed));
        let instead = self.fallbacks.get(meant).into_iter().flatten().map(String::as_str);
        let mut meaning = Meaning::Unknown;
        for asked_for in std::iter::once(meant).chain(instead) {
            let Some((name, listed)) = find_listed(asked_for, scheduler) else { continue };
            if may(listed) {
                return Meaning::Model(Resolved { name: name.into(), listed: listed.into() });
            }
            meaning = Meaning::Forbidden;
            if asked_for == meant {
                break;
            }
        }
        meaning
    }

    /// The model that an alias stands for, however the alias is spelled.
    pub(super) fn alias_of(&self, asked: &str) -> Option<&String> {
        let spelled = || self.aliases.iter().find(|(alias, _)| ModelName::same(alias, asked)).map(|(_, model)| model);
        self.aliases.get(asked).or_else(spelled)
    }

    /// The names, of those in these lists, that every list allows; `None` where there is no list.
    pub(super) fn in_common(&self, allowed: &[AllowedModels]) -> Option<Vec<String>> {
        let meant = |name: &String| self.alias_of(name).cloned();
        let allows = |list: &AllowedModels, name: &String| {
            list.allow(name) || meant(name).is_some_and(|meant| list.allow(&meant))
        };
        let (first, others) = allowed.split_first()?;
        let mut names: Vec<String> = first.names().to_vec();
        for name in others.iter().flat_map(AllowedModels::names) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names.retain(|name| allowed.iter().all(|list| allows(list, name)));
        Some(names)
    }

    /// The context, tokens, that a listed model should be loaded with; settings may leave out its tag `:latest`.
    pub fn expected_context(&self, listed: &str) -> Option<u64> {
        let bare = listed.strip_suffix(":latest");
        self.context_length.get(listed).or_else(|| self.context_length.get(bare?)).copied()
    }

    /// The aliases that lead to a listed model which the key may use, each with that model's listed name.
    pub fn listed_aliases(&self, allowed: &[AllowedModels], scheduler: &Scheduler) -> Vec<(String, Arc<str>)> {
        let listed = |alias: &String| match self.resolve(alias, allowed, scheduler) {
            Meaning::Model(found) => Some((alias.clone(), found.listed)),
            Meaning::Forbidden | Meaning::Unknown => None,
        };
        self.aliases.keys().filter_map(listed).collect()
    }
}

/// Finds a model by its name in any spelling. Returns the name to ask a node for, which is the client's own spelling if
/// the scheduler knows it, and the listed name.
pub(super) fn find_listed<'a>(name: &'a str, scheduler: &'a Scheduler) -> Option<(&'a str, &'a str)> {
    if let Some(model) = scheduler.find_model(name) {
        return Some((name, &model.name));
    }
    let listed = scheduler.models().into_iter().map(|model| model.name.as_str());
    let listed = listed.into_iter().find(|listed| ModelName::same(listed, name))?;
    Some((listed, listed))
}

/// What a model's name means for a key.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// A model that the key may use.
    Model(Resolved),
    /// A listed model that the key may not use.
    Forbidden,
    /// No node lists such a model.
    Unknown,
}

/// A model that some node lists.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name to ask a node for.
    pub name: Arc<str>,
    /// The name as a node lists it.
    pub listed: Arc<str>,
}

/// The models that nodes list, and other names for them.
#[derive(Clone, Debug)]
pub struct KnownModels {
    fleet: FleetContext,
    names: Live<ModelNames>,
}

impl FromRequest for KnownModels {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let found = dependency::<FleetContext>(request).and_then(|fleet| {
            let names = dependency::<Live<ModelNames>>(request)?;
            Ok(Self { fleet: fleet.as_ref().clone(), names: names.as_ref().clone() })
        });
        ready(found)
    }
}

impl KnownModels {
    /// A sentence for each name that no node lists and that is no alias.
    pub(super) fn warnings(&self, names: &[String]) -> Vec<String> {
        let operators = self.names.get();
        self.fleet.dispatcher.read(|scheduler| {
            let is_known = |name: &str| operators.alias_of(name).is_some() || find_listed(name, scheduler).is_some();
            let unknown = names.iter().filter(|name| !is_known(name));
            unknown.map(|name| format!("No node has the model `{name}`, and no alias is called so.")).collect()
        })
    }
}
