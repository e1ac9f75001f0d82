//! Is every page what adding up all sums would make of it, whichever way it is read?
use std::collections::BTreeMap;

use entity::usage_rollup::{Entity, Model};
use entity::usage_total;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select as one_of, subsequence};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, IntoActiveModel};

use super::{Bounds, page_of_parts, read};
use crate::store::report_query::{Dimension, Label, Report};
use crate::store::report_statements::{Source, select};
use crate::store::scratch::Scratch;

const NUMBERS: [&str; 8] =
    ["requests", "prompt_tokens", "completion_tokens", "queue_ms", "duration_ms", "load_ms", "prefill_ms", "decode_ms"];
const DAYS: std::ops::Range<i32> = 10..15;
/// Below and above what parts have, so that each way of reading has its turn.
const FEWS: [u64; 4] = [0, 3, 12, 20_000];
const MANYS: [u64; 3] = [0, 12, 100_000];
const CASES: u32 = 48;

/// Sums of which some users have most, and names whose order differs from their users'.
fn sums() -> impl Strategy<Value = Vec<Model>> {
    let user = prop_oneof![3 => 0..3_u8, 1 => 0..12_u8];
    let model = prop_oneof![6 => Just("m"), 3 => Just("a,\"b\""), 1 => Just("ü")];
    let kind = (DAYS, model, one_of(vec!["", "a", "b"]), one_of(vec!["completed", "refused"]), one_of(vec!["", "lab"]));
    let sum =
        (user, 0..3_u8, kind, 1..9_i64).prop_map(|(user, key, (day, model, node, status, group), requests)| Model {
            day,
            user_id: format!("user-{}", char::from(b'a' + user)),
            key_id: if key == 0 { String::new() } else { format!("key_{}", (user * 7 + key * 5) % 23) },
            model: model.to_owned(),
            node: node.to_owned(),
            status: status.to_owned(),
            group_id: group.to_owned(),
            requests,
            prompt_tokens: requests * 3,
            completion_tokens: requests + 1,
            queue_ms: 1,
            duration_ms: 2,
            load_ms: 3,
            prefill_ms: 4,
            decode_ms: 5,
        });
    vec(sum, 0..70)
}

fn label_of(dimension: Dimension) -> BoxedStrategy<Label> {
    let names: &[&str] = match dimension {
        Dimension::User => &["", "user-a", "user-bb", "user-c", "user-k"],
        Dimension::Key => &["", "key_1", "key_12", "key_7"],
        Dimension::Model => &["a,\"b\"", "b", "m", "ü"],
        Dimension::Node | Dimension::Group => &["", "a", "lab", "z"],
        Dimension::Status => &["completed", "m", "refused"],
        Dimension::Day => return (DAYS.start - 1..DAYS.end).prop_map(Label::Day).boxed(),
    };
    one_of(names.to_vec()).prop_map(|name| Label::Name(name.to_owned())).boxed()
}

/// A report that tells users or keys apart, and a place in it.
fn reports() -> impl Strategy<Value = (Report, Option<Vec<Label>>)> {
    let group_by = subsequence(Dimension::ALL.to_vec(), 1..=Dimension::ALL.len()).prop_shuffle();
    let group_by = group_by.prop_filter("of all users", |group_by| group_by.iter().any(|one| one.is_name()));
    let shared = [Dimension::Model, Dimension::Node, Dimension::Status, Dimension::Group];
    let only = subsequence(shared.to_vec(), 0..=2).prop_flat_map(|dimensions| {
        let labels: Vec<_> = dimensions.iter().map(|dimension| label_of(*dimension)).collect();
        labels.prop_map(move |labels| {
            let only = dimensions.iter().zip(labels).filter_map(|(dimension, label)| match label {
                Label::Name(name) => Some((*dimension, name)),
                Label::Day(_) => None,
            });
            only.collect::<Vec<_>>()
        })
    });
    let days = (option::weighted(0.3, DAYS), option::weighted(0.3, DAYS));
    (group_by, prop_oneof![2 => Just(Vec::new()), 1 => only], days).prop_flat_map(|(group_by, only, days)| {
        let place: Vec<_> = group_by.iter().map(|dimension| label_of(*dimension)).collect();
        let (from_day, to_day) = days;
        let report = Report { group_by, from_day, to_day, only };
        (Just(report), option::of(place))
    })
}

async fn fill(db: &DatabaseConnection, sums: Vec<Model>) {
    Entity::delete_many().exec(db).await.unwrap();
    usage_total::Entity::delete_many().exec(db).await.unwrap();
    let key = |sum: &Model| {
        let Model { day, user_id, key_id, model, node, status, group_id, .. } = sum.clone();
        (day, user_id, key_id, model, node, status, group_id)
    };
    let sums: BTreeMap<_, _> = sums.into_iter().map(|sum| (key(&sum), sum)).collect();
    if !sums.is_empty() {
        let sums = sums.into_values().map(IntoActiveModel::into_active_model);
        Entity::insert_many(sums).exec_without_returning(db).await.unwrap();
    }
    let (kinds, numbers) = ("day, model, node, status, group_id", NUMBERS.join(", "));
    let sum = NUMBERS.map(|number| format!("sum({number})")).join(", ");
    let totals = format!(
        "INSERT INTO usage_totals ({kinds}, {numbers}) SELECT {kinds}, {sum} FROM usage_rollups GROUP BY {kinds}"
    );
    db.execute_unprepared(&totals).await.unwrap();
}

async fn check(
    db: &DatabaseConnection,
    report: &Report,
    place: Option<Vec<Label>>,
    (limit, bounds): (u64, Bounds),
) -> Result<(), TestCaseError> {
    let all = read(db, report, &select(report, Source::Sums, place.as_deref(), 10_000)).await.unwrap();
    let (mut groups, mut after) = (Vec::new(), place);
    loop {
        let page = page_of_parts(db, report, after.as_deref(), limit, bounds).await.unwrap();
        let is_last = page.len() as u64 != limit;
        after = page.last().map(|group| group.labels.clone()).or(after);
        groups.extend(page);
        if is_last {
            break;
        }
    }
    prop_assert_eq!(groups, all);
    Ok(())
}

#[test]
fn every_page_shows_what_all_sums_add_up_to() {
    let system = actix_rt::System::new();
    for scratch in system.block_on(Scratch::each()) {
        let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let bounds = (one_of(FEWS.to_vec()), one_of(MANYS.to_vec())).prop_map(|(few, many)| Bounds { few, many });
        let cases = (sums(), vec((reports(), 1..9_u64, bounds), 12));
        let ran = runner.run(&cases, |(sums, reports)| {
            system.block_on(async {
                fill(&scratch.db, sums).await;
                for ((report, place), limit, bounds) in reports {
                    check(&scratch.db, &report, place, (limit, bounds)).await?;
                }
                Ok(())
            })
        });
        system.block_on(scratch.remove());
        assert!(ran.is_ok(), "{}", ran.unwrap_err());
    }
}
