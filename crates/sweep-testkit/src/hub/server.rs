//! Threads that serve connections.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use super::encoding::decode;
use super::fault::{FaultKind, Faults, Situation, Step};
use super::http::{Answer, Connection, Incoming, Next};
use super::repository::Store;
use super::{files, routes};

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The Hub.
    Hub,
    /// The CDN that keeps the files in LFS.
    Cdn,
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `HEAD`, `GET` or `POST`.
    pub method: String,
    /// Server that it went to.
    pub origin: Origin,
    /// Path and query as they were sent, with their percent escapes.
    pub path: String,
    /// Whether it had a header `Authorization`, whatever its value.
    pub authorized: bool,
    /// Its header `Range`.
    pub range: Option<String>,
    /// Status of the answer; nothing if the connection was closed before one.
    pub status: Option<u16>,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hub: SocketAddr,
    pub(super) cdn: SocketAddr,
    pub(super) store: Mutex<Store>,
    pub(super) faults: Mutex<Faults>,
    pub(super) requests: Mutex<Vec<Request>>,
    connections: Mutex<Connections>,
    resumed: Condvar,
}

/// The open connections.
#[derive(Debug, Default)]
struct Connections {
    is_over: bool,
    /// How often stalled answers were let go on.
    resumptions: u64,
    /// How many answers stall.
    stalled: usize,
    open: Vec<Weak<TcpStream>>,
}

impl Shared {
    pub(super) fn new(hub: SocketAddr, cdn: SocketAddr, store: Store) -> Self {
        Self {
            hub,
            cdn,
            store: Mutex::new(store),
            faults: Mutex::default(),
            requests: Mutex::default(),
            connections: Mutex::default(),
            resumed: Condvar::new(),
        }
    }

    /// Ends all connections and lets no others begin.
    pub(super) fn end(&self) {
        let mut connections = lock(&self.connections);
        connections.is_over = true;
        for stream in connections.open.drain(..).filter_map(|stream| stream.upgrade()) {
            // It fails only where the client has hung up already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.resumed.notify_all();
    }

    /// Lets the answers go on that stall now.
    pub(super) fn resume(&self) {
        lock(&self.connections).resumptions += 1;
        self.resumed.notify_all();
    }

    /// Returns how many answers stall.
    pub(super) fn stalled(&self) -> usize {
        lock(&self.connections).stalled
    }

    /// Waits until stalled answers may go on (true) or the server ends (false).
    fn stall(&self) -> bool {
        let mut connections = lock(&self.connections);
        connections.stalled += 1;
        let before = connections.resumptions;
        let waiting =
            |connections: &mut Connections| !connections.is_over && connections.resumptions == before;
        let connections = self.resumed.wait_while(connections, waiting);
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        connections.stalled -= 1;
        !connections.is_over
    }

    /// Takes a connection in; returns nothing when the server ends.
    fn admit(&self, stream: TcpStream) -> Option<Arc<TcpStream>> {
        let mut connections = lock(&self.connections);
        if connections.is_over {
            return None;
        }
        // Answers go out in several writes; none should wait for the client's acknowledgement of another.
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        connections.open.retain(|stream| stream.strong_count() > 0);
        connections.open.push(Arc::downgrade(&stream));
        Some(stream)
    }

    fn is_over(&self) -> bool {
        lock(&self.connections).is_over
    }
}

/// Serves connections until the server ends, each in a thread of its own; all have ended when it returns.
pub(super) fn serve(listener: &TcpListener, origin: Origin, shared: &Shared) {
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                if shared.is_over() {
                    return;
                }
                continue;
            };
            let Some(stream) = shared.admit(stream) else { return };
            scope.spawn(move || {
                // An error is a client that hung up or that speaks no HTTP: there is nobody to tell.
                let _ = converse(&Connection::new(stream), origin, shared);
            });
        }
    });
}

fn converse(connection: &Connection, origin: Origin, shared: &Shared) -> io::Result<()> {
    while let Some(request) = connection.receive()? {
        let next = respond(connection, origin, &request, shared)?;
        if next != Next::Reset {
            connection.let_go()?;
        }
        if next != Next::Keep {
            break;
        }
    }
    Ok(())
}

fn respond(connection: &Connection, origin: Origin, request: &Incoming, shared: &Shared) -> io::Result<Next> {
    let situation =
        Situation { step: step(origin, request), target: &request.target, decoded: decode(&request.target) };
    let Some(answer) = answer(origin, request, &situation, shared) else {
        record(shared, origin, request, None);
        return Ok(Next::Close);
    };
    let delivery = lock(&shared.faults).delivery(&situation, request.is_head(), &answer);
    record(shared, origin, request, Some(answer.status));
    connection.send(request, answer, &delivery, || shared.stall())
}

/// Returns the answer to a request, or nothing if there is to be none.
fn answer(origin: Origin, request: &Incoming, situation: &Situation<'_>, shared: &Shared) -> Option<Answer> {
    let interruption = lock(&shared.faults).interruption(situation);
    match interruption {
        Some(FaultKind::Close) => return None,
        Some(FaultKind::ExpiredUrl) => return Some(files::forbidden()),
        Some(FaultKind::Status { code, retry_after }) => return Some(failure(code, retry_after)),
        _ => {}
    }
    let right = route(origin, request, shared);
    if right.status != 206 || !lock(&shared.faults).ignores_range(situation) {
        return Some(right);
    }
    let mut whole = request.clone();
    whole.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Range"));
    Some(route(origin, &whole, shared))
}

fn route(origin: Origin, request: &Incoming, shared: &Shared) -> Answer {
    let store = lock(&shared.store);
    match origin {
        Origin::Hub => routes::hub(request, &store, shared.hub, shared.cdn),
        Origin::Cdn => files::from_cdn(request, &store),
    }
}

fn failure(status: u16, retry_after: Option<u32>) -> Answer {
    let mut answer = Answer::new(status);
    // These have no body in HTTP.
    if !matches!(status, 204 | 304) {
        answer = answer.body("text/plain; charset=utf-8", format!("failure {status} on demand\n"));
    }
    match retry_after {
        Some(seconds) => answer.header("Retry-After", seconds.to_string()),
        None => answer,
    }
}

fn step(origin: Origin, request: &Incoming) -> Step {
    let is_api = request.path().starts_with("/api/") && !request.path().starts_with("/api/resolve-cache/");
    match origin {
        Origin::Cdn => Step::Cdn,
        Origin::Hub if is_api => Step::Api,
        Origin::Hub if request.is_head() => Step::Head,
        Origin::Hub => Step::Get,
    }
}

/// Writes a request down before its answer is sent, so that who has the answer finds it.
fn record(shared: &Shared, origin: Origin, request: &Incoming, status: Option<u16>) {
    lock(&shared.requests).push(Request {
        method: request.method.clone(),
        origin,
        path: request.target.clone(),
        authorized: request.header("Authorization").is_some(),
        range: request.header("Range").map(str::to_owned),
        status,
    });
}

/// Locks a mutex. What a thread that panicked left behind is still sound: every change under a lock is a single one.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
