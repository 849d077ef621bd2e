//! Signatures of AWS's clients (Signature Version 4): an HMAC over the request, by a key made from the secret.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, Method, Uri, header};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::key_file::hex;
use crate::serve::error::{Kind, Result, ServeError};
use crate::serve::rfc3339::compact;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the client's clock may be from ours.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// What a signed request says about its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub key_id: String,
    /// Date, region and service, for which the key was made; what they are is the client's choice.
    scope: [String; 3],
    /// In lower case, in order.
    signed_headers: Vec<String>,
    /// `20261125T134112Z`
    time: String,
    signature: Vec<u8>,
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

impl Signature {
    /// None: the request is not signed in this way.
    pub fn of(headers: &HeaderMap) -> Option<Result<Self>> {
        let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix(ALGORITHM)?;
        let time = headers.get("x-amz-date").and_then(|time| time.to_str().ok());
        let malformed = "the Authorization header is no signature of version 4, with a Credential, SignedHeaders and a \
                         Signature, or there is no X-Amz-Date";
        Some(Self::parse(given, time).ok_or_else(|| bad(malformed)))
    }

    fn parse(given: &str, time: Option<&str>) -> Option<Self> {
        let parts = given.split(',').filter_map(|part| part.trim().split_once('='));
        let part = |wanted| parts.clone().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let credential: Vec<&str> = part("Credential")?.split('/').collect();
        let [key_id, date, region, service, "aws4_request"] = credential[..] else { return None };
        let signed_headers: Vec<String> = part("SignedHeaders")?.split(';').map(str::to_owned).collect();
        let signature = unhex(part("Signature")?)?;
        let time = time.filter(|time| time.starts_with(date))?.to_owned();
        let scope = [date, region, service].map(str::to_owned);
        Some(Self { key_id: key_id.into(), scope, signed_headers, time, signature })
    }

    /// Whether whoever signed the request has the secret, and has signed it just now.
    pub fn check(&self, secret: &str, request: Signed<'_>, now: SystemTime) -> Result<()> {
        // Times in this form are ordered as text is.
        if self.time < compact(now - MAX_SKEW) || self.time > compact(now + MAX_SKEW) {
            let message = format!("the request was signed at {}, and it is {}", self.time, compact(now));
            return Err(bad(&message));
        }
        // Without these, a signature would fit another server's requests, or another time's.
        for needed in ["host", "x-amz-date"] {
            if !self.signed_headers.iter().any(|name| name == needed) {
                return Err(bad(&format!("the header {needed} is not signed")));
            }
        }
        let canonical = self.canonical_request(request);
        let [date, region, service] = &self.scope;
        let scope = format!("{date}/{region}/{service}/aws4_request");
        let hash = hex(&Sha256::digest(canonical));
        let text = format!("{ALGORITHM}\n{}\n{scope}\n{hash}", self.time);
        let matches = hmac(&self.signing_key(secret), &text).verify_slice(&self.signature);
        matches.map_err(|_| {
            bad("the signature is not the one that this server calculates: check the secret, and whether something \
                 between client and server changes requests")
        })
    }

    fn signing_key(&self, secret: &str) -> Vec<u8> {
        let [date, region, service] = &self.scope;
        let steps = [date, region, service, "aws4_request"];
        let first = format!("AWS4{secret}").into_bytes();
        steps.iter().fold(first, |key, step| hmac(&key, step).finalize().into_bytes().to_vec())
    }

    fn canonical_request(&self, request: Signed<'_>) -> String {
        let Signed { method, uri, headers, body } = request;
        let mut text = format!("{method}\n{}\n{}\n", encoded_again(uri.path()), canonical_query(uri));
        for name in &self.signed_headers {
            writeln!(text, "{name}:{}", canonical_value(headers, name)).expect("strings take everything");
        }
        text + "\n" + &self.signed_headers.join(";") + "\n" + &hex(&Sha256::digest(body))
    }
}

fn bad(message: &str) -> ServeError {
    ServeError::new(Kind::BadSignature, message)
}

fn hmac(key: &[u8], text: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("keys may be of any length").chain_update(text)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.is_ascii().then_some(text)?;
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

/// The path as it was sent, each segment of it percent-encoded once more, as for all services but S3.
fn encoded_again(path: &str) -> String {
    path.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(byte.into()),
            _ => write!(text, "%{byte:02X}").expect("strings take everything"),
        }
        text
    })
}

/// Its parameters in order; clients have them percent-encoded already.
fn canonical_query(uri: &Uri) -> String {
    let query = uri.query().unwrap_or_default();
    let mut pairs: Vec<_> = query.split('&').filter(|pair| !pair.is_empty()).map(complete).collect();
    pairs.sort_unstable();
    pairs.join("&")
}

