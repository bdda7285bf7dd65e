//! Collecting the output of a container in a tokio runtime.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use crate::command::Command;
use crate::error::Error;
use crate::outcome::EndedBy;
use crate::output::{DRAIN, Kept, Output, unreadable};

impl Command {
    /// Starts the container, collects its output, waits for its end, and deletes it, like
    /// [`output`](Self::output), in a tokio runtime (feature `tokio`). If the future is dropped, the container is
    /// dropped: see [`AsyncContainer`](crate::AsyncContainer).
    /// Linux 5.14 or later; see [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// ```
    /// use nspod_sandbox::{Command, Stdio};
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let output = Command::new("tr").args(["a-z", "A-Z"]).stdin(Stdio::Bytes("text".into())).output_async().await?;
    /// assert_eq!(output.stdout, b"TEXT");
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// # })?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// The same as [`output`](Self::output) and [`spawn_async`](Self::spawn_async).
    ///
    /// # Panics
    /// The same as [`spawn_async`](Self::spawn_async).
    pub async fn output_async(&mut self) -> Result<Output, Error> {
        let mut container = self.spawn_async_with(true).await?;
        let streams = [container.stdout.take(), container.stderr.take()];
        let mut capture = Capture { streams, kept: Kept::new(self.output_bound()) };
        let ended = {
            let mut end = pin!(container.wait());
            poll_fn(|cx| {
                // The end comes first, so that a flood of output does not delay the time limits.
                if let Poll::Ready(outcome) = end.as_mut().poll(cx) {
                    return Poll::Ready(outcome.map(Some));
                }
                while !capture.kept.is_too_much() && capture.is_open() {
                    ready!(capture.poll(cx))?;
                }
                if capture.kept.is_too_much() { Poll::Ready(Ok(None)) } else { Poll::Pending }
            })
            .await?
        };
        let outcome = match ended {
            Some(outcome) => outcome,
            None => {
                container.kill_for(EndedBy::OutputLimit)?;
                container.wait().await?
            }
        };
        // The processes that still hold the pipes end.
        container.delete().await?;
        let rest = async {
            while capture.is_open() {
                poll_fn(|cx| capture.poll(cx)).await?;
            }
            Ok::<(), Error>(())
        };
        timeout(DRAIN, rest).await.unwrap_or(Ok(()))?;
        Ok(capture.kept.output(outcome))
    }
}

/// The streams that are read, and what was kept of them.
struct Capture {
    streams: [Option<Receiver>; 2],
    kept: Kept,
}

impl Capture {
    fn is_open(&self) -> bool {
        self.streams.iter().any(Option::is_some)
    }

    /// Reads a piece of each stream that is ready.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut result = Poll::Pending;
        for (at, stream) in self.streams.iter_mut().enumerate() {
            let Some(open) = stream else { continue };
            let mut bytes = [0; 1 << 14];
            let mut buffer = ReadBuf::new(&mut bytes);
            if let Poll::Ready(read) = Pin::new(open).poll_read(cx, &mut buffer) {
                read.map_err(|e| unreadable(&e))?;
                match buffer.filled() {
                    [] => *stream = None,
                    piece => self.kept.add(at, piece),
                }
                result = Poll::Ready(Ok(()));
            }
        }
        result
    }
}
