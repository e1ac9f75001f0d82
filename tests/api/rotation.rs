//! A password of Postgres that is changed while the gateway runs.
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{ADMIN_KEY, TestDatabase, fast_node, node, spawn_app_with, wait_long_for};

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
