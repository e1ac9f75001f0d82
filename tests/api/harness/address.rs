//! Where may a process listen that is told its address before it starts?
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Below the ports that the system hands out by itself (from 32768 on, unless it was told otherwise). One of those may
/// be given to a connection or a listener of another test before the process binds it.
const FIRST: u16 = 12_000;
const PORTS: u16 = 20_000;

/// An address on this machine at which nothing listens, and which this process hands out only once.
pub fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run beside each other begin far apart.
    let start = std::process::id().wrapping_mul(997) as u16;
    let free = (0..PORTS).find_map(|_| {
        let port = FIRST + start.wrapping_add(TAKEN.fetch_add(1, Relaxed)) % PORTS;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
    });
    free.expect("a port is free").local_addr().unwrap()
}
