//! Does whatever is done to the audit log show? Each way to tamper with it is tried at each entry.
use entity::audit::{Column, Entity, Model};
use entity::audit_chain;
use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel, QueryOrder, Set};
use uuid::Uuid;

use super::entry::digest_of;
use super::{AuditEntry, AuditSearch, Verified};
use crate::store::database::Store;
use crate::store::settings::DatabaseSettings;

const LINES: i64 = 6;

async fn open(folder: &tempfile::TempDir) -> Store {
    let url = format!("sqlite://{}/gateway.db", folder.path().display());
    Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap()
}

fn entry(at_ms: i64) -> AuditEntry {
    AuditEntry {
        at_ms,
        actor: "eve".to_owned(),
        role: "admin",
        method: "DELETE".to_owned(),
        route: "/admin/users/{id}".to_owned(),
        target: format!("user-{at_ms}"),
        before: Some("{\"weight\":1}".to_owned()),
        after: None,
        request_id: Uuid::now_v7(),
        status: Some(200),
    }
}

/// A log of some entries, whose times are 1, 2, 3, …
async fn log(folder: &tempfile::TempDir) -> Store {
    let store = open(folder).await;
    for at_ms in 1..=LINES {
        store.audit(entry(at_ms)).await.unwrap();
    }
    assert_eq!(first_and_last(&store).await, Ok((1, LINES)));
    store
}

async fn first_and_last(store: &Store) -> Result<(i64, i64), (i64, &'static str)> {
    match store.verify_audit().await.unwrap() {
        Verified::Whole { first_seq, last_seq, .. } => Ok((first_seq, last_seq)),
        Verified::Broken { seq, why } => Err((seq, why)),
    }
}

async fn lines(store: &Store) -> Vec<Model> {
    Entity::find().order_by_asc(Column::Seq).all(&store.db).await.unwrap()
}

/// Puts these entries in the place of all.
async fn replace(store: &Store, lines: &[Model]) {
    Entity::delete_many().exec(&store.db).await.unwrap();
    for line in lines {
        line.clone().into_active_model().insert(&store.db).await.unwrap();
    }
}

/// Every way to change what an entry says, digest left as it is.
fn edits(line: &Model) -> Vec<Model> {
    let edit = |change: fn(&mut Model)| {
        let mut edited = line.clone();
        change(&mut edited);
        edited
    };
    vec![
        edit(|line| line.at_ms += 1),
        edit(|line| line.actor = "bob".to_owned()),
        edit(|line| line.role = "viewer".to_owned()),
        edit(|line| line.method = "PUT".to_owned()),
        edit(|line| line.route.push('x')),
        edit(|line| line.target.clear()),
        edit(|line| line.before = None),
        edit(|line| line.after = Some(String::new())),
        edit(|line| line.request_id = Uuid::nil()),
        edit(|line| line.status = None),
        edit(|line| line.status = Some(403)),
        edit(|line| line.previous = line.digest.clone()),
        edit(|line| line.digest = line.previous.clone()),
    ]
}

#[actix_rt::test]
async fn whatever_is_done_to_a_line_shows() {
    let folder = tempfile::tempdir().unwrap();
    let store = log(&folder).await;
    let whole = lines(&store).await;
    for (index, line) in whole.iter().enumerate() {
        for edited in edits(line) {
            let mut tampered = whole.clone();
            tampered[index] = edited.clone();
            replace(&store, &tampered).await;
            assert!(first_and_last(&store).await.is_err(), "{edited:?}");

            // With a digest that is right in itself: the next entry, or the end of the chain, tells.
            tampered[index].digest = digest_of(&tampered[index]);
            replace(&store, &tampered).await;
            let hidden = tampered[index] == whole[index];
            assert_eq!(first_and_last(&store).await.is_ok(), hidden, "{edited:?}");
        }
        let mut without = whole.clone();
        without.remove(index);
        replace(&store, &without).await;
        assert!(first_and_last(&store).await.is_err(), "line {} is missing", line.seq);
        for other in 0..index {
            let mut swapped = whole.clone();
            (swapped[index].seq, swapped[other].seq) = (whole[other].seq, whole[index].seq);
            replace(&store, &swapped).await;
            assert!(first_and_last(&store).await.is_err(), "{other} and {index} are swapped");
        }
    }
    replace(&store, &[]).await;
    assert_eq!(first_and_last(&store).await, Err((1, "it is missing, or an entry after it")));
    replace(&store, &whole).await;
    assert_eq!(first_and_last(&store).await, Ok((1, LINES)));
    let mut before = whole[0].clone();
    before.seq = 0;
    before.into_active_model().insert(&store.db).await.unwrap();
    assert!(first_and_last(&store).await.is_err(), "a line before the first");
    store.close().await;
}

