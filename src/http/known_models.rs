//! Is there a model of this name? As nodes list it, or as the operator's names mean it.
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};

use super::Live;
use super::credentials::dependency;
use super::error::ApiError;
use super::names::{ModelNames, find_listed};
use crate::fleet::FleetContext;

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
