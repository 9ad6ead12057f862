//! Who may read: hosts that a browser may call this server by, and a token where others than this machine can reach it.

use std::fmt;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::header::{AUTHORIZATION, COOKIE, HOST};
use axum::http::{HeaderMap, Uri};

/// Letters of a token, at least: 16 of 66 different ones are 96 bits.
const SHORTEST: usize = 16;
/// Letters of a token, at most.
const LONGEST: usize = 256;
/// The port that addresses leave out.
const HTTP: u16 = 80;

/// A shared secret that lets its holder read.
#[derive(Clone)]
pub struct Token(String);

/// A text that is too weak for a token, or cannot stand in an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token has {SHORTEST} to {LONGEST} letters, digits or `-`, `_`, `.`, `~`\n  hint: --token \"$(openssl rand -hex 16)\""
)]
pub struct WeakToken;

/// That an address can be reached from elsewhere and no token guards it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{address}` can be reached from other machines, so readers must show a token\n  \
     hint: --token \"$(openssl rand -hex 16)\", or stay at 127.0.0.1 and come through `ssh -L {}:127.0.0.1:{} HOST`",
    address.port(),
    address.port()
)]
pub struct Refused {
    /// The address.
    pub address: SocketAddr,
}

/// Which requests are answered.
///
/// * The `Host` header must be this server's own: the address it is bound to, `localhost`, `127.0.0.1` or `[::1]`, with its port.
///   A page of a stranger whose name was pointed at this machine (DNS rebinding) sends the stranger's name. Bound to every
///   address of the machine, any literal address will do, since no name can be pointed at this machine by it, and the machine's
///   names that were given.
/// * Where there is a token, a request must carry it: as `Authorization: Bearer TOKEN`, in a cookie, or once as `?token=TOKEN`,
///   which becomes that cookie.
#[derive(Clone, Debug)]
pub struct Access {
    address: SocketAddr,
    names: Vec<String>,
    token: Option<Token>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is answered.
    Welcome,
    /// It is answered, and was sent with the token in its address: the browser is sent on without it, with a cookie.
    WelcomeOnce,
    /// It was meant for another server.
    WrongHost,
    /// It has no token, or a wrong one.
    NoToken,
}

impl Token {
    /// Returns a token of that text.
    ///
    /// # Errors
    /// [`WeakToken`] for one that is short, or has letters that an address or a cookie does not hold as they are.
    pub fn new(text: &str) -> Result<Self, WeakToken> {
        let is_plain = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.~".contains(&letter);
        let fits = (SHORTEST..=LONGEST).contains(&text.len()) && text.bytes().all(is_plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(WeakToken) }
    }

    /// Returns whether `text` is this token, in a time that depends on their lengths only.
    fn is(&self, text: &str) -> bool {
        let (own, other) = (self.0.as_bytes(), text.as_bytes());
        let differing = own.iter().zip(other).fold(0, |bits, (one, other)| black_box(bits | (one ^ other)));
        own.len() == other.len() && differing == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

impl Access {
    /// Returns the rules of a server at `address`, where port 0 takes one that is free; `names` are the machine's own, by which
    /// browsers may call it where others can reach the address.
    ///
    /// # Errors
    /// [`Refused`] for an address that is not this machine's alone, without a token.
    pub fn new(address: SocketAddr, names: Vec<String>, token: Option<Token>) -> Result<Self, Refused> {
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(Refused { address });
        }
        Ok(Self { address, names, token })
    }

    /// Returns the address that the server is to be at.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the same rules for the port that was really taken.
    #[must_use]
    pub(crate) fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// Returns the address of the first page, with the token if there is one.
    pub(crate) fn url(&self) -> String {
        let host = match self.address.ip() {
            ip if ip.is_unspecified() => {
                self.names.first().cloned().unwrap_or_else(|| "localhost".to_owned())
            }
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        };
        let token = self.token.as_ref().map_or_else(String::new, |token| format!("?token={}", token.0));
        format!("http://{host}:{}/{token}", self.address.port())
    }

    /// Judges a request.
    pub(crate) fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        if !self.is_own_host(uri, headers) {
            return Verdict::WrongHost;
        }
        let Some(token) = &self.token else { return Verdict::Welcome };
        if bearer(headers).is_some_and(|text| token.is(text)) {
            return Verdict::Welcome;
        }
        // Also where the cookie is there already: the token does not stay in an address.
        if parameters(uri).any(|(key, value)| key == "token" && token.is(value)) {
            return Verdict::WelcomeOnce;
        }
        let name = self.cookie_name();
        let has_cookie = cookies(headers).any(|(key, value)| key == name && token.is(value));
        if has_cookie { Verdict::Welcome } else { Verdict::NoToken }
    }

