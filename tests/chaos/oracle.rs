//! What must stand in the database? What clients saw and nodes made, against the rows.
use std::collections::{BTreeMap, HashMap};

use ollama_sim::{SeenRequest, SimNode};
use sea_orm::{ConnectionTrait, Database, QueryResult, Statement};
use uuid::Uuid;

use crate::load::Sent;

/// Younger requests than this, of which no client has seen anything, may die with the gateway without a trace,
/// milliseconds. The gateway notes them after 25 to 50; the rest is for a machine that is busy with other things.
const YOUNG_MS: i64 = 2_000;

/// What every node makes of each answer.
pub const TOKENS_PER_SECOND: f64 = 150.0;

/// Tokens that a node writes while word of a client that left is on its way to it, at most.
const LEAVING: u64 = 20;

/// What a node made of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    prompt: u64,
    tokens: u64,
    is_plain: bool,
}

impl Made {
    fn of(seen: &SeenRequest) -> Self {
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        Self { prompt: seen.prompt_tokens, tokens: seen.tokens_generated, is_plain: body["stream"] == false }
    }
}

#[derive(Debug)]
struct Row {
    status: String,
    prompt_tokens: i64,
    completion_tokens: i64,
    /// From its arrival to its end, less what it waited for a slot.
    held_ms: i64,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Answers whose end a client saw.
    pub acknowledged: u64,
    pub rows: u64,
    /// Without a row: answers of which a client saw something, and requests that were not young.
    pub lost: u64,
    /// Requests with more than one row.
    pub doubled: u64,
    /// Rows with other numbers than were made, or another end than was seen; sums that are not those of the rows.
    pub wrong: u64,
    /// Requests that a node had for an instant when the gateway died, without a row.
    pub young: u64,
    /// The oldest of them, milliseconds.
    pub young_ms: i64,
    pub interrupted: u64,
}

impl Verdict {
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.rows += other.rows;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.wrong += other.wrong;
        self.young += other.young;
        self.young_ms = self.young_ms.max(other.young_ms);
        self.interrupted += other.interrupted;
    }

    #[track_caller]
    pub fn assert_clean(&self, seed: u64) {
        assert_eq!((self.lost, self.doubled, self.wrong), (0, 0, 0), "CHAOS_SEED={seed}: {self:?}");
    }
}

async fn rows(database: &str) -> HashMap<Uuid, Vec<Row>> {
    let db = Database::connect(database).await.unwrap();
    let query = "SELECT request_id, status, prompt_tokens, completion_tokens, CAST(duration_ms - queue_ms AS bigint) FROM usage";
    let found = db.query_all_raw(Statement::from_string(db.get_database_backend(), query)).await.unwrap();
    let mut rows: HashMap<Uuid, Vec<Row>> = HashMap::new();
    for row in found {
        rows.entry(row.try_get_by_index(0).unwrap()).or_default().push(Row {
            status: row.try_get_by_index(1).unwrap(),
            prompt_tokens: row.try_get_by_index(2).unwrap(),
            completion_tokens: row.try_get_by_index(3).unwrap(),
            held_ms: row.try_get_by_index(4).unwrap(),
        });
    }
    db.close().await.unwrap();
    rows
}

/// By status, as the database sums it up: requests, tokens of prompts, tokens of answers.
async fn sums(database: &str) -> BTreeMap<String, [i64; 3]> {
    let db = Database::connect(database).await.unwrap();
    let query = "SELECT status, CAST(sum(requests) AS bigint), CAST(sum(prompt_tokens) AS bigint), \
        CAST(sum(completion_tokens) AS bigint) FROM usage_rollups GROUP BY status";
    let found = db.query_all_raw(Statement::from_string(db.get_database_backend(), query)).await.unwrap();
    db.close().await.unwrap();
    let sum = |row: &QueryResult| [1, 2, 3].map(|index| row.try_get_by_index(index).unwrap());
    found.iter().map(|row| (row.try_get_by_index(0).unwrap(), sum(row))).collect()
}

