//! How does a browser sign in at the console, and out? A key is sent once; from then on a session stands for it.
use actix_web::http::header::{CACHE_CONTROL, SET_COOKIE};
use actix_web::web::{Data, Json};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admin::demo::DemoTraffic;
use super::answers;
use super::auth::{Identity, identify, identity_of};
use super::body::JsonObject;
use super::cookies::{Site, set_cookie, site_of, token_of};
use super::credentials::{check_page, no_key, session_ended};
use super::error::ApiError;
use super::sessions::{Session, Sessions};
use super::time::rfc3339;
use crate::relay::Meters;

/// A key to sign in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// A user's key, an administrator's, or the admin key of the configuration.
    #[schema(example = "sk-user-123-0123456789abcdef0123456789abcdef")]
    api_key: String,
}

/// Who is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignedIn {
    /// `admin` or `user`.
    #[schema(example = "admin")]
    kind: &'static str,
    /// Of the user or the administrator; `configured key` for the admin key of the configuration.
    #[schema(example = "configured key")]
    name: String,
    /// Of an administrator: `admin`, `operator` or `viewer`; null for a user.
    #[schema(example = "admin")]
    role: Option<&'static str>,
    /// When the session ends at the latest, RFC 3339 in UTC.
    expires_at: String,
    /// Whether this is the demo, whose simulated traffic can be turned on and off.
    #[schema(example = false)]
    is_demo: bool,
}

impl SignedIn {
    fn new(request: &HttpRequest, identity: &Identity, session: &Session) -> Self {
        let expires_at = rfc3339(session.until_ms);
        let is_demo = request.app_data::<Data<DemoTraffic>>().is_some();
        match identity {
            Identity::Admin(actor) => Self {
                kind: "admin",
                name: actor.name.to_string(),
                role: Some(actor.role.as_str()),
                expires_at,
                is_demo,
            },
            Identity::User(access) => {
                Self { kind: "user", name: access.user().as_str().to_owned(), role: None, expires_at, is_demo }
            }
        }
    }
}

/// Sign in
///
/// The answer's cookie stands for the key, at this gateway, for 12 hours or until the key ends: on `/admin`, `/v1/me`,
/// `/v1/models`, `/v1/usage` and `/v1/chat/completions`. With the cookie, every method but GET needs the header `x-console: 1`
/// and must come from a page of this gateway.
#[utoipa::path(
    post, path = "/console/session", tag = "console", request_body = SignIn,
    responses(
        (status = 200, body = SignedIn, headers(("set-cookie" = String, description = "The session."))),
        answers::AdminResponses, answers::StorageResponse,
    ),
)]
pub async fn begin(
    request: HttpRequest,
    sessions: Data<Sessions>,
    meters: Data<Meters>,
    JsonObject(body): JsonObject<SignIn>,
) -> Result<HttpResponse, ApiError> {
    let before = token_of(request.headers());
    if before.is_some() {
        check_page(&request)?;
    } else if site_of(request.headers()) == Site::Other {
        return Err(ApiError::forbidden("Signing in works only from the console's own page."));
    }
    let (owner, identity, key_ends_ms) = identify(&request, &body.api_key)?;
    let now = meters.clock.now();
    let (token, session) = sessions.open(owner, key_ends_ms, now)?;
    before.into_iter().for_each(|token| sessions.end(token));
    let signed_in = SignedIn::new(&request, &identity, &session);
    tracing::info!(kind = signed_in.kind, name = signed_in.name, role = signed_in.role, "signed in at the console");
    let cookie = set_cookie(request.headers(), &token, (session.until_ms - now.unix_ms) / 1000);
    Ok(HttpResponse::Ok()
        .insert_header((SET_COOKIE, cookie))
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(signed_in))
}

/// Who is signed in
#[utoipa::path(
    get, path = "/console/session", tag = "console", security(("session" = [])),
    responses(
        (status = 200, body = SignedIn), (status = 401, description = "Nobody.", body = answers::ErrorBody),
        (status = 403, description = "The user is suspended.", body = answers::ErrorBody),
    ),
)]
pub async fn retrieve(
    request: HttpRequest,
    sessions: Data<Sessions>,
    meters: Data<Meters>,
) -> Result<Json<SignedIn>, ApiError> {
    let token = token_of(request.headers()).ok_or_else(no_key)?;
    let session = sessions.find(token, meters.clock.now()).ok_or_else(session_ended)?;
    let identity = identity_of(&request, &session)?;
    Ok(Json(SignedIn::new(&request, &identity, &session)))
}

/// Sign out
///
/// The session ends here, in every window of the browser.
#[utoipa::path(
    delete, path = "/console/session", tag = "console", security(("session" = [])),
    responses(
        (status = 204, description = "Nobody is signed in any more."),
        (status = 401, description = "Nobody was signed in.", body = answers::ErrorBody),
        (status = 403, description = "Not from the console's own page.", body = answers::ErrorBody),
    ),
)]
pub async fn end(request: HttpRequest, sessions: Data<Sessions>) -> Result<HttpResponse, ApiError> {
    let token = token_of(request.headers()).ok_or_else(no_key)?;
    check_page(&request)?;
    sessions.end(token);
    Ok(HttpResponse::NoContent().insert_header((SET_COOKIE, set_cookie(request.headers(), "", 0))).finish())
}
