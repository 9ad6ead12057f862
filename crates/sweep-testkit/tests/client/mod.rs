//! A client that shows what really comes over the wire.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use sweep_testkit::PATIENCE;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As announced.
    Whole,
    /// The server closed the connection before.
    Early,
    /// The server reset the connection before.
    Reset,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Zero if the connection ended before it.
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!((self.status, self.end), (200, End::Whole));
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// Keeps the connection to the origin it talked to last.
#[derive(Default)]
pub(crate) struct Client {
    stream: Option<(String, BufReader<TcpStream>)>,
    /// How many connections it has made.
    pub(crate) connections: usize,
}

impl Client {
    pub(crate) fn head(&mut self, url: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("HEAD", url, headers, "")
    }

    pub(crate) fn get(&mut self, url: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("GET", url, headers, "")
    }

    pub(crate) fn post(&mut self, url: &str, content_type: &str, body: &str) -> Reply {
        let length = body.len().to_string();
        self.ask("POST", url, &[("Content-Type", content_type), ("Content-Length", &length)], body)
    }

    fn ask(&mut self, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let (origin, path) =
            url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
        let mut request = format!("{method} /{path} HTTP/1.1\r\nHost: {origin}\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("\r\n{body}"));
        let stream = self.connect(origin);
        stream.get_mut().write_all(request.as_bytes()).expect("the server listens");
        let mut reply = Reply { status: 0, headers: Vec::new(), body: Vec::new(), end: End::Whole };
        reply.end = match read(stream, method, &mut reply) {
            Ok(()) => End::Whole,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => End::Early,
            Err(error) => panic!("{method} {url}: {error}"),
        };
        if reply.end != End::Whole || reply.header("Connection") == Some("close") {
            self.stream = None;
        }
        reply
    }

    fn connect(&mut self, origin: &str) -> &mut BufReader<TcpStream> {
        let open = self.stream.take().filter(|(other, _)| other == origin);
        let (_, stream) = self.stream.insert(open.unwrap_or_else(|| {
            self.connections += 1;
            let stream = TcpStream::connect(origin).expect("the server listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
            (origin.to_owned(), BufReader::new(stream))
        }));
        stream
    }
}

fn read(stream: &mut BufReader<TcpStream>, method: &str, reply: &mut Reply) -> io::Result<()> {
    let first = line(stream)?;
    reply.status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    loop {
        let line = line(stream)?;
        let Some((name, value)) = line.split_once(": ") else { break };
        reply.headers.push((name.to_owned(), value.to_owned()));
    }
    let length = if method == "HEAD" { None } else { reply.header("Content-Length") };
    let length: u64 = length.map_or(0, |length| length.parse().expect("a length"));
    stream.take(length).read_to_end(&mut reply.body)?;
    if reply.body.len() as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(line.to_owned())
}
