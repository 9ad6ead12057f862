//! What pages load: our style and script, and the script that draws charts, which the crate `plotly` brings along. Each is
//! served under a path with a digest of its content, so that browsers keep it for ever.

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use plotly::Plot;
use sweep_report::{heat_rules, stylesheet};

/// Colours between the least and the most of a heat map.
pub(crate) const HEATS: u32 = 40;

/// One file.
pub(crate) struct Asset {
    name: &'static str,
    kind: &'static str,
    pub(crate) content: String,
    digest: u64,
}

pub(crate) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page.css", "text/css; charset=utf-8", style()));
pub(crate) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page.js", JAVASCRIPT, include_str!("../assets/page.js").to_owned()));
pub(crate) static PLOTLY: LazyLock<Asset> = LazyLock::new(|| Asset::new("plotly.js", JAVASCRIPT, plotly()));

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// What headers of an asset say.
pub(crate) type Headers = [(HeaderName, HeaderValue); 2];

impl Asset {
    fn new(name: &'static str, kind: &'static str, content: String) -> Self {
        let digest = digest(content.as_bytes());
        Self { name, kind, content, digest }
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> String {
        format!("/assets/{:016x}/{}", self.digest, self.name)
    }

    pub(crate) fn headers(&self) -> Headers {
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        [(CONTENT_TYPE, HeaderValue::from_static(self.kind)), (CACHE_CONTROL, forever)]
    }
}

/// Returns the asset of a path.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    [&*STYLE, &*SCRIPT, &*PLOTLY].into_iter().find(|asset| asset.path() == path)
}

/// Colours by the reader's choice, and the look.
fn style() -> String {
    format!(
        ":root{{color-scheme:light dark;{}}}\n@media (prefers-color-scheme:dark){{:root{{{}}}}}\n{}\n{}",
        stylesheet(false),
        stylesheet(true),
        include_str!("../assets/page.css"),
        heat_rules(HEATS)
    )
}

/// Takes the script of the charts out of the element that `plotly` returns it in; a second one, for formulas, is left out.
fn plotly() -> String {
    let elements = Plot::offline_js_sources();
    let begin = elements.find('>').map_or(0, |at| at + 1);
    let end = elements[begin..].find("</script>").map_or(elements.len(), |at| begin + at);
    elements[begin..end].to_owned()
}

/// FNV-1a of 64 bits: a new content has a new path. Nobody is kept out by it.
fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_of_the_charts_is_whole_and_alone() {
        let script = &PLOTLY.content;
        assert!(script.trim_start().starts_with("/**"), "its licence comes first");
        assert!(script.contains("plotly.js v") && script.contains("MIT license"));
        assert!(!script.contains("MathJax.loader") && !script.contains("<script type"));
        assert_eq!(find(&PLOTLY.path()).unwrap().content.len(), script.len());
        assert!(find("/assets/0000000000000000/page.js").is_none());
    }
}
