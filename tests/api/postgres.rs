//! Which Postgres does the gateway get along with? One behind pgbouncer, which works in session mode and is refused in the
//! modes that share sessions, and one whose password is changed while the gateway runs. And how many reports does it read
//! at a time?
use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement, TransactionTrait};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::cli::run;
use crate::harness::{
    ADMIN_KEY, TestDatabase, fast_node, free_address, let_pass, node, spawn_app_with, wait_for, wait_long_for,
};

/// Where Debian installs it, which is not on everybody's path.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running pgbouncer in front of the server at `TEST_POSTGRES_URL`. Dropping it kills it.
struct Pooler {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Pooler {
    async fn start(direct: &str, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Started by root it becomes another user, who must be able to read its settings.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let is_root = folder.path().metadata().unwrap().uid() == 0;
        let authority = direct.split("://").nth(1).unwrap().split('/').next().unwrap();
        let (user, server) = authority.rsplit_once('@').unwrap();
        let (host, port) = server.rsplit_once(':').unwrap();
        let address = free_address().to_string();
        let (ours, our_port) = address.rsplit_once(':').unwrap();
        let settings = format!(
            "[databases]\n* = host={host} port={port} user={user}\n[pgbouncer]\nlisten_addr = {ours}\nlisten_port = {our_port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(PROGRAM);
        if is_root {
            command.args(["-u", "postgres"]);
        }
        command.arg(&file).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}; `tests/run api` installs it"));
        let pooler = Self { child, address, _folder: folder };
        wait_long_for("pgbouncer listens", async || tokio::net::TcpStream::connect(&pooler.address).await.is_ok())
            .await;
        pooler
    }

    /// The same database through it.
    fn url(&self, direct: &str) -> String {
        format!("postgres://postgres@{}/{}", self.address, direct.rsplit_once('/').unwrap().1)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn count(db: &DatabaseConnection, of: &str) -> i64 {
    let statement = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {of}");
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), statement)).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

#[actix_rt::test]
async fn a_pooler_that_shares_sessions_is_refused_in_plain_words() {
    let Some(database) = TestDatabase::postgres().await else { return };
    for (mode, is_good) in [("transaction", false), ("statement", false), ("session", true)] {
        let pooler = Pooler::start(&database.url, mode).await;
        let folder = tempfile::tempdir().unwrap();
        let url = pooler.url(&database.url);
        let environment = [("GATEWAY__DATABASE__URL", url.as_str())];
        let (good, out, err) = run(folder.path(), &["check"], &environment).await;
        assert_eq!(good, is_good, "{mode}: {out}{err}");
        if is_good {
            assert_eq!(err, "", "{mode}");
            continue;
        }
        let (_, _, at_start) = run(folder.path(), &["serve"], &environment).await;
        for said in [err, at_start] {
            assert!(said.contains("pool_mode = session") && said.contains("database.url"), "{mode}: {said}");
        }
    }
    let db = Database::connect(&database.url).await.unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), tables)).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 0, "nothing was changed");
}

#[actix_rt::test]
async fn behind_a_pooler_in_session_mode_changes_are_heard_and_statements_end_in_time() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let pooler = Pooler::start(&database.url, "session").await;
    let behind = TestDatabase { url: pooler.url(&database.url), folder: tempfile::tempdir().unwrap() };
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], behind, |_| {}).await;
    let other = spawn_app_with(Vec::new(), database.again(), |_| {}).await;

    let key = other.user("ann").await;
    wait_for("the user of the other gateway is known", async || app.chat(&key, "llama3.2", "hi").await.status == 200)
        .await;
    let db = Database::connect(&database.url).await.unwrap();
    wait_for("both gateways listen", async || count(&db, "query LIKE 'LISTEN%'").await == 2).await;

    // What waits longer than a statement may take must not go on in Postgres when the gateway has given up.
    let lock = db.begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let reply = app.post("/admin/users", ADMIN_KEY, json!({"user_id": "ben"})).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    wait_for("nothing waits in Postgres", async || count(&db, "wait_event_type = 'Lock'").await == 0).await;
    lock.rollback().await.unwrap();
    let reply = app.post("/admin/users", ADMIN_KEY, json!({"user_id": "ben"})).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    other.stop().await;
    app.stop().await;
}

