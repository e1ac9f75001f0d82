//! How do a fake node and a load speak HTTP/1.1? Only what they need: heads, bodies of a known length, and chunks.
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest head, and the longest body.
const MOST: usize = 1 << 20;

/// A connection, and what has been read from it.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// How the end of a body is marked, according to its head.
pub enum Body {
    /// The body has this many bytes.
    Length(usize),
    /// The body consists of chunks, up to an empty one.
    Chunked,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Connection {
    /// A connection from which nothing was read yet.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.buffer.len() > MOST {
            return Err(bad("too long"));
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads everything up to and including the first `end`.
    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.more().await?;
        }
    }

    /// Reads the next head, as text in lower case.
    pub async fn head(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.until(b"\r\n\r\n").await?).to_ascii_lowercase())
    }

    /// Reads a body of a known length.
    pub async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads the next chunk; empty at the end.
    pub async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.until(b"\r\n").await?;
        let digits = String::from_utf8_lossy(&line);
        let length = usize::from_str_radix(digits.trim(), 16).map_err(|_| bad("a chunk has no length"))?;
        let mut chunk = self.exactly(length + 2).await?;
        chunk.truncate(length);
        Ok(chunk)
    }
}

/// How the body after this head ends.
pub fn body_of(head: &str) -> Body {
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if value("transfer-encoding:").is_some_and(|value| value.contains("chunked")) {
        return Body::Chunked;
    }
    Body::Length(value("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0))
}
