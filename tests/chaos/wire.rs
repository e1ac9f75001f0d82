//! A way to a process that can be cut: what is sent waits, and nobody is refused. As with a network, and unlike with a
//! process that has ended.
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// How often a wire that is cut looks whether it still is.
const LOOK: Duration = Duration::from_millis(5);

pub struct Wire {
    pub address: SocketAddr,
    target: SocketAddr,
    is_cut: Rc<Cell<bool>>,
    listening: Option<actix_rt::task::JoinHandle<()>>,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut wire = Self { address, target, is_cut: Rc::default(), listening: None };
        wire.serve(listener);
        wire
    }

    fn serve(&mut self, listener: TcpListener) {
        let (target, is_cut) = (self.target, self.is_cut.clone());
        self.listening = Some(actix_rt::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                actix_rt::spawn(carry(from, target, is_cut.clone()));
            }
        }));
    }

    /// Connections are refused from now on, as the process has ended.
    pub async fn end(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            drop(listening.await);
        }
    }

    /// The process is there again.
    pub async fn begin(&mut self) {
        if self.listening.is_none() {
            let listener = TcpListener::bind(self.address).await.unwrap();
            self.serve(listener);
        }
    }

    pub async fn cut(&self, time: Duration) {
        self.is_cut.set(true);
        tokio::time::sleep(time).await;
        self.is_cut.set(false);
    }
}

async fn carry(from: TcpStream, target: SocketAddr, is_cut: Rc<Cell<bool>>) {
    while is_cut.get() {
        tokio::time::sleep(LOOK).await;
    }
    let Ok(to) = TcpStream::connect(target).await else { return };
    let (mut from_read, mut from_write) = from.into_split();
    let (mut to_read, mut to_write) = to.into_split();
    tokio::select! {
        _ = pass(&mut from_read, &mut to_write, &is_cut) => {}
        _ = pass(&mut to_read, &mut from_write, &is_cut) => {}
    }
}

async fn pass(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, is_cut: &Cell<bool>) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        while is_cut.get() {
            tokio::time::sleep(LOOK).await;
        }
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}
