//! A connection's bytes, frame by frame: what comes in passes the [`Sanitiser`], what goes out passes as it is.
//!
//! Only frames of methods and properties are held until they are whole. Bodies pass as they come, and so does everything
//! once something comes that is no frame: the other side then speaks another protocol, and lapin says so. Up:
//! [`super::transport`]. Down: lapin's thread, which reads from here.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sanitiser::{HEAD, HEADER, METHOD, Sanitiser};

/// The largest kind of frame that AMQP has.
const HEARTBEAT: u8 = 8;
/// Read at once.
const CHUNK: usize = 64 * 1024;

/// A stream whose incoming frames are sanitised.
#[derive(Debug)]
pub(super) struct Frames<S> {
    stream: S,
    sanitiser: Sanitiser,
    chunk: Box<[u8]>,
    /// The frame that is not whole yet.
    frame: Vec<u8>,
    /// Bytes that pass before the next frame begins.
    passing: u64,
    cleaned: Vec<u8>,
    read: usize,
}

impl<S> Frames<S> {
    pub(super) fn new(stream: S, frame_max: u32) -> Self {
        Self {
            stream,
            sanitiser: Sanitiser::new(frame_max),
            chunk: vec![0; CHUNK].into(),
            frame: Vec::new(),
            passing: 0,
            cleaned: Vec::new(),
            read: 0,
        }
    }

    fn take_in(&mut self, filled: usize) {
        let mut bytes = &self.chunk[..filled];
        while !bytes.is_empty() {
            let wanted = if self.passing > 0 { self.passing } else { self.missing() };
            let (taken, rest) = bytes.split_at(usize::try_from(wanted).unwrap_or(usize::MAX).min(bytes.len()));
            bytes = rest;
            if self.passing > 0 {
                self.passing -= taken.len() as u64;
                self.cleaned.extend_from_slice(taken);
                continue;
            }
            self.frame.extend_from_slice(taken);
            let kind = self.frame[0];
            if kind > HEARTBEAT {
                self.passing = u64::MAX;
                self.cleaned.append(&mut self.frame);
            } else if self.frame.len() == HEAD && kind != METHOD && kind != HEADER {
                self.passing = self.missing();
                self.cleaned.append(&mut self.frame);
            } else if self.missing() == 0 {
                // What cannot be cleaned is for lapin to refuse.
                let _ = self.sanitiser.clean(&mut self.frame);
                self.cleaned.append(&mut self.frame);
            }
        }
    }

    /// How many bytes the frame lacks, first to know its size and then to be whole.
    fn missing(&self) -> u64 {
        let have = self.frame.len() as u64;
        match self.frame.get(3..HEAD) {
            Some(size) => size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)) + HEAD as u64 + 1 - have,
            None => HEAD as u64 - have,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read == this.cleaned.len() {
            this.cleaned.clear();
            this.read = 0;
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            let filled = chunk.filled().len();
            if filled == 0 {
                return Poll::Ready(Ok(()));
            }
            this.take_in(filled);
            if let Some(too_small) = this.sanitiser.too_small() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::Unsupported, too_small)));
            }
        }
        let ready = &this.cleaned[this.read..];
        let given = ready.len().min(into.remaining());
        into.put_slice(&ready[..given]);
        this.read += given;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn read(bytes: Vec<u8>, at_once: usize) -> Vec<u8> {
        let (mut broker, client) = tokio::io::duplex(at_once);
        let sending = tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut broker, &bytes).await });
        let mut read = Vec::new();
        Frames::new(client, 131_072).read_to_end(&mut read).await.expect("no error");
        sending.await.expect("no panic").expect("all is sent");
        read
    }

    #[tokio::test]
    async fn frames_are_cleaned_however_they_are_cut_and_bodies_pass() {
        // basic.deliver with a routing key that is not UTF-8, a heartbeat, a body that looks like it
        let deliver = |key: u8| {
            let payload = [&[0, 60, 0, 60, 1, b't', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1][..], &[key]].concat();
            [&[METHOD, 0, 1, 0, 0, 0, 18][..], &payload, &[0xce]].concat()
        };
        let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xce];
        let body = [&[3, 0, 1, 0, 0, 0, 26][..], &deliver(0xff), &[0xce]].concat();
        let sent = [&deliver(0xff)[..], &heartbeat, &body, &deliver(0xff)].concat();
        let wanted = [&deliver(0x1a)[..], &heartbeat, &body, &deliver(0x1a)].concat();
        for at_once in [1, 2, 7, 8, 30, 4096] {
            assert_eq!(read(sent.clone(), at_once).await, wanted, "{at_once} bytes at once");
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_passes_as_it_is() {
        for words in [&b"AMQP\0\0\x09\x01"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            assert_eq!(read(words.to_vec(), 3).await, words);
        }
    }
}
