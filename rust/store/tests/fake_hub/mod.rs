//! A hub on this machine that misbehaves as it is told to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the test hub does with the requests for one path, in turn; the last one stays.
#[derive(Clone)]
pub enum Answer {
    Bytes(Vec<u8>),
    /// Closes the connection after so many bytes of the body.
    CutAfter(usize, Vec<u8>),
    /// Ignores ranges.
    Whole(Vec<u8>),
    Status(u16),
    Redirect(&'static str),
}

/// The headers that matter.
#[derive(Clone, Default)]
pub struct Request {
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
pub struct Hub {
    answers: Mutex<HashMap<String, Vec<Answer>>>,
    requests: Mutex<Vec<Request>>,
}

impl Hub {
    pub fn start(answers: &[(&str, Vec<Answer>)]) -> (Arc<Self>, String) {
        let hub = Arc::new(Self::default());
        *hub.answers.lock().unwrap() = answers.iter().map(|(path, list)| (path.to_string(), list.clone())).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        (hub, endpoint)
    }

    fn serve(&self, stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let Some(first) = lines.next() else { return };
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            let found = headers.iter().find(|line| line.to_lowercase().starts_with(name))?;
            Some(found.split_once(':')?.1.trim().to_owned())
        };
        let range = header("range");
        let request = Request { range: range.clone(), authorization: header("authorization") };
        self.requests.lock().unwrap().push(request);
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
        respond(stream, self.next_answer(&path), from);
    }

    fn next_answer(&self, path: &str) -> Answer {
        let mut answers = self.answers.lock().unwrap();
        match answers.get_mut(path) {
            Some(list) if list.len() > 1 => list.remove(0),
            Some(list) => list[0].clone(),
            None => Answer::Status(404),
        }
    }

    /// From now on `path` gets this answer.
    pub fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.into(), vec![answer]);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn ranges(&self) -> Vec<Option<String>> {
        self.requests().into_iter().map(|request| request.range).collect()
    }
}

fn respond(mut stream: TcpStream, answer: Answer, from: usize) {
    let (from, body, cut) = match answer {
        Answer::Status(status) => {
            let _ = write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
        Answer::Redirect(to) => {
            let _ = write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return;
        }
        Answer::Whole(body) => (0, body, usize::MAX),
        Answer::Bytes(body) => (from, body, usize::MAX),
        Answer::CutAfter(cut, body) => (from, body, cut),
    };
    let rest = &body[from.min(body.len())..];
    let head = match from {
        0 => "HTTP/1.1 200 OK".to_owned(),
        _ => format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", body.len() - 1, body.len()),
    };
    let _ = write!(stream, "{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
    let _ = stream.write_all(&rest[..cut.min(rest.len())]);
}
