//! Amazon's event streams: binary messages with checksums.
//!
//! ```text
//! message   u32 its length | u32 headers' length | u32 CRC of these two | headers | payload | u32 CRC of all before
//! header    u8 name's length | name | u8 type of value (7: text) | u16 value's length | value
//! ```
//! Numbers are big-endian, lengths are in bytes, and the CRC is the one of IEEE 802.3.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::json;

use crate::serve::body::write_json;
use crate::serve::error::{Kind, ServeError};

/// Content type of such a stream.
pub const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

const PRELUDE_LEN: usize = 12;
const CRC_LEN: usize = 4;
const TEXT: u8 = 7;

pub fn write_event(out: &mut Vec<u8>, event_type: &str, payload: &impl Serialize) {
    write_message(out, (":event-type", event_type), "event", |out| write_json(out, payload));
}

/// A piece of a model's own stream of JSON.
pub fn write_chunk(out: &mut Vec<u8>, piece: &impl Serialize) {
    let mut bytes = Vec::new();
    write_json(&mut bytes, piece);
    write_event(out, "chunk", &json!({"bytes": BASE64_STANDARD.encode(bytes)}));
}

/// Why a stream ends before its time.
pub fn write_exception(out: &mut Vec<u8>, error: &ServeError) {
    let exception_type = match error.kind {
        Kind::InvalidRequest | Kind::ContextLength => "validationException",
        Kind::RateLimited | Kind::Overloaded => "throttlingException",
        Kind::Unavailable => "serviceUnavailableException",
        _ => "internalServerException",
    };
    let payload = json!({"message": error.message});
    write_message(out, (":exception-type", exception_type), "exception", |out| write_json(out, &payload));
}

fn write_message(out: &mut Vec<u8>, name: (&str, &str), message_type: &str, write_payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; PRELUDE_LEN]);
    for (name, value) in [name, (":content-type", "application/json"), (":message-type", message_type)] {
        write_header(out, name, value);
    }
    let headers_len = out.len() - start - PRELUDE_LEN;
    write_payload(out);
    let message = &mut out[start..];
    let len = message.len() + CRC_LEN;
    message[0..4].copy_from_slice(&length(len).to_be_bytes());
    message[4..8].copy_from_slice(&length(headers_len).to_be_bytes());
    let crc = crc32fast::hash(&message[..8]);
    message[8..PRELUDE_LEN].copy_from_slice(&crc.to_be_bytes());
    let crc = crc32fast::hash(message);
    out.extend_from_slice(&crc.to_be_bytes());
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an answer's piece is shorter than 4 GiB")
}

fn write_header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(u8::try_from(name.len()).expect("names of headers are short"));
    out.extend_from_slice(name.as_bytes());
    out.push(TEXT);
    out.extend_from_slice(&u16::try_from(value.len()).expect("values of headers are short").to_be_bytes());
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As botocore reads it; the payload's JSON has a space.
    const MESSAGE_START: &str = "0000007700000052abb5d36e0b3a6576656e742d7479706507000c6d65737361676553746172740d3a636f6e7465\
        6e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b22726f6c65223a\
        2022617373697374616e74227d5be0d2f5";

    #[test]
    fn a_message_is_that_of_the_reference() {
        let mut out = b"what came before".to_vec();
        let payload = |out: &mut Vec<u8>| out.extend_from_slice(br#"{"role": "assistant"}"#);
        write_message(&mut out, (":event-type", "messageStart"), "event", payload);
        assert_eq!(crate::serve::auth::hex(&out["what came before".len()..]), MESSAGE_START);
    }
}
