//! What goes wrong on demand.

use super::http::Answer;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Requests it befalls.
    pub at: Step,
    /// Text that must occur in the request's target, as it was sent or decoded. Targets of the CDN contain the
    /// repository's id and the file's path as well.
    pub path: Option<String>,
    /// What happens.
    pub kind: FaultKind,
    /// How many requests it befalls; all if nothing is given.
    pub times: Option<u32>,
}

/// Where in a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// HEAD of a file at the Hub, each hop of a redirect for itself.
    Head,
    /// GET of a file at the Hub, each hop of a redirect for itself.
    Get,
    /// Any request to the CDN.
    Cdn,
    /// Requests below `/api/`: metadata and listings.
    Api,
}

/// What goes wrong. Faults of different kinds on the same request combine; of those of one kind the first that has
/// `times` left applies, and so it is among `Status`, `Close` and `ExpiredUrl`, and among `Truncate`, `Reset` and
/// `Stall`, which exclude each other. Several `Header`s apply together.
///
/// `Truncate`, `Shrink`, `Corrupt` and `Slow` befall answers that carry contents (200 and 206 with a body), never
/// redirects or errors, and are not used up by others. `Stall` and `Reset` befall answers to HEAD as well and then keep
/// back all of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Answers this status in place of what was asked for.
    Status {
        /// The status.
        code: u16,
        /// The header `Retry-After` in seconds.
        retry_after: Option<u32>,
    },
    /// Closes the connection in good order before an answer.
    Close,
    /// Closes the connection in good order after so many bytes of the body, fewer than Content-Length says.
    Truncate {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// Resets the connection (RST) after so many bytes of the body.
    Reset {
        /// Bytes of the body that are sent; a client that reads slowly may lose the last of them.
        after: u64,
    },
    /// Leaves the end of the body away and says so in Content-Length: a flawless answer with a short file.
    Shrink {
        /// Bytes that remain.
        to: u64,
    },
    /// Inverts the bits of one byte.
    Corrupt {
        /// Its place in the whole file; answers to ranges without it are sound and do not use the fault up.
        at: u64,
    },
    /// Sends nothing more after so many bytes of the body until [`LocalHub::resume_stalled`] or the server's end.
    ///
    /// [`LocalHub::resume_stalled`]: super::LocalHub::resume_stalled
    Stall {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// Sends the body in small pieces, about one a millisecond.
    Slow {
        /// Bytes of a piece.
        chunk: usize,
    },
    /// Answers the whole file (200) in place of the range that was asked for (206).
    IgnoreRange,
    /// Answers as the CDN does when the time of a signed address is over: 403 with XML.
    ExpiredUrl,
    /// Changes a header of the answer.
    Header {
        /// Its name; case does not matter.
        name: String,
        /// Its value; the header is left away if nothing is given.
        value: Option<String>,
    },
}

/// The faults in force, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<Fault>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// Takes the fault that keeps the server from working on the request at all.
    pub(super) fn interruption(&mut self, on: &Situation<'_>) -> Option<FaultKind> {
        use FaultKind::{Close, ExpiredUrl, Status};
        self.take(on, |kind| matches!(kind, Status { .. } | Close | ExpiredUrl))
    }

    /// Takes a fault that makes the server ignore the range.
    pub(super) fn ignores_range(&mut self, on: &Situation<'_>) -> bool {
        self.take(on, |kind| *kind == FaultKind::IgnoreRange).is_some()
    }

    /// Takes the faults that change `answer` on its way.
    pub(super) fn delivery(&mut self, on: &Situation<'_>, is_head: bool, answer: &Answer) -> Delivery {
        let (mut start, mut length) = (0, 0);
        if let (Some(part), false, 200 | 206) = (&answer.content, is_head, answer.status) {
            (start, length) = (part.start, part.length);
        }
        let shrunk = self.number(on, |kind| match kind {
            FaultKind::Shrink { to } => (*to < length).then_some(*to),
            _ => None,
        });
        length = shrunk.unwrap_or(length);
        Delivery {
            shrunk,
            ending: self.ending(on, is_head, length),
            inverted: self.number(on, |kind| match kind {
                FaultKind::Corrupt { at } => (start..start + length).contains(at).then_some(*at),
                _ => None,
            }),
            piece: self.number(on, |kind| match kind {
                FaultKind::Slow { chunk } if length > 0 => Some(*chunk as u64),
                _ => None,
            }),
            headers: self.headers(on),
        }
    }

    fn ending(&mut self, on: &Situation<'_>, is_head: bool, length: u64) -> Option<Ending> {
        let taken = self.take(on, |kind| match kind {
            FaultKind::Truncate { after } => *after < length,
            FaultKind::Reset { after } | FaultKind::Stall { after } => is_head || *after < length,
            _ => false,
        })?;
        match taken {
            FaultKind::Truncate { after } => Some(Ending { after, way: Way::Close }),
            FaultKind::Reset { after } => Some(Ending { after, way: Way::Reset }),
            FaultKind::Stall { after } => Some(Ending { after, way: Way::Stall }),
            _ => None,
        }
    }

    fn headers(&mut self, on: &Situation<'_>) -> Vec<(String, Option<String>)> {
        let mut changes = Vec::new();
        for fault in self.list.iter_mut().filter(|fault| on.is_befallen_by(fault)) {
            if let FaultKind::Header { name, value } = &fault.kind {
                changes.push((name.clone(), value.clone()));
                use_up(fault);
            }
        }
        changes
    }

    fn number(&mut self, on: &Situation<'_>, read: impl Fn(&FaultKind) -> Option<u64>) -> Option<u64> {
        self.take(on, |kind| read(kind).is_some()).and_then(|kind| read(&kind))
    }

    /// Takes the first fault that befalls the request and that `applies`.
    fn take(&mut self, on: &Situation<'_>, applies: impl Fn(&FaultKind) -> bool) -> Option<FaultKind> {
        let mut befalling = self.list.iter_mut().filter(|fault| on.is_befallen_by(fault));
        let fault = befalling.find(|fault| applies(&fault.kind))?;
        use_up(fault);
        Some(fault.kind.clone())
    }
}

fn use_up(fault: &mut Fault) {
    if let Some(times) = &mut fault.times {
        *times -= 1;
    }
}

/// What faults look at in a request.
pub(super) struct Situation<'a> {
    pub(super) step: Step,
    /// Target as it was sent.
    pub(super) target: &'a str,
    /// Target without percent escapes.
    pub(super) decoded: String,
}

impl Situation<'_> {
    fn is_befallen_by(&self, fault: &Fault) -> bool {
        let named = |text: &String| self.target.contains(text) || self.decoded.contains(text);
        fault.at == self.step && fault.times != Some(0) && fault.path.as_ref().is_none_or(named)
    }
}

/// How an answer is sent.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Bytes that remain of the body.
    pub(super) shrunk: Option<u64>,
    pub(super) ending: Option<Ending>,
    /// Place in the file of the byte whose bits are inverted.
    pub(super) inverted: Option<u64>,
    /// Bytes of a piece, where the body goes out in pieces.
    pub(super) piece: Option<u64>,
    /// Headers to replace, or to leave away.
    pub(super) headers: Vec<(String, Option<String>)>,
}

/// How an answer ends early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// Bytes of the body that are sent before.
    pub(super) after: u64,
    pub(super) way: Way,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Close,
    Reset,
    Stall,
}