    /// Returns the cookie that carries the token. Cookies do not know ports, so its name does.
    pub(crate) fn cookie(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name(), token.0))
    }

    fn cookie_name(&self) -> String {
        format!("sweep-{}", self.address.port())
    }

    fn is_own_host(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(HOST).iter();
        let (Some(host), None) = (given.next().and_then(|host| host.to_str().ok()), given.next()) else {
            return false;
        };
        // A request may also name its server in its first line; both must be this one.
        let also = uri.authority().map_or(host, |authority| authority.as_str());
        self.is_own(host) && self.is_own(also)
    }

    fn is_own(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, Some(HTTP)),
        };
        if port != Some(self.address.port()) {
            return false;
        }
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        match literal(name) {
            Some(ip) if self.address.ip().is_unspecified() => !ip.is_multicast(),
            Some(ip) => {
                ip == self.address.ip()
                    || ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
                    || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
            }
            // A name could be pointed at this machine; that it is ours counts only where a token guards the address.
            None => self.token.is_some() && self.names.iter().any(|own| own.eq_ignore_ascii_case(name)),
        }
    }
}

/// Returns the address that a host is written as, if it is one.
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// Returns the parameters of an address as they are written: a token has no letters that would be encoded.
fn parameters(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='))
}

/// Returns the same path and parameters without the token.
pub(crate) fn without_token(uri: &Uri) -> String {
    let rest: Vec<&str> = uri
        .query()
        .unwrap_or("")
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("token="))
        .collect();
    // A path of two slashes at its beginning would name another server.
    let path = format!("/{}", uri.path().trim_start_matches('/'));
    if rest.is_empty() { path } else { format!("{path}?{}", rest.join("&")) }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn rules(address: &str, token: Option<&str>) -> Access {
        let token = token.map(|text| Token::new(text).unwrap());
        Access::new(address.parse().unwrap(), vec!["node7".to_owned()], token).unwrap()
    }

    fn headers(pairs: &[(axum::http::HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn only_its_own_hosts_are_answered() {
        let cases = [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "localhost:8080", true),
            ("127.0.0.1:8080", "LOCALHOST:8080", true),
            ("127.0.0.1:8080", "[::1]:8080", true),
            ("127.0.0.1:8080", "localhost", false),
            ("127.0.0.1:8080", "localhost:80", false),
            ("127.0.0.1:8080", "localhost:8080.evil.org", false),
            ("127.0.0.1:8080", "evil.org:8080", false),
            ("127.0.0.1:8080", "localhost.evil.org:8080", false),
            ("127.0.0.1:8080", "127.0.0.1.evil.org:8080", false),
            ("127.0.0.1:8080", "10.0.0.1:8080", false),
            ("127.0.0.1:8080", "", false),
            ("127.0.0.1:80", "localhost", true),
            ("127.0.0.1:80", "[::1]", true),
            ("[::1]:8080", "[::1]:8080", true),
            ("0.0.0.0:8080", "192.168.0.7:8080", true),
            ("0.0.0.0:8080", "node7:8080", true),
            ("0.0.0.0:8080", "evil.org:8080", false),
            ("192.168.0.7:8080", "192.168.0.7:8080", true),
            ("192.168.0.7:8080", "192.168.0.8:8080", false),
        ];
        for (address, host, is_answered) in cases {
            let access = rules(address, Some(SECRET));
            let verdict = access.judge(
                &"/".parse().unwrap(),
                &headers(&[(HOST, host), (AUTHORIZATION, &format!("Bearer {SECRET}"))]),
            );
            assert_eq!(verdict == Verdict::Welcome, is_answered, "{host} at {address}: {verdict:?}");
        }
        let access = rules("127.0.0.1:8080", None);
        assert_eq!(access.judge(&"/".parse().unwrap(), &HeaderMap::new()), Verdict::WrongHost);
        // Without a token, a name that is the machine's own could still be pointed at it by a stranger.
        let named = headers(&[(HOST, "node7:8080")]);
        assert_eq!(access.judge(&"/".parse().unwrap(), &named), Verdict::WrongHost);
        let twice = headers(&[(HOST, "localhost:8080"), (HOST, "evil.org")]);
        assert_eq!(access.judge(&"/".parse().unwrap(), &twice), Verdict::WrongHost);
        let absolute = "http://evil.org/".parse().unwrap();
        assert_eq!(access.judge(&absolute, &headers(&[(HOST, "localhost:8080")])), Verdict::WrongHost);
    }

    #[test]
    fn a_token_comes_in_one_of_three_ways() {
        let access = rules("127.0.0.1:8080", Some(SECRET));
        let judge = |uri: &str, more: &[(axum::http::HeaderName, &str)]| {
            let all = [&[(HOST, "localhost:8080")], more].concat();
            access.judge(&uri.parse().unwrap(), &headers(&all))
        };
        assert_eq!(judge("/", &[]), Verdict::NoToken);
        assert_eq!(judge("/?token=0123456789abcdef", &[]), Verdict::WelcomeOnce);
        assert_eq!(judge("/?token=0123456789abcdeg", &[]), Verdict::NoToken);
        assert_eq!(judge("/?token=0123456789abcde", &[]), Verdict::NoToken);
        assert_eq!(judge("/", &[(AUTHORIZATION, "bearer 0123456789abcdef")]), Verdict::Welcome);
        assert_eq!(judge("/", &[(AUTHORIZATION, "Basic 0123456789abcdef")]), Verdict::NoToken);
        assert_eq!(judge("/", &[(COOKIE, "a=b; sweep-8080=0123456789abcdef")]), Verdict::Welcome);
        let both = judge("/?token=0123456789abcdef", &[(COOKIE, "sweep-8080=0123456789abcdef")]);
        assert_eq!(both, Verdict::WelcomeOnce, "the token does not stay in the address");
        assert_eq!(judge("/", &[(COOKIE, "sweep-8081=0123456789abcdef")]), Verdict::NoToken);
        assert!(access.cookie().unwrap().ends_with("HttpOnly; SameSite=Strict"));
        assert_eq!(access.url(), "http://127.0.0.1:8080/?token=0123456789abcdef");
        assert!(!format!("{access:?}").contains(SECRET));
    }

    #[test]
    fn an_open_address_needs_a_token() {
        for address in ["0.0.0.0:80", "192.168.0.7:80", "[::]:80", "[::ffff:10.0.0.1]:80"] {
            assert!(Access::new(address.parse().unwrap(), Vec::new(), None).is_err(), "{address}");
        }
        for address in ["127.0.0.1:80", "127.8.0.1:80", "[::1]:80"] {
            assert!(Access::new(address.parse().unwrap(), Vec::new(), None).is_ok(), "{address}");
        }
        for weak in ["", "short", "0123456789abcde;", "0123456789abcdeö", &"x".repeat(257)] {
            assert!(Token::new(weak).is_err(), "{weak}");
        }
    }

    #[test]
    fn a_token_leaves_the_address() {
        let cases = [
            ("/?token=x", "/"),
            ("/run/3f?token=x&page=2", "/run/3f?page=2"),
            ("//evil.org/?token=x", "/evil.org/"),
        ];
        for (uri, rest) in cases {
            assert_eq!(without_token(&uri.parse().unwrap()), rest);
        }
    }
}
