//! Who used how much of what? Reports over whole days, as JSON page by page, or all of it as CSV.
mod table;

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use self::table::text_of;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::reads::Reads;
use crate::http::time::moment;
use crate::http::usage::{PageQuery, bad_cursor, cursor};
use crate::http::{answers, csv};
use crate::store::{Accounts, Dimension, Group, Label, Recorder, Report, Store, Sums};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Which report.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// First day (UTC), a date; midnight UTC in RFC 3339 will do. Default: from the beginning.
    #[param(example = "2026-11-01", value_type = String, format = Date, required = false)]
    from: Option<String>,
    /// First day that is not included. Default: no end.
    #[param(example = "2026-12-01", value_type = String, format = Date, required = false)]
    to: Option<String>,
    #[param(ignore)]
    group_by: Option<String>,
    /// Only this user; `ann~1` is the first of several users of one name.
    user: Option<String>,
    /// Only this key, by its id; empty = requests without a key, from a trusted network.
    key: Option<String>,
    /// Only this model, as requests named it.
    model: Option<String>,
    /// Only this node; empty = requests that reached none.
    node: Option<String>,
    /// Only this group, `research~2` for the second one of that name; empty = requests of users without one.
    group: Option<String>,
    #[param(schema_with = csv::format_schema)]
    format: Option<String>,
    /// JSON only: groups a page, 1 to 1000. Default 100.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// JSON only: the `next` of the page before.
    after: Option<String>,
}

/// The parameter `group_by`, a list in one text, as the derive cannot say it.
pub struct GroupBy;

impl IntoParams for GroupBy {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let words = Dimension::ALL.map(Dimension::as_str);
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words));
        let words = ArrayBuilder::new().items(word).unique_items(true).min_items(Some(1));
        let says = "What is told apart, separated by commas; the groups come in this order. Default `user`.";
        let parameter = ParameterBuilder::new().name("group_by").parameter_in(ParameterIn::Query).schema(Some(words));
        let parameter = parameter.required(Required::False).style(Some(ParameterStyle::Form)).explode(Some(false));
        vec![parameter.description(Some(says)).build()]
    }
}

/// Sums of what is alike in everything that `group_by` names, and nothing else is told.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ReportGroup {
    /// With `user`: whose; `ann~2` is the second user of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    /// With `key`: the key's id; null where a network stood for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key_id: Option<Option<String>>,
    /// With `model`: as requests named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// With `node`: the node that was asked last; null where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    node: Option<Option<String>>,
    /// With `day`: the day of arrival (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-25", format = Date)]
    day: Option<String>,
    /// With `status`: how requests ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "completed")]
    status: Option<String>,
    /// With `group`: the group under whose limits requests were admitted; null where there was none. `research~2` is the
    /// second group of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    group_id: Option<Option<String>>,
    #[serde(flatten)]
    sums: ReportSums,
}

/// Requests and what they took. Refused ones are counted apart, and add nothing else.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ReportSums {
    /// How many, refused ones not counted.
    requests: i64,
    /// How many were refused.
    refused: i64,
    /// Tokens of prompts.
    prompt_tokens: i64,
    /// Tokens of answers.
    completion_tokens: i64,
    /// Both.
    total_tokens: i64,
    /// Waiting for slots, milliseconds.
    queue_ms: i64,
    /// From arrival to end, milliseconds.
    duration_ms: i64,
    /// Loading models, milliseconds.
    load_ms: i64,
    /// Nodes' time for prompts, milliseconds, as far as it is known.
    prefill_ms: i64,
    /// Nodes' time for answers, milliseconds, as far as it is known.
    decode_ms: i64,
}

/// A page of a report.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageReport {
    /// Always `list`.
    object: &'static str,
    /// The groups.
    data: Vec<ReportGroup>,
    /// Over the whole report, not this page alone.
    total: ReportSums,
    /// For `after`; null on the last page.
    next: Option<String>,
}

