//! The events of a response, in OpenAI's order.

use ferrule_engine::Event;
use ferrule_engine::metrics::RequestMetrics;
use serde_json::{Value, json};

use super::reply::{Reply, Status, part};
use crate::serve::body::{Framer, write_json};
use crate::serve::error::ServeError;
use crate::serve::openai::names;

pub struct ResponseFramer {
    reply: Reply,
    sequence_number: usize,
    text: String,
    /// Once the last token has come.
    end: Status,
}

impl ResponseFramer {
    pub fn new(reply: Reply) -> Self {
        Self { reply, sequence_number: 0, text: String::new(), end: Status::Completed }
    }

    /// An event called `name` with `fields`.
    fn write(&mut self, name: &str, fields: Value, out: &mut Vec<u8>) {
        let mut event = json!({"type": name, "sequence_number": self.sequence_number});
        let (Value::Object(event_fields), Value::Object(fields)) = (&mut event, fields) else {
            unreachable!("events are objects")
        };
        event_fields.extend(fields);
        self.sequence_number += 1;
        out.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        write_json(out, &event);
        out.extend_from_slice(b"\n\n");
    }

    /// An event about the message's only part.
    fn write_of_part(&mut self, name: &str, key: &str, value: Value, out: &mut Vec<u8>) {
        let mut fields = json!({"item_id": self.reply.item_id(), "output_index": 0, "content_index": 0});
        fields[key] = value;
        if name.starts_with("response.output_text.") {
            fields["logprobs"] = json!([]);
        }
        self.write(name, fields, out);
    }
}

impl Framer for ResponseFramer {
    fn open(&mut self, out: &mut Vec<u8>) {
        let response = self.reply.response(Status::InProgress, Vec::new(), None);
        self.write("response.created", json!({"response": response}), out);
        self.write("response.in_progress", json!({"response": response}), out);
        let item = self.reply.item(Status::InProgress, None);
        self.write("response.output_item.added", json!({"output_index": 0, "item": item}), out);
        self.write_of_part("response.content_part.added", "part", part(""), out);
    }

    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        let Event::Delta(delta) = event else { return };
        if !delta.text.is_empty() {
            self.text += &delta.text;
            self.write_of_part("response.output_text.delta", "delta", delta.text.into(), out);
        }
        if let Some(reason) = delta.finish_reason {
            self.end = reason.into();
        }
    }

    fn done(&mut self, _: usize, metrics: &RequestMetrics, out: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.text);
        self.write_of_part("response.output_text.done", "text", text.as_str().into(), out);
        self.write_of_part("response.content_part.done", "part", part(&text), out);
        let item = self.reply.item(self.end, Some(&text));
        self.write("response.output_item.done", json!({"output_index": 0, "item": item}), out);
        let response = self.reply.response(self.end, vec![item], Some(metrics));
        self.write(&format!("response.{}", self.end.as_str()), json!({"response": response}), out);
    }

    fn close(&mut self, _: &mut Vec<u8>) {}

    fn error(&mut self, error: &ServeError, out: &mut Vec<u8>) {
        let item = self.reply.item(Status::Incomplete, Some(&self.text));
        let mut response = self.reply.response(Status::Failed, vec![item], None);
        let code = names(error.kind).1.unwrap_or("server_error");
        response["error"] = json!({"code": code, "message": error.message});
        self.write("response.failed", json!({"response": response}), out);
    }
}
