//! Spans in the JSON of OpenTelemetry's protocol.

use serde_json::{Value, json};

/// By OTLP's numbers.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Internal = 1,
    Server = 2,
}

#[derive(Debug)]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub id: String,
    pub parent_id: Option<String>,
    pub name: String,
    pub kind: Kind,
    /// Since 1970.
    pub from_nanos: u128,
    pub to_nanos: u128,
    /// An object of texts and whole numbers.
    pub attributes: Value,
    pub is_error: bool,
}

/// A line of the file.
pub fn batch(spans: &[Span]) -> String {
    let resource = json!({"service.name": "ferrule", "service.version": env!("CARGO_PKG_VERSION")});
    let batch = json!({"resourceSpans": [{
        "resource": {"attributes": attributes(&resource)},
        "scopeSpans": [{"scope": {"name": "ferrule"}, "spans": spans.iter().map(span).collect::<Vec<_>>()}],
    }]});
    format!("{batch}\n")
}

fn span(span: &Span) -> Value {
    json!({
        "traceId": span.trace_id,
        "spanId": span.id,
        "parentSpanId": span.parent_id.as_deref().unwrap_or(""),
        "name": span.name,
        "kind": span.kind as u8,
        // 64-bit numbers are texts in JSON.
        "startTimeUnixNano": span.from_nanos.to_string(),
        "endTimeUnixNano": span.to_nanos.to_string(),
        "attributes": attributes(&span.attributes),
        "status": if span.is_error { json!({"code": 2}) } else { json!({}) },
    })
}

fn attributes(object: &Value) -> Vec<Value> {
    let value = |value: &Value| match value {
        Value::Number(number) => json!({"intValue": number.to_string()}),
        value => json!({"stringValue": value}),
    };
    object.as_object().into_iter().flatten().map(|(key, of)| json!({"key": key, "value": value(of)})).collect()
}
