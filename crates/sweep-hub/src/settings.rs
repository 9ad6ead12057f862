//! Where the Hub and the cache are, and how patient to be: the environment variables of `huggingface_hub`.

use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// The public Hub.
const ENDPOINT: &str = "https://huggingface.co";
/// Longest silence of a connection. Python's client waits 10 s, which a busy Hub sometimes exceeds.
const PATIENCE: Duration = Duration::from_mins(1);
/// Tries after the first; with [`RETRY_DELAY`] they span half a minute at most.
const RETRIES: u32 = 5;
/// Wait before the first of them; each further one waits twice as long.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Most bytes that are read of a token's file; a token has below a hundred.
const LONGEST_TOKEN: u64 = 4096;

/// Looks a variable up.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// An access token of the Hub. It shows itself to nobody: neither `Debug` nor any error of this crate prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token without the white space around it; `None` where nothing is left.
    ///
    /// # Errors
    /// [`Error::Setting`] where it has characters that cannot be sent.
    pub fn new(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = "it has characters that no token has".to_owned();
            return Err(Error::Setting { name: "HF_TOKEN", reason });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// The secret, for the header of a request.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("…")
    }
}

/// How to reach the Hub and where to keep what it sends.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Hub's address, `http://` or `https://`, without a slash at the end.
    pub endpoint: String,
    /// The cache's folder; made when something is written.
    pub cache: PathBuf,
    /// Sent to the endpoint's own origin only, never to the servers that it redirects to.
    pub token: Option<Token>,
    /// Whether no request may be made.
    pub offline: bool,
    /// Longest time without any progress before a request counts as failed and is tried again.
    pub patience: Duration,
    /// How often a transient failure is tried again, for each request and each file.
    pub retries: u32,
    /// Wait before the first retry; doubled for each further one, up to a minute, and shortened by up to half by chance.
    pub retry_delay: Duration,
}

impl Settings {
    /// The public Hub with the given cache, without a token.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            cache: cache.into(),
            token: None,
            offline: false,
            patience: PATIENCE,
            retries: RETRIES,
            retry_delay: RETRY_DELAY,
        }
    }

    /// The settings that `huggingface_hub` would use: `HF_ENDPOINT`; `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `hub` in
    /// `HF_HOME`, in `XDG_CACHE_HOME/huggingface` or in `~/.cache/huggingface`; `HF_TOKEN` or the file `HF_TOKEN_PATH`, by
    /// default `token` in `HF_HOME`, unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    /// Booleans are true as `1`, `true`, `yes` or `on` in any case. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unusable address or token or where no home folder is known; [`Error::Cache`] where the
    /// token's file exists but cannot be read.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// The settings by the variables that `environment` finds.
    pub(crate) fn from_variables(environment: Environment<'_>) -> Result<Self> {
        let get = |name: &str| environment(name).filter(|value| !value.is_empty());
        let home = home(&get)?;
        let cache = get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.map_or_else(|| home.join("hub"), |path| expanded(&path, &get));
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let settings = Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token(&home, &get)?,
            offline: is_true(get("HF_HUB_OFFLINE").or_else(|| get("TRANSFORMERS_OFFLINE"))),
            ..Self::new(cache)
        };
        settings.address()?;
        Ok(settings)
    }

    /// The endpoint, read as an address.
    pub(crate) fn address(&self) -> Result<reqwest::Url> {
        let unusable = |reason: &str| Error::Setting { name: "HF_ENDPOINT", reason: reason.to_owned() };
        let address = reqwest::Url::parse(&self.endpoint).map_err(|error| unusable(&error.to_string()))?;
        if !matches!(address.scheme(), "http" | "https") {
            return Err(unusable("it must begin with http:// or https://"));
        }
        if !address.username().is_empty() || address.password().is_some() {
            return Err(unusable("a name or password in it would show in messages; use HF_TOKEN"));
        }
        Ok(address)
    }
}

fn home(get: Environment<'_>) -> Result<PathBuf> {
    if let Some(path) = get("HF_HOME") {
        return Ok(expanded(&path, get));
    }
    if let Some(path) = get("XDG_CACHE_HOME") {
        return Ok(expanded(&path, get).join("huggingface"));
    }
    let reason = || "neither it nor HOME is set, so there is no place for the cache".to_owned();
    let user = get("HOME").ok_or_else(|| Error::Setting { name: "HF_HOME", reason: reason() })?;
    Ok(Path::new(&user).join(".cache/huggingface"))
}