#[actix_rt::test]
async fn two_reports_are_read_at_a_time_and_the_others_wait_for_their_turn() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let app = spawn_app_with(Vec::new(), database.again(), |_| {}).await;
    let db = Database::connect(&database.url).await.unwrap();
    // The comparison of the sums with the rows may wait as well.
    let waiting = "wait_event_type = 'Lock' AND query LIKE 'SELECT \"model\"%'";
    for format in ["json", "csv"] {
        let lock = db.begin().await.unwrap();
        lock.execute_unprepared("LOCK TABLE usage_totals IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let path = format!("/admin/usage?group_by=model&format={format}");
        let report = || app.get(&path, ADMIN_KEY);
        let watch = async {
            wait_for("two reports wait in Postgres", async || count(&db, waiting).await >= 2).await;
            // There are connections for all four, so the other two would be there as well by now.
            let_pass(Duration::from_millis(300)).await;
            assert_eq!(count(&db, waiting).await, 2, "{format}");
            lock.rollback().await.unwrap();
        };
        let (first, second, third, fourth, ()) = tokio::join!(report(), report(), report(), report(), watch);
        for reply in [first, second, third, fourth] {
            assert_eq!(reply.status, 200, "{format}: {}", reply.text());
        }
    }
    app.stop().await;
}

/// Postgres' code for a client that asks whether TLS is spoken.
const TLS_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// Asks for a password in front of a Postgres that trusts everybody.
struct Guard {
    address: SocketAddr,
    password: Rc<RefCell<String>>,
    connections: Rc<RefCell<Vec<actix_rt::task::JoinHandle<()>>>>,
    accepting: actix_rt::task::JoinHandle<()>,
}

impl Guard {
    async fn start(postgres: String, password: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let password = Rc::new(RefCell::new(password.to_owned()));
        let connections = Rc::<RefCell<Vec<_>>>::default();
        let (wanted, open) = (password.clone(), connections.clone());
        let accepting = actix_rt::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (postgres, wanted) = (postgres.clone(), wanted.clone());
                // Whoever gives up in the middle is of no interest.
                let serving = async move { drop(pass(client, &postgres, &wanted).await) };
                open.borrow_mut().push(actix_rt::spawn(serving));
            }
        });
        Self { address, password, connections, accepting }
    }

    /// From now on only this password is taken, and nobody is connected any more.
    fn change_to(&self, password: &str) {
        password.clone_into(&mut self.password.borrow_mut());
        self.connections.borrow_mut().drain(..).for_each(|connection| connection.abort());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.change_to("");
        self.accepting.abort();
    }
}

async fn pass(mut client: TcpStream, postgres: &str, wanted: &RefCell<String>) -> std::io::Result<()> {
    let mut start = message(&mut client).await?;
    if start[4..] == TLS_REQUEST {
        client.write_all(b"N").await?;
        start = message(&mut client).await?;
    }
    // Asks for the password as it is.
    client.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    assert_eq!(client.read_u8().await?, b'p');
    let given = message(&mut client).await?;
    if given[4..given.len() - 1] != *wanted.borrow().as_bytes() {
        let fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0";
        let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
        return client.write_all(&[b"E", &length[..], fields].concat()).await;
    }
    let mut server = TcpStream::connect(postgres).await?;
    server.write_all(&start).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

/// A message with its length in front, which counts itself.
async fn message(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize(length as usize, 0);
    from.read_exact(&mut message[4..]).await?;
    Ok(message)
}

#[actix_rt::test]
async fn a_new_password_of_the_database_is_taken_up_without_a_restart() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let (head, name) = database.url.rsplit_once('/').unwrap();
    let postgres = head.rsplit_once('@').unwrap().1.to_owned();
    let guard = Guard::start(postgres, "old").await;
    let url = format!("postgres://postgres@{}/{name}", guard.address);
    let file = database.folder.path().join("password");
    std::fs::write(&file, "old\n").unwrap();
    let (simulated, path) = (fast_node().await, file.clone());
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |config| {
        config.database.url = url;
        config.database.password_file = Some(path);
    })
    .await;
    let make = async |name: &str| app.post("/admin/users", ADMIN_KEY, json!({"user_id": name})).await.status;
    assert_eq!(make("ann").await, 201);

    guard.change_to("new");
    assert_eq!(make("ben").await, 503, "the old password is refused");
    std::fs::write(&file, "new\n").unwrap();

    wait_long_for("the new password is used", async || make("cat").await == 201).await;
    app.stop().await;
}
