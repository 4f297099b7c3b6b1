//! Lines of bounded length.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Reads lines. Waiting for the next may be given up and taken up again; nothing is lost.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    read: Vec<u8>,
    /// Bytes in which no line end was found.
    looked_at: usize,
    most: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) const fn new(reader: R, most: usize) -> Self {
        Self {
            reader,
            read: Vec::new(),
            looked_at: 0,
            most,
        }
    }

    /// The next line without its end; nothing when no whole line follows.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let unseen = &self.read[self.looked_at..];
            if let Some(end) = unseen.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(self.looked_at + end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                self.looked_at = 0;
                line.pop();
                return Ok(Some(line));
            }
            self.looked_at = self.read.len();
            if self.read.len() >= self.most {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a line is longer than {} bytes", self.most),
                ));
            }
            if self.reader.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_one_by_one_and_half_a_line_is_none() {
        let mut lines = Lines::new(&b"one\n\ntwo\nhalf"[..], 16);
        assert_eq!(lines.next().await.unwrap().unwrap(), b"one");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"two");
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let mut lines = Lines::new(&[b'a'; 100][..], 16);
        assert!(lines.next().await.is_err());
    }
}