fn token(home: &Path, get: Environment<'_>) -> Result<Option<Token>> {
    if is_true(get("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
        return Ok(None);
    }
    if let Some(text) = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN"))
        && let Some(token) = Token::new(&text)?
    {
        return Ok(Some(token));
    }
    let path = get("HF_TOKEN_PATH").map_or_else(|| home.join("token"), |path| expanded(&path, get));
    match beginning(&path) {
        Ok(text) => Token::new(&text),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::cache("read the token in", &path)(error)),
    }
}

/// The text of a file, as far as a token can reach: the path may be that of a device, or of any other file.
fn beginning(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST_TOKEN).read_to_string(&mut text)?;
    Ok(text)
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

/// A path with `~` and `$NAME` or `${NAME}` replaced; what is not set stays as it is written.
fn expanded(path: &str, get: Environment<'_>) -> PathBuf {
    let home = get("HOME").unwrap_or_else(|| "~".to_owned());
    let path = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => home + rest,
        _ => path.to_owned(),
    };
    let mut parts = path.split('$');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = variable(part);
        match get(name) {
            Some(value) => result.extend([value.as_str(), rest]),
            None => result.extend(["$", part]),
        }
    }
    result.into()
}

/// Splits what follows a `$` into the variable's name and the rest.
fn variable(text: &str) -> (&str, &str) {
    if let Some((name, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, rest);
    }
    let end = text.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::from_variables(&find)
    }

    fn cache(variables: &[(&str, &str)]) -> String {
        settings(variables).unwrap().cache.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_cache_is_where_python_looks() {
        let home = ("HOME", "/nowhere/user");
        assert_eq!(cache(&[home]), "/nowhere/user/.cache/huggingface/hub");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/h")]), "/nowhere/user/h/hub");
        assert_eq!(cache(&[home, ("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        assert_eq!(
            cache(&[
                home,
                ("HUGGINGFACE_HUB_CACHE", "/old"),
                ("HF_HUB_CACHE", "$D/${E}/$F"),
                ("D", "/d"),
                ("E", "e")
            ]),
            "/d/e/$F"
        );
        assert_eq!(cache(&[home, ("HF_HOME", "")]), "/nowhere/user/.cache/huggingface/hub");
        assert!(matches!(settings(&[]), Err(Error::Setting { name: "HF_HOME", .. })));
    }

    #[test]
    fn booleans_are_those_of_python() {
        let home = ("HOME", "/nowhere");
        for yes in ["1", "true", "YES", "On"] {
            assert!(settings(&[home, ("HF_HUB_OFFLINE", yes)]).unwrap().offline, "{yes}");
        }
        for no in ["", "0", "false", "2", "enabled"] {
            assert!(!settings(&[home, ("HF_HUB_OFFLINE", no)]).unwrap().offline, "{no}");
        }
        assert!(settings(&[home, ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
    }

    #[test]
    fn the_token_comes_from_the_variable_then_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let other = folder.path().join("other");
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(&other, " hf_other ").unwrap();
        let found = |variables: &[(&str, &str)]| {
            let variables = [&[("HF_HOME", home)], variables].concat();
            settings(&variables).unwrap().token.map(|token| token.secret().to_owned())
        };
        assert_eq!(found(&[]).as_deref(), Some("hf_file"));
        assert_eq!(found(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(), Some("hf_other"));
        assert_eq!(found(&[("HF_TOKEN", " hf_variable\n")]).as_deref(), Some("hf_variable"));
        assert_eq!(found(&[("HF_TOKEN", "  ")]).as_deref(), Some("hf_file"));
        assert_eq!(found(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(found(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")]).as_deref(), Some("x"));
        assert_eq!(found(&[("HF_TOKEN_PATH", "/nowhere/token")]), None);
        let endless = settings(&[("HF_HOME", home), ("HF_TOKEN_PATH", "/dev/zero")]);
        assert!(matches!(endless, Err(Error::Setting { name: "HF_TOKEN", .. })));
    }

    #[test]
    fn no_text_shows_the_token() {
        let settings = settings(&[("HOME", "/nowhere"), ("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
        let error = Token::new("hf_secret\u{7}x").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn the_endpoint_is_an_address() {
        let with = |endpoint| settings(&[("HOME", "/nowhere"), ("HF_ENDPOINT", endpoint)]);
        assert_eq!(with("http://localhost:1/").unwrap().endpoint, "http://localhost:1");
        assert_eq!(with("").unwrap().endpoint, ENDPOINT);
        for bad in ["localhost:1", "huggingface.co", "ftp://x", "http://", "https://name:word@host"] {
            let error = with(bad).unwrap_err();
            assert!(matches!(error, Error::Setting { name: "HF_ENDPOINT", .. }), "{bad}");
            assert!(!error.to_string().contains("word@"), "{bad}");
        }
    }
}
