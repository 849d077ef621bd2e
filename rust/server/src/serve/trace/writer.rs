//! The file of spans, written by a thread of its own: neither an engine nor a connection waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::otlp::{Span, batch};
use crate::failure::{Failure, Result};
use crate::print;

#[derive(Debug, Clone)]
pub struct TraceFile(Sender<Message>);

#[derive(Debug)]
enum Message {
    Batch(String),
    /// Everything before this is in the file.
    Flush(Sender<()>),
}

impl TraceFile {
    /// Appends to what is there.
    pub fn open(path: &Path) -> Result<Self> {
        let unwritable = |err| Failure::usage(format!("{}: {err}", path.display()));
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(unwritable)?;
        let (sender, messages) = channel();
        let writer = std::thread::Builder::new().name("ferrule-trace".into());
        writer.spawn(move || write(file, &messages)).map_err(unwritable)?;
        Ok(Self(sender))
    }

    pub fn write(&self, spans: &[Span]) {
        // The writer ends with its last sender.
        let _ = self.0.send(Message::Batch(batch(spans)));
    }

    /// Waits until everything is in the file.
    pub fn flush(&self) {
        let (sender, flushed) = channel();
        if self.0.send(Message::Flush(sender)).is_ok() {
            let _ = flushed.recv();
        }
    }
}

fn write(mut file: File, messages: &Receiver<Message>) {
    let mut has_failed = false;
    for message in messages {
        match message {
            Message::Batch(line) => {
                if let Err(err) = file.write_all(line.as_bytes())
                    && !std::mem::replace(&mut has_failed, true)
                {
                    print::note(&format!("spans are lost: {err}"));
                }
            }
            Message::Flush(done) => drop(done.send(())),
        }
    }
}