impl From<Sums> for ReportSums {
    fn from(sums: Sums) -> Self {
        Self {
            requests: sums.requests,
            refused: sums.refused,
            prompt_tokens: sums.prompt_tokens,
            completion_tokens: sums.completion_tokens,
            total_tokens: sums.prompt_tokens.saturating_add(sums.completion_tokens),
            queue_ms: sums.queue_ms,
            duration_ms: sums.duration_ms,
            load_ms: sums.load_ms,
            prefill_ms: sums.prefill_ms,
            decode_ms: sums.decode_ms,
        }
    }
}

impl ReportGroup {
    fn new(group_by: &[Dimension], group: &Group) -> Self {
        let mut shown = Self { sums: group.sums.into(), ..Self::default() };
        for (dimension, label) in group_by.iter().zip(&group.labels) {
            let text = text_of(label);
            let or_null = |text: String| Some(text).filter(|text| !text.is_empty());
            match dimension {
                Dimension::User => shown.user_id = Some(text),
                Dimension::Key => shown.key_id = Some(or_null(text)),
                Dimension::Model => shown.model = Some(text),
                Dimension::Node => shown.node = Some(or_null(text)),
                Dimension::Day => shown.day = Some(text),
                Dimension::Status => shown.status = Some(text),
                Dimension::Group => shown.group_id = Some(or_null(text)),
            }
        }
        shown
    }
}

impl ReportQuery {
    fn report(&self) -> Result<Report, ApiError> {
        Ok(Report {
            group_by: dimensions(self.group_by.as_deref().unwrap_or(Dimension::User.as_str()))?,
            from_day: day("from", self.from.as_deref())?,
            to_day: day("to", self.to.as_deref())?,
            only: self.only()?,
        })
    }

    fn only(&self) -> Result<Vec<(Dimension, String)>, ApiError> {
        let filters = [
            (Dimension::User, &self.user),
            (Dimension::Key, &self.key),
            (Dimension::Model, &self.model),
            (Dimension::Node, &self.node),
            (Dimension::Group, &self.group),
        ];
        let given = filters.into_iter().filter_map(|(dimension, name)| Some((dimension, name.clone()?)));
        given
            .map(|(dimension, name)| match name.contains('\0') {
                // Postgres cannot compare a text with it.
                true => Err(ApiError::invalid_field(dimension.as_str(), "A name cannot contain a NUL character.")),
                false => Ok((dimension, name)),
            })
            .collect()
    }

    fn page(&self) -> PageQuery {
        PageQuery::new(self.limit, self.after.clone())
    }
}

fn dimensions(text: &str) -> Result<Vec<Dimension>, ApiError> {
    let mut found = Vec::new();
    for word in text.split(',') {
        match Dimension::ALL.into_iter().find(|dimension| dimension.as_str() == word) {
            Some(dimension) if !found.contains(&dimension) => found.push(dimension),
            _ => {
                let words = Dimension::ALL.map(|dimension| format!("`{}`", dimension.as_str())).join(", ");
                let message = format!("`group_by` must be one or more of {words}, each once, separated by commas.");
                return Err(ApiError::invalid_field("group_by", message));
            }
        }
    }
    Ok(found)
}

/// Days since 1970-01-01 UTC.
fn day(field: &'static str, text: Option<&str>) -> Result<Option<i32>, ApiError> {
    let no_day = || {
        let message =
            format!("`{field}` must be a date, or midnight UTC in RFC 3339: reports are of whole days (UTC).");
        ApiError::invalid_field(field, message)
    };
    match moment(field, text) {
        Ok(None) => Ok(None),
        Ok(Some(moment_ms)) if moment_ms.rem_euclid(DAY_MS) == 0 => Ok(i32::try_from(moment_ms / DAY_MS).ok()),
        Ok(Some(_)) | Err(_) => Err(no_day()),
    }
}

/// A place in a report is the labels of the group there, each with its dimension, so that it fits no other report.
fn cursor_of(group_by: &[Dimension], group: &Group) -> Option<String> {
    let place: Vec<_> = group_by.iter().zip(&group.labels).collect();
    Some(cursor(&serde_json::to_vec(&place).ok()?))
}

