//! A Hub on this machine: what Hugging Face's Hub and its CDN answer to clients that read, and what goes wrong on
//! demand.
//!
//! It speaks real HTTP/1.1 over loopback on two ports, one for the Hub and one for its CDN. What it answers follows
//! what clients are known to rely on:
//!
//! - `/api/{models,datasets}/ID[/revision/REVISION]`, `/tree/REVISION[/FOLDER]` with pages, `/paths-info/REVISION` and
//!   `/refs`;
//! - `/ID/resolve/REVISION/FILE` and `/datasets/ID/resolve/REVISION/FILE`: files in LFS are redirected (302) to signed
//!   addresses of the CDN, with `X-Linked-Etag` (SHA-256) and `X-Linked-Size`; files in Git to another address of the
//!   Hub (307), where their ETag is the Git blob's SHA-1;
//! - ranges, `If-None-Match`, ids in another letter case, and errors with `X-Error-Code`.
//!
//! The CDN refuses requests with a token and has its own ETags, as the real one does. Xet is not there: no answer has
//! `X-Xet-Hash`. Every repository has a branch `main`, empty until something is committed to it.

mod address;
mod api;
mod content;
mod encoding;
mod fault;
mod files;
mod folder;
mod http;
mod repository;
mod routes;
mod server;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

pub use content::Content;
pub use fault::{Fault, FaultKind, Step};
pub use repository::{Access, Kind};
pub use server::{Origin, Request};

use repository::Store;
use server::{Shared, lock};

/// Entries on a page of a listing, unless told otherwise; the real Hub is said to have as many.
const PAGE_SIZE: usize = 1000;

/// A running Hub. It stops when it is dropped, and no thread or connection outlives it.
pub struct LocalHub {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl LocalHub {
    /// Starts an empty Hub on free ports of the loopback interface.
    ///
    /// # Panics
    /// Panics if the machine has no free port or cannot start a thread.
    pub fn start() -> Self {
        let (hub, hub_address) = listen();
        let (cdn, cdn_address) = listen();
        let shared = Arc::new(Shared::new(hub_address, cdn_address, Store::new(PAGE_SIZE)));
        let threads = [(hub, Origin::Hub), (cdn, Origin::Cdn)].map(|(listener, origin)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || server::serve(&listener, origin, &shared))
        });
        Self { shared, threads: threads.into() }
    }

    /// Returns the address of the Hub, as in `HF_ENDPOINT`: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.hub)
    }

    /// Returns the address of the CDN: `http://127.0.0.1:PORT`.
    pub fn cdn(&self) -> String {
        format!("http://{}", self.shared.cdn)
    }

    /// Adds a commit that holds exactly `files` and makes it the newest of `revision`, a branch such as `main` or
    /// `refs/convert/parquet`. The repository is made where it is missing, open to everybody.
    ///
    /// Returns the commit, 40 hexadecimal digits that follow from the repository and the files: equal input gives equal
    /// commits.
    ///
    /// # Panics
    /// Panics if a file on disk cannot be read, a path is empty in parts or twice among `files`, or `revision` is a
    /// commit's name.
    pub fn commit(&self, kind: Kind, id: &str, revision: &str, files: &[(&str, Content)]) -> String {
        self.try_commit(kind, id, revision, files).expect("the files of a commit can be read")
    }

    fn try_commit(
        &self,
        kind: Kind,
        id: &str,
        revision: &str,
        files: &[(&str, Content)],
    ) -> io::Result<String> {
        let tree = repository::tree(revision, files)?;
        Ok(lock(&self.shared.store).commit(kind, id, revision, tree))
    }

    /// Commits what lies in `models/OWNER/NAME[@REVISION]/` and `datasets/OWNER/NAME[@REVISION]/` below `folder`;
    /// slashes of a revision are written `%2F`, without one it is `main`. Files of 10,000 bytes and more and weights and
    /// tables (`.safetensors`, `.bin`, `.parquet`) are in LFS and read from disk when they are asked for.
    ///
    /// Returns how many commits there were.
    pub fn add_folder(&self, folder: &Path) -> io::Result<usize> {
        let commits = folder::read(folder)?;
        for commit in &commits {
            let files: Vec<(&str, Content)> =
                commit.files.iter().map(|(path, content)| (&**path, content.clone())).collect();
            self.try_commit(commit.kind, &commit.id, &commit.revision, &files)?;
        }
        Ok(commits.len())
    }

    /// Says who may read a repository, which is made where it is missing.
    pub fn set_access(&self, kind: Kind, id: &str, access: Access) {
        lock(&self.shared.store).repository(kind, id).access = access;
    }

    /// Says which token opens private and gated repositories. Other tokens are those of somebody without permission;
    /// before this call all are.
    pub fn set_token(&self, token: &str) {
        lock(&self.shared.store).token = Some(token.to_owned());
    }

    /// Says how many entries a page of a listing has, at least 1; 1000 unless told otherwise.
    pub fn set_page_size(&self, entries: usize) {
        lock(&self.shared.store).page_size = entries.max(1);
    }

    /// Lets something go wrong from now on.
    pub fn fault(&self, fault: Fault) {
        lock(&self.shared.faults).add(fault);
    }

    /// Ends all faults. Answers that stall already go on to do so.
    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Returns how many answers stall at this moment, those of clients that have hung up among them.
    pub fn stalled(&self) -> usize {
        self.shared.stalled()
    }

    /// Lets the answers go on that stall at this moment.
    pub fn resume_stalled(&self) {
        self.shared.resume();
    }

    /// Returns the requests so far, in the order of their answers. A request is there before its answer is.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        lock(&self.shared.requests).clear();
    }
}

impl fmt::Debug for LocalHub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LocalHub").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

impl Drop for LocalHub {
    fn drop(&mut self) {
        self.shared.end();
        for address in [self.shared.hub, self.shared.cdn] {
            // Wakes the thread that waits for connections; it has one to take if this one finds no place.
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            let end = thread.join();
            assert!(end.is_ok() || thread::panicking(), "a thread of the local Hub panicked");
        }
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback interface has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, address)
}