#[actix_rt::test]
async fn what_is_too_old_goes_and_the_rest_can_still_be_verified() {
    for gone in 0..=LINES {
        let folder = tempfile::tempdir().unwrap();
        let store = log(&folder).await;
        let digest_before = lines(&store).await.into_iter().find(|line| line.seq == gone).map(|line| line.digest);

        assert_eq!(store.forget_audit(gone + 1).await.unwrap(), u64::try_from(gone).unwrap());

        assert_eq!(first_and_last(&store).await, Ok((gone + 1, LINES)));
        assert_eq!(store.forget_audit(gone + 1).await.unwrap(), 0);
        let verify = async |expected: Option<(i64, &str)>| {
            matches!(super::verify::verify(&store.db, expected).await.unwrap(), Verified::Whole { .. })
        };
        if let Some(digest) = &digest_before {
            assert!(verify(Some((gone, digest))).await, "what went last is still known");
            assert!(!verify(Some((gone, &digest[1..]))).await);
        }
        assert!(!verify(Some((LINES + 1, ""))).await, "a line that was there is missing at the end");
        store.audit(entry(LINES + 1)).await.unwrap();
        assert_eq!(first_and_last(&store).await, Ok((gone + 1, LINES + 1)), "and goes on");
        let mut first = audit_chain::Entity::find().one(&store.db).await.unwrap().unwrap().into_active_model();
        first.first_seq = Set(gone + 2);
        first.update(&store.db).await.unwrap();
        assert!(first_and_last(&store).await.is_err(), "nobody deletes lines by moving the beginning");
        store.close().await;
    }
}

#[actix_rt::test]
async fn a_clock_that_was_set_back_costs_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    for at_ms in [5, 1, 7] {
        store.audit(entry(at_ms)).await.unwrap();
    }
    assert_eq!(store.forget_audit(3).await.unwrap(), 0, "the first one is not old enough");
    assert_eq!(store.forget_audit(6).await.unwrap(), 2);
    assert_eq!(first_and_last(&store).await, Ok((3, 3)));
    store.close().await;
}

#[actix_rt::test]
async fn a_line_is_found_by_who_what_whom_and_when() {
    let folder = tempfile::tempdir().unwrap();
    let store = log(&folder).await;
    store.audit(AuditEntry { actor: "bob".to_owned(), target: "a_b/key_1".to_owned(), ..entry(7) }).await.unwrap();
    store.audit(AuditEntry { target: "axb/key_1".to_owned(), ..entry(8) }).await.unwrap();
    let found = async |search: AuditSearch| -> Vec<i64> {
        store.audit_page(search, 10).await.unwrap().0.into_iter().map(|line| line.seq).collect()
    };
    let any = AuditSearch::default;
    assert_eq!(found(AuditSearch { actor: Some("bob".to_owned()), ..any() }).await, [7]);
    assert_eq!(found(AuditSearch { target: Some("a_b".to_owned()), ..any() }).await, [7], "what belongs to it, too");
    assert_eq!(found(AuditSearch { target: Some("user-3".to_owned()), ..any() }).await, [3]);
    assert_eq!(found(AuditSearch { method: Some("PUT".to_owned()), ..any() }).await, [] as [i64; 0]);
    let period = crate::store::Period { from_ms: Some(2), to_ms: Some(4) };
    assert_eq!(found(AuditSearch { period, ..any() }).await, [3, 2]);
    let (page, more) = store.audit_page(AuditSearch { before: Some(4), ..any() }, 2).await.unwrap();
    assert_eq!((page.iter().map(|line| line.seq).collect::<Vec<_>>(), more), (vec![3, 2], true));
    store.close().await;
}

#[actix_rt::test]
async fn a_change_and_its_line_are_there_together_or_not_at_all() {
    use super::AuditDraft;
    use crate::store::StoredNode;

    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let add = async |name: &str| {
        let draft = AuditDraft::new(Uuid::now_v7(), 1, ("POST", "/admin/nodes", String::new()), 201);
        draft.by("eve".into(), "operator");
        draft.changes_from(name, None);
        draft.asks(serde_json::json!({"slots": 2}));
        let node = StoredNode { name: name.to_owned(), settings: "{}".to_owned() };
        let added = draft.clone().carry(store.add_node(node, 1)).await;
        store.end_audited(&draft, if added.is_ok() { 201 } else { 409 }).await.unwrap();
        added.is_ok()
    };
    assert!(add("a").await && !add("a").await);
    let told: Vec<_> = lines(&store).await.into_iter().map(|line| (line.target, line.status)).collect();
    assert_eq!(told, [("a".to_owned(), Some(201)), ("a".to_owned(), Some(409))], "one line each");
    // A log that takes no entry takes no change either.
    audit_chain::Entity::delete_many().exec(&store.db).await.unwrap();
    let draft = AuditDraft::new(Uuid::now_v7(), 1, ("POST", "/admin/nodes", String::new()), 201);
    draft.by("eve".into(), "operator");
    let node = StoredNode { name: "b".to_owned(), settings: "{}".to_owned() };
    assert!(draft.clone().carry(store.add_node(node, 1)).await.is_err());
    assert_eq!(store.nodes().await.unwrap().len(), 1);
    assert!(store.begin_audited(&draft).await.is_err());
    store.close().await;
}