/// The same, of these rows.
fn sums_of<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<String, [i64; 3]> {
    let mut sums: BTreeMap<String, [i64; 3]> = BTreeMap::new();
    for row in rows {
        let sum = sums.entry(row.status.clone()).or_default();
        for (sum, number) in sum.iter_mut().zip([1, row.prompt_tokens, row.completion_tokens]) {
            *sum += number;
        }
    }
    sums
}

/// Compares. `kills` are the moments when the gateway died, epoch milliseconds.
pub async fn compare(database: &str, nodes: &[SimNode], sent: &[Sent], kills: &[i64]) -> Verdict {
    let rows = rows(database).await;
    let mut verdict = Verdict { rows: rows.len() as u64, ..Verdict::default() };
    let (sums, expected) = (sums(database).await, sums_of(rows.values().flatten()));
    if sums != expected {
        verdict.wrong += 1;
        println!("wrong: the sums are {sums:?}, of rows {expected:?}");
    }
    let mut made: HashMap<Uuid, Made> = HashMap::new();
    for seen in nodes.iter().flat_map(SimNode::requests) {
        if let Some(id) = seen.request_id.as_ref().and_then(|id| id.parse().ok()) {
            made.insert(id, Made::of(&seen));
        }
    }
    for sent in sent.iter().filter(|sent| sent.has_begun && !rows.contains_key(&sent.id)) {
        verdict.lose(sent.id, "its client saw something");
    }
    for sent in sent.iter().filter(|sent| sent.is_acknowledged) {
        verdict.acknowledged += 1;
        if let Some(row) = rows.get(&sent.id).and_then(|rows| rows.first())
            && (row.status != "completed" || row.completion_tokens as u64 != sent.completion_tokens)
        {
            verdict.mistake(sent.id, row, "its client saw the end");
        }
    }
    for (id, rows) in &rows {
        verdict.doubled += u64::from(rows.len() > 1);
        let row = &rows[0];
        verdict.interrupted += u64::from(row.status == "interrupted");
        let made = made.get(id).copied().unwrap_or_default();
        let completion = row.completion_tokens as u64;
        let is_right = match row.status.as_str() {
            "completed" => (row.prompt_tokens as u64, completion) == (made.prompt, made.tokens),
            // The gateway has seen nothing of a plain answer whose client left, so it charges for the time: what a node
            // of this speed makes in it, whatever a machine that was short of CPU let the node make.
            "cancelled" if made.is_plain => {
                let by_time = (row.held_ms as f64 / 1_000.0 * TOKENS_PER_SECOND) as u64;
                completion <= made.tokens.max(by_time) * 3 / 2 + LEAVING
            }
            _ => completion <= made.tokens,
        };
        if !is_right {
            verdict.mistake(*id, row, &format!("a node made {made:?}"));
        }
    }
    for id in made.keys().filter(|id| !rows.contains_key(id)) {
        let (seconds, nanoseconds) = id.get_timestamp().unwrap().to_unix();
        let came = seconds as i64 * 1000 + i64::from(nanoseconds) / 1_000_000;
        match kills.iter().find(|killed| **killed >= came) {
            Some(killed) if killed - came < YOUNG_MS => {
                verdict.young += 1;
                verdict.young_ms = verdict.young_ms.max(killed - came);
            }
            killed => verdict.lose(*id, &format!("a node had it; it came at {came}, killed at {killed:?}")),
        }
    }
    verdict
}

impl Verdict {
    fn lose(&mut self, id: Uuid, why: &str) {
        self.lost += 1;
        println!("lost: {id}: {why}");
    }

    fn mistake(&mut self, id: Uuid, row: &Row, why: &str) {
        self.wrong += 1;
        println!("wrong: {id}: {row:?}: {why}");
    }
}