fn complete(pair: &str) -> String {
    if pair.contains('=') { pair.into() } else { format!("{pair}=") }
}

/// All values of a header, without spaces that say nothing.
fn canonical_value(headers: &HeaderMap, name: &str) -> String {
    let words = |value: &str| value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let values = headers.get_all(name).iter().map(|value| words(&String::from_utf8_lossy(value.as_bytes())));
    values.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use axum::http::Request;

    use super::*;

    const SECRET: &str = "sk-secret";
    const BODY: &[u8] = br#"{"messages": []}"#;
    /// 2026-11-25T13:41:12Z
    const NOW: u64 = 1_795_614_072;

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    /// Signed by botocore.
    fn request() -> Request<()> {
        let signature = "AWS4-HMAC-SHA256 Credential=alice/20261125/us-east-1/bedrock/aws4_request, \
            SignedHeaders=content-type;host;x-amz-date;x-note, \
            Signature=8184314feda0218774677c0ea0217914586b2bafca10ba16caa3f090321b4173";
        let request = Request::post("/model/smol%2F135m%3A0/converse?b=2&a=%2F").header("host", "127.0.0.1:8000");
        let request = request.header("content-type", "application/json").header("x-note", "two   spaces ");
        request.header("x-amz-date", "20261125T134112Z").header("authorization", signature).body(()).unwrap()
    }

    fn check(request: &Request<()>, body: &[u8], secret: &str, now: SystemTime) -> Result<()> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        Signature::of(headers).unwrap()?.check(secret, Signed { method, uri, headers, body }, now)
    }

    #[test]
    fn what_botocore_signed_is_signed() {
        check(&request(), BODY, SECRET, at(NOW)).unwrap();
        assert_eq!(Signature::of(request().headers()).unwrap().unwrap().key_id, "alice");
    }

    /// `get-vanilla` of AWS's test suite.
    #[test]
    fn the_documented_example_is_signed() {
        let signature = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
            SignedHeaders=host;x-amz-date, \
            Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        let request = Request::get("/").header("host", "example.amazonaws.com").header("authorization", signature);
        let request = request.header("x-amz-date", "20150830T123600Z").body(()).unwrap();
        check(&request, b"", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", at(1_440_938_160)).unwrap();
    }

    #[test]
    fn what_was_changed_is_not() {
        let refused = |request: &Request<()>, body, secret| {
            assert_eq!(check(request, body, secret, at(NOW)).unwrap_err().kind, Kind::BadSignature);
        };
        refused(&request(), BODY, "sk-other");
        refused(&request(), b"{}", SECRET);
        let changed = |name: &'static str, value: &str| {
            let mut request = request();
            request.headers_mut().insert(name, value.parse().unwrap());
            request
        };
        refused(&changed("host", "example.com"), BODY, SECRET);
        refused(&changed("x-note", "three spaces"), BODY, SECRET);
        refused(&changed("x-amz-date", "20261125T134113Z"), BODY, SECRET);
        let mut other = request();
        *other.uri_mut() = "/model/smol%2F360m%3A0/converse?b=2&a=%2F".parse().unwrap();
        refused(&other, BODY, SECRET);
        let unsigned = request().headers()["authorization"].to_str().unwrap().replace("host;", "");
        refused(&changed("authorization", &unsigned), BODY, SECRET);
    }

    #[test]
    fn signatures_age() {
        for (secs, fresh) in [(NOW - 299, true), (NOW + 300, true), (NOW - 301, false), (NOW + 301, false)] {
            assert_eq!(check(&request(), BODY, SECRET, at(secs)).is_ok(), fresh);
        }
    }

    #[test]
    fn malformed_signatures_are_refused() {
        let of = |authorization: &str| {
            let mut headers = request().headers().clone();
            headers.insert("authorization", authorization.parse().unwrap());
            Signature::of(&headers)
        };
        assert_eq!(of("Bearer sk-secret"), None);
        let whole = request().headers()["authorization"].to_str().unwrap().to_owned();
        for (part, instead) in [
            ("aws4_request", "aws3_request"),
            ("alice/", ""),
            ("20261125", "20261126"),
            ("SignedHeaders", "Headers"),
            ("Signature=8", "Signature="),
            ("Signature=81", "Signature=zz"),
            ("Signature=81", "Signature=é"),
        ] {
            let broken = whole.replace(part, instead);
            assert!(matches!(of(&broken), None | Some(Err(_))), "{broken}");
        }
        let mut headers = request().headers().clone();
        headers.remove("x-amz-date");
        assert!(Signature::of(&headers).unwrap().is_err());
    }
}
