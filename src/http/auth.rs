//! Whose key is this? User keys open user routes, administrators' keys admin routes, and neither the other's. A session at the
//! console stands for the key that it was opened with.
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use serde_json::Value;

use super::admin::rules::Rule;
use super::audited;
use super::cookies::token_of;
use super::counters::Guesses;
use super::credentials::{Credential, credential, dependency, key_of, no_key, session_ended};
use super::error::ApiError;
use super::sessions::{Owner, Session, Sessions};
use super::settings::ServerSettings;
use crate::relay::Meters;
use crate::store::{Access, Accounts, Administrator, AuditDraft, Found, FoundAdmin, KeyDigest, Role, Store};

/// The digest of the admin key.
#[derive(Clone, Copy, Debug)]
pub struct AdminKey(pub KeyDigest);

/// The user who calls.
#[derive(Clone, Debug)]
pub struct Caller(pub Access);

/// Proof that whoever calls has sent no key, or the key of a user.
#[derive(Clone, Copy, Debug)]
pub struct Anybody;

/// Proof that an administrator calls, whose role suffices.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What the request leaves in the audit log; `None` where it only reads.
    draft: Option<Arc<AuditDraft>>,
    store: Data<Store>,
}

/// An administrator.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
}

/// Whom a key or a session stands for.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    Admin(Actor),
    User(Access),
}

impl Admin {
    /// Has the audit log say what a change in the database does, to whom or what: what is there before and afterwards, `None` =
    /// nothing. Never with a secret. The entry is written in the transaction that makes the change.
    pub(super) fn changes(&self, target: &str, before: Option<Value>, after: Option<Value>) {
        self.draft.iter().for_each(|draft| draft.changes(target, before.clone(), after.clone()));
    }

    /// The same where what is there afterwards is what the body asks for.
    pub(super) fn changes_from(&self, target: &str, before: Option<Value>) {
        self.draft.iter().for_each(|draft| draft.changes_from(target, before.clone()));
    }

    /// Writes to the audit log that something is about to be done which is no matter of the database.
    ///
    /// # Errors
    /// When that cannot be written: then it must not be done.
    pub(super) async fn begins(&self, target: &str, asked: Option<Value>) -> Result<(), ApiError> {
        let Some(draft) = &self.draft else { return Ok(()) };
        asked.into_iter().for_each(|asked| draft.asks(asked));
        draft.changes_from(target, None);
        Ok(self.store.begin_audited(draft).await?)
    }
}

impl Actor {
    /// Whoever has the admin key of the configuration. No administrator's name has a blank in it.
    fn configured() -> Self {
        Self { name: "configured key".into(), role: Role::Admin }
    }

    fn named(admin: &Administrator) -> Self {
        Self { name: admin.name.clone(), role: admin.role }
    }
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(caller(request))
    }
}

impl FromRequest for Anybody {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match key_of(request.headers()) {
            Ok(None) => Ok(Self),
            _ => caller(request).map(|_| Self),
        })
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(admin(request))
    }
}

/// The name of the user who calls, for whoever looks at the request afterwards.
#[derive(Clone, Debug)]
pub(super) struct CalledBy(pub(super) Arc<str>);

/// The owner of the request's key; without a key, the user whom its network stands for.
pub(super) fn caller(request: &HttpRequest) -> Result<Caller, ApiError> {
    let caller = find_caller(request)?;
    request.extensions_mut().insert(CalledBy(caller.0.user().shared()));
    Ok(caller)
}

fn find_caller(request: &HttpRequest) -> Result<Caller, ApiError> {
    let accounts = dependency::<Accounts>(request)?;
    let key = match credential(request)? {
        Credential::Key(key) => key,
        Credential::Session(session) => return caller_of(request, &session),
        Credential::EndedSession => return trusted(request, accounts).ok_or_else(session_ended).and_then(let_in),
        Credential::Nothing => return trusted(request, accounts).ok_or_else(no_key).and_then(let_in),
    };
    match accounts.find(key, dependency::<Meters>(request)?.clock.now()) {
        Found::Access(access) => let_in(access),
        Found::Expired => Err(expired()),
        Found::Unknown if is_admins(request, accounts, key)? => Err(ApiError::unauthorized(
            "The admin key is no user key. Make a user with POST /admin/users and use its key.",
        )),
        // While the database is away, it may be the key of somebody this gateway has not heard of yet.
        Found::Unknown if !accounts.is_current() => Err(ApiError::users_away()),
        // Programs that talk to Ollama send a placeholder where they have no key.
        Found::Unknown => match trusted(request, accounts) {
            Some(caller) => let_in(caller),
            None => Err(wrong(request, "Incorrect API key. Ask the operator of this service for a key.")?),
        },
    }
}

fn is_admins(request: &HttpRequest, accounts: &Accounts, key: &str) -> Result<bool, ApiError> {
    let now = dependency::<Meters>(request)?.clock.now();
    Ok(dependency::<AdminKey>(request)?.0.matches(&KeyDigest::of(key))
        || !matches!(accounts.find_admin(key, now).0, FoundAdmin::Unknown))
}

fn caller_of(request: &HttpRequest, session: &Session) -> Result<Caller, ApiError> {
    match identity_of(request, session)? {
        Identity::User(access) => Ok(Caller(access)),
        Identity::Admin(_) => Err(ApiError::unauthorized(
            "You are signed in as an administrator, and this path is for users: sign in with a user's key.",
        )),
    }
}

