//! Which connections have not sent a request yet? A client has [`LOOKS`] looks, about five seconds, for the head of its first
//! one. The server's own deadline is a point in time: after a pause of this process it had passed for clients that had sent
//! everything, and they got 408. Looks are not counted while the process does nothing.
//!
//! A newcomer takes a second descriptor. There is one for it: each client counts for two, as its requests need a connection
//! to a node, and a newcomer has none.
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use actix_web::dev::Extensions;
use socket2::{SockRef, Socket};
use tokio_util::sync::CancellationToken;

/// How often the connections are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How many looks a client may wait through.
const LOOKS: u32 = 11;
/// What a client is told whose time is over.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The connections that have not sent a request yet; and some that have, or are closed, until the next look.
#[derive(Clone, Debug, Default)]
pub struct Newcomers(Arc<Mutex<Vec<Seen>>>);

#[derive(Debug)]
struct Seen {
    newcomer: Weak<Newcomer>,
    looks: u32,
    is_secure: bool,
}

/// The part of it that is the connection's own.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// The same socket again, to close it; `None` once a request has come.
    socket: Mutex<Option<Socket>>,
}

impl Newcomer {
    /// A request has come.
    pub(super) fn arrived(&self) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Newcomers {
    /// A client has connected; `data` is the connection's.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn connected(&self, stream: &SockRef<'_>, is_secure: bool, data: &mut Extensions) -> std::io::Result<()> {
        let newcomer = Arc::new(Newcomer { socket: Mutex::new(Some(stream.try_clone()?)) });
        let seen = Seen { newcomer: Arc::downgrade(&newcomer), looks: 0, is_secure };
        data.insert(newcomer);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        Ok(())
    }

    /// Looks at them again and again, until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
            self.look();
        }
    }

    fn look(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(Seen::waits_on);
    }
}

impl Seen {
    /// One look. False if it is none of the newcomers any more.
    fn waits_on(&mut self) -> bool {
        let Some(newcomer) = self.newcomer.upgrade() else { return false };
        let mut socket = newcomer.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = socket.as_ref() else { return false };
        self.looks += 1;
        if self.looks < LOOKS {
            return true;
        }
        // Whether it can still be told does not matter: the connection ends.
        if !self.is_secure {
            let _ = open.send(TOO_SLOW);
        }
        let _ = open.shutdown(std::net::Shutdown::Both);
        *socket = None;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection: the client's end, the server's end and its data.
    fn connection(newcomers: &Newcomers) -> (TcpStream, TcpStream, Extensions) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, mut data) = (listener.accept().unwrap().0, Extensions::new());
        newcomers.connected(&SockRef::from(&server), false, &mut data).unwrap();
        (client, server, data)
    }

    #[test]
    fn a_client_that_sends_no_head_is_told_so_after_enough_looks_and_one_that_did_goes_on() {
        let newcomers = Newcomers::default();
        let (mut slow, _server, _data) = connection(&newcomers);
        let (prompt, _other, data) = connection(&newcomers);
        data.get::<Arc<Newcomer>>().unwrap().arrived();
        (1..LOOKS).for_each(|_| newcomers.look());
        slow.set_nonblocking(true).unwrap();
        assert!(slow.read(&mut [0; 9]).is_err(), "nothing yet");
        slow.set_nonblocking(false).unwrap();

        newcomers.look();

        let mut said = String::new();
        slow.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 408"), "{said}");
        prompt.set_nonblocking(true).unwrap();
        assert!((&prompt).read(&mut [0; 9]).is_err(), "it is still open");
        assert!(newcomers.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_connection_that_was_closed_is_forgotten_and_held_by_nobody() {
        let newcomers = Newcomers::default();
        let (mut client, server, data) = connection(&newcomers);
        drop((server, data));
        assert_eq!(client.read(&mut [0; 9]).unwrap(), 0, "the client sees the end");
        newcomers.look();
        assert!(newcomers.0.lock().unwrap().is_empty());
    }
}