fn place_of(cursor: &[u8], group_by: &[Dimension]) -> Result<Vec<Label>, ApiError> {
    let place: Vec<(Dimension, Label)> = serde_json::from_slice(cursor).map_err(|_| bad_cursor())?;
    let (dimensions, labels): (Vec<_>, Vec<_>) = place.into_iter().unzip();
    let fits = |(label, dimension): (&Label, &Dimension)| {
        label.is_of(*dimension) && !matches!(label, Label::Name(name) if name.contains('\0'))
    };
    if dimensions != group_by || !labels.iter().zip(group_by).all(fits) {
        return Err(bad_cursor());
    }
    Ok(labels)
}

/// Report usage
///
/// Sums over whole days (UTC), of all users or one; they outlive the rows. Ordered by what `group_by` names.
#[utoipa::path(
    get, path = "/admin/usage", tag = "admin", params(ReportQuery, GroupBy), security(("admin_key" = [])),
    responses(
        (status = 200, description = "The groups; as CSV with a line of headings, and nothing for null.", content(
            (UsageReport = "application/json"), (String = "text/csv", example = "user_id,requests,…\r\n"),
        )),
        answers::AdminResponses, answers::StorageResponse,
    ),
)]
pub async fn report(
    _: Admin,
    accounts: Data<Accounts>,
    store: Data<Store>,
    recorder: Data<Recorder>,
    reads: Data<Reads>,
    request: HttpRequest,
    query: Query<ReportQuery>,
) -> Result<HttpResponse, ApiError> {
    let mut report = query.report()?;
    // A name may have been used again: the report is about whoever has it now.
    for (_, user) in report.only.iter_mut().filter(|(dimension, _)| *dimension == Dimension::User) {
        *user = accounts.usage_id(user).await?.to_string();
    }
    if csv::is_asked_for(request.headers(), query.format.as_deref(), query.limit, query.after.as_deref())? {
        recorder.flush().await;
        return table::answer(store.as_ref().clone(), report, reads.into_inner()).await;
    }
    // Arguments are checked before the flush, which costs everybody a write.
    let page = query.page();
    let limit = page.limit()?;
    let after = page.after()?.map(|cursor| place_of(&cursor, &report.group_by)).transpose()?;
    recorder.flush().await;
    let _turn = reads.report().await?;
    let (groups, more, total) = store.report_page_and_total(&report, after.as_deref(), limit).await?;
    let next = groups.last().filter(|_| more).and_then(|group| cursor_of(&report.group_by, group));
    let data = groups.iter().map(|group| ReportGroup::new(&report.group_by, group)).collect();
    Ok(HttpResponse::Ok().json(UsageReport { object: "list", data, total: total.into(), next }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_date_or_midnight_in_any_zone() {
        for text in ["2026-11-25", "2026-11-25T00:00:00Z", "2026-11-25T05:30:00+05:30"] {
            assert_eq!(day("from", Some(text)).unwrap(), Some(20_782), "{text}");
        }
        for text in ["2026-11-25T00:00:01Z", "2026-11-25T00:00:00+01:00", "25.11.2026", ""] {
            let error = day("to", Some(text)).unwrap_err();
            assert_eq!((error.object().param, error.code()), (Some("to"), 400), "{text}");
        }
        assert_eq!(text_of(&Label::Day(20_782)), "2026-11-25");
        assert_eq!(text_of(&Label::Day(-1)), "1969-12-31");
    }

    #[test]
    fn a_place_fits_its_own_report_alone() {
        let group_by = [Dimension::Day, Dimension::Node];
        let labels = vec![Label::Day(20_782), Label::Name(String::new())];
        let cursor = cursor_of(&group_by, &Group { labels: labels.clone(), sums: Sums::default() }).unwrap();
        let decode = |group_by: &[Dimension]| {
            place_of(&PageQuery::new(None, Some(cursor.clone())).after().unwrap().unwrap(), group_by)
        };
        assert_eq!(decode(&group_by).unwrap(), labels);
        for other in [&[Dimension::Day][..], &[Dimension::Node, Dimension::Day], &[Dimension::Day, Dimension::Key], &[]]
        {
            assert!(decode(other).is_err(), "{other:?}");
        }
        assert!(place_of(br#"[["day","2026-11-25"]]"#, &[Dimension::Day]).is_err());
        assert!(place_of(br#"[["user","a\u0000"]]"#, &[Dimension::User]).is_err());
    }
}