/// Whom a session stands for. It ends with its key.
pub(super) fn identity_of(request: &HttpRequest, session: &Session) -> Result<Identity, ApiError> {
    let now = dependency::<Meters>(request)?.clock.now();
    let accounts = dependency::<Accounts>(request)?;
    let identity = match session.owner {
        Owner::ConfiguredKey => Some(Identity::Admin(Actor::configured())),
        Owner::Admin(digest) => match accounts.admin_by_digest(&digest, now) {
            FoundAdmin::Admin(admin) => Some(Identity::Admin(Actor::named(&admin))),
            FoundAdmin::Expired | FoundAdmin::Unknown => None,
        },
        Owner::User(digest) => match accounts.by_digest(&digest, now) {
            Found::Access(access) => Some(Identity::User(let_in(access)?.0)),
            Found::Expired | Found::Unknown => None,
        },
    };
    if let (None, Some(token)) = (&identity, token_of(request.headers())) {
        dependency::<Sessions>(request)?.end(token);
    }
    identity.ok_or_else(session_ended)
}

/// Whom a key that is presented stands for, whichever kind it is; and for how long, epoch milliseconds.
pub(super) fn identify(request: &HttpRequest, key: &str) -> Result<(Owner, Identity, Option<i64>), ApiError> {
    let (accounts, now) = (dependency::<Accounts>(request)?, dependency::<Meters>(request)?.clock.now());
    if dependency::<AdminKey>(request)?.0.matches(&KeyDigest::of(key)) {
        return Ok((Owner::ConfiguredKey, Identity::Admin(Actor::configured()), None));
    }
    match accounts.find_admin(key, now) {
        (FoundAdmin::Admin(admin), Some(digest)) => {
            let identity = Identity::Admin(Actor::named(&admin));
            return Ok((Owner::Admin(digest), identity, admin.expires_at_ms));
        }
        (FoundAdmin::Expired, _) => return Err(expired()),
        _ => {}
    }
    match (accounts.digest_of(key, now), accounts.find(key, now)) {
        (Some(digest), Found::Access(access)) => {
            let (ends_ms, Caller(access)) = (access.expires_at_ms(), let_in(access)?);
            Ok((Owner::User(digest), Identity::User(access), ends_ms))
        }
        (_, Found::Expired) => Err(expired()),
        _ if !accounts.is_current() => Err(ApiError::users_away()),
        _ => Err(wrong(request, "Incorrect API key. Sign in with a user's key or an administrator's.")?),
    }
}

/// What a key that is none hears: 401 some times, and then 429.
fn wrong(request: &HttpRequest, message: &str) -> Result<ApiError, ApiError> {
    let now = dependency::<Meters>(request)?.clock.uptime();
    // Of the connection itself: what headers say of an address can be forged.
    let guessed = match request.peer_addr() {
        Some(address) => dependency::<Guesses>(request)?.wrong(address.ip(), now),
        None => Ok(()),
    };
    Ok(match guessed {
        Ok(()) => ApiError::unauthorized(message),
        Err(retry_after) => ApiError::guessed_too_often(retry_after),
    })
}

/// A key may be good, and its user suspended all the same.
fn let_in(access: Access) -> Result<Caller, ApiError> {
    if access.account().is_suspended() { Err(ApiError::suspended()) } else { Ok(Caller(access)) }
}

fn trusted(request: &HttpRequest, accounts: &Accounts) -> Option<Access> {
    let networks = &request.app_data::<Data<ServerSettings>>()?.trusted_networks;
    // Of the connection itself: what headers say of an address can be forged.
    let address = request.peer_addr()?.ip().to_canonical();
    let network = networks.iter().find(|network| network.cidr.contains(&address))?;
    let now = dependency::<Meters>(request).ok()?.clock.now();
    accounts.by_network(&network.user, now)
}

fn admin(request: &HttpRequest) -> Result<Admin, ApiError> {
    let identity = match credential(request)? {
        Credential::Key(key) => Identity::Admin(admin_by_key(request, key)?),
        Credential::Session(session) => identity_of(request, &session)?,
        Credential::EndedSession => return Err(session_ended()),
        Credential::Nothing => return Err(no_key()),
    };
    let Identity::Admin(actor) = identity else { return Err(not_for_users()) };
    let draft = audited::draft(request);
    // Before the role is checked, so that the audit log says who tried in vain.
    draft.iter().for_each(|draft| draft.by(actor.name.clone(), actor.role.as_str()));
    let needed = Rule::of(request.method(), &request.match_pattern().unwrap_or_default()).role;
    if actor.role < needed {
        return Err(ApiError::role_too_low(actor.role, needed));
    }
    Ok(Admin { draft, store: dependency::<Store>(request)?.clone() })
}

fn admin_by_key(request: &HttpRequest, key: &str) -> Result<Actor, ApiError> {
    if dependency::<AdminKey>(request)?.0.matches(&KeyDigest::of(key)) {
        return Ok(Actor::configured());
    }
    let (accounts, now) = (dependency::<Accounts>(request)?, dependency::<Meters>(request)?.clock.now());
    match accounts.find_admin(key, now).0 {
        FoundAdmin::Admin(admin) => return Ok(Actor::named(&admin)),
        FoundAdmin::Expired => return Err(expired()),
        FoundAdmin::Unknown => {}
    }
    Err(match accounts.find(key, now) {
        Found::Access(_) | Found::Expired => not_for_users(),
        Found::Unknown if !accounts.is_current() => ApiError::users_away(),
        Found::Unknown => wrong(request, "Incorrect admin key.")?,
    })
}

fn expired() -> ApiError {
    ApiError::unauthorized("This API key has expired. Ask the operator for a new one.")
}

fn not_for_users() -> ApiError {
    ApiError::forbidden("A user's key does not open this path; it takes an administrator's key.")
}
