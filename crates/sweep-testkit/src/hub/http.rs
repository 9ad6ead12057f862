//! HTTP/1.1 as far as clients of the Hub speak it: requests with a Content-Length, connections that stay open.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::content::Blob;
use super::encoding::fields;
use super::fault::{Delivery, Ending, Way};

/// Longest head or body of a request in bytes.
const LIMIT: usize = 1 << 20;

/// Bytes of a body that are read and written at once.
const BUFFER: u64 = 1 << 16;

/// Pause between the pieces of a slow body: without it the kernel would join them.
const PAUSE: Duration = Duration::from_millis(1);

/// A request.
#[derive(Clone, Debug, Default)]
pub(super) struct Incoming {
    pub(super) method: String,
    /// Path and query as they were sent.
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    is_old: bool,
}

impl Incoming {
    fn parse(head: &[u8]) -> Option<Self> {
        let head = std::str::from_utf8(head).ok()?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let headers = lines.take_while(|line| !line.is_empty()).map(|line| line.split_once(':'));
        let headers =
            headers.map(|pair| pair.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
        (version.starts_with("HTTP/1.") && target.starts_with('/')).then_some(())?;
        Some(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: headers.collect::<Option<_>>()?,
            body: Vec::new(),
            is_old: version == "HTTP/1.0",
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// Returns the value of a field of the query.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        fields(query).into_iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    fn wants_close(&self) -> bool {
        self.is_old || self.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn length(&self) -> io::Result<usize> {
        if self.header("Transfer-Encoding").is_some() {
            return Err(invalid("a body without Content-Length"));
        }
        let length = self.header("Content-Length").map_or(Ok(0), str::parse);
        length.ok().filter(|length| *length <= LIMIT).ok_or_else(|| invalid("a body's length"))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Option<Part>,
}

impl Answer {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), content: None }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn part(mut self, part: Part) -> Self {
        self.content = Some(part);
        self
    }

    pub(super) fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.header("Content-Type", content_type).part(Part::whole(&Blob::from(body.into())))
    }

    pub(super) fn json(self, value: &serde_json::Value) -> Self {
        self.body("application/json; charset=utf-8", value.to_string())
    }

    /// Replaces a header, or leaves it away.
    fn change(&mut self, name: &str, value: Option<&str>) {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }
}

/// Some bytes of a blob.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) blob: Blob,
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Part {
    pub(super) fn whole(blob: &Blob) -> Self {
        Self { blob: blob.clone(), start: 0, length: blob.size() }
    }
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
    Reset,
}

/// The server's end of a connection.
///
/// The last byte of a request stays in the kernel until the answer is sent: a socket that is closed over bytes that
/// were not read resets the connection, and that is how [`Next::Reset`] is done.
pub(super) struct Connection {
    stream: Arc<TcpStream>,
}

impl Connection {
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream }
    }

    /// Waits for a request; returns nothing when the client has hung up.
    pub(super) fn receive(&self) -> io::Result<Option<Incoming>> {
        let Some(head) = self.receive_head()? else { return Ok(None) };
        let mut request = Incoming::parse(&head).ok_or_else(|| invalid("a request"))?;
        let length = request.length()?;
        if length > 0 {
            self.let_go()?;
            request.body = vec![0; length];
            let (last, first) = request.body.split_last_mut().ok_or_else(|| invalid("a body"))?;
            self.stream().read_exact(first)?;
            if self.stream.peek(std::slice::from_mut(last))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Some(request))
    }

    fn receive_head(&self) -> io::Result<Option<Vec<u8>>> {
        let mut head = Vec::new();
        let mut window = [0; 4096];
        while head.len() < LIMIT {
            let seen = self.stream.peek(&mut window)?;
            if seen == 0 {
                return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let before = head.len();
            head.extend_from_slice(&window[..seen]);
            if let Some(end) = end_of_head(&head) {
                head.truncate(end);
                self.stream().read_exact(&mut window[..end - before - 1])?;
                return Ok(Some(head));
            }
            self.stream().read_exact(&mut window[..seen])?;
        }
        Err(invalid("a head"))
    }

    /// Reads the last byte of the request.
    pub(super) fn let_go(&self) -> io::Result<()> {
        self.stream().read_exact(&mut [0])
    }

    /// Sends an answer. `stall` is called where it stalls, and tells whether to go on.
    pub(super) fn send(
        &self,
        request: &Incoming,
        mut answer: Answer,
        delivery: &Delivery,
        stall: impl Fn() -> bool,
    ) -> io::Result<Next> {
        if let (Some(part), Some(to)) = (&mut answer.content, delivery.shrunk) {
            part.length = to;
        }
        let next = seal(&mut answer, request, delivery);
        let part = answer.content.as_ref().filter(|_| !request.is_head());
        let length = part.map_or(0, |part| part.length);
        let ending = delivery.ending;
        if request.is_head()
            && let Some(next) = ending.and_then(|ending| cut(ending, &stall))
        {
            return Ok(next);
        }
        self.stream().write_all(answer.head().as_bytes())?;
        let Some(part) = part else { return Ok(next) };
        let Some(ending) = ending else { return self.stream_part(part, 0, length, delivery).map(|()| next) };
        self.stream_part(part, 0, ending.after, delivery)?;
        if let Some(next) = cut(ending, &stall) {
            return Ok(next);
        }
        self.stream_part(part, ending.after, length, delivery).map(|()| next)
    }

    fn stream_part(&self, part: &Part, from: u64, to: u64, delivery: &Delivery) -> io::Result<()> {
        let reader = part.blob.open()?;
        let step = delivery.piece.unwrap_or(BUFFER).clamp(1, BUFFER);
        let mut buffer = vec![0; step as usize];
        let (mut position, end) = (part.start + from, part.start + to);
        while position < end {
            let piece = &mut buffer[..step.min(end - position) as usize];
            reader.fill(position, piece)?;
            let inverted = delivery.inverted.and_then(|at| at.checked_sub(position));
            if let Some(byte) = inverted.and_then(|at| piece.get_mut(at as usize)) {
                *byte = !*byte;
            }
            self.stream().write_all(piece)?;
            position += piece.len() as u64;
            if delivery.piece.is_some() {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// Adds the headers that say how long the body is and whether the connection stays open.
fn seal(answer: &mut Answer, request: &Incoming, delivery: &Delivery) -> Next {
    if let Some(part) = &answer.content {
        let length = part.length.to_string();
        answer.change("Content-Length", Some(&length));
    }
    for (name, value) in &delivery.headers {
        answer.change(name, value.as_deref());
    }
    // With another length than the body's only the end of the connection can end the answer.
    let is_odd = delivery.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Length"));
    if is_odd || request.wants_close() {
        answer.change("Connection", Some("close"));
        return Next::Close;
    }
    Next::Keep
}

/// Ends an answer; returns nothing where a stalled one goes on.
fn cut(ending: Ending, stall: impl Fn() -> bool) -> Option<Next> {
    match ending.way {
        Way::Close => Some(Next::Close),
        Way::Reset => Some(Next::Reset),
        Way::Stall => (!stall()).then_some(Next::Close),
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} that this server does not understand"))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Answer",
    }
}
