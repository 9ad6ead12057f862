//! HTML that cannot be broken by a text in it: everything that is not markup of this crate goes through [`Html::text`] or an
//! attribute's escaping.

use std::fmt::Display;

use sweep_report::escape;

/// A piece of a page. What is pushed as a text is escaped; markup is written with [`Html::raw`], which takes literals only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Html(String);

impl Html {
    pub(crate) const fn new() -> Self {
        Self(String::new())
    }

    /// Returns a text.
    pub(crate) fn of(text: impl Display) -> Self {
        let mut html = Self::new();
        html.text(text);
        html
    }

    /// Adds markup that is written in this program.
    pub(crate) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, text: impl Display) -> &mut Self {
        self.0.push_str(&escape(&text.to_string()));
        self
    }

    /// Adds a piece.
    pub(crate) fn html(&mut self, piece: &Self) -> &mut Self {
        self.0.push_str(&piece.0);
        self
    }

    /// Adds the start of an element; attributes with an empty value are left out.
    pub(crate) fn open(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) -> &mut Self {
        self.raw("<").raw(tag);
        for (name, value) in attributes.iter().filter(|(_, value)| !value.is_empty()) {
            self.raw(" ").raw(name).raw("=\"").text(value).raw("\"");
        }
        self.raw(">")
    }

    pub(crate) fn close(&mut self, tag: &'static str) -> &mut Self {
        self.raw("</").raw(tag).raw(">")
    }

    /// Adds an element with a piece in it.
    pub(crate) fn element(
        &mut self,
        tag: &'static str,
        attributes: &[(&'static str, &str)],
        content: &Self,
    ) -> &mut Self {
        self.open(tag, attributes).html(content).close(tag)
    }

    /// Adds an element with a text in it.
    pub(crate) fn labelled(
        &mut self,
        tag: &'static str,
        attributes: &[(&'static str, &str)],
        text: impl Display,
    ) -> &mut Self {
        self.open(tag, attributes).text(text).close(tag)
    }

    /// Adds a link.
    pub(crate) fn link(&mut self, address: &str, text: impl Display) -> &mut Self {
        self.labelled("a", &[("href", address)], text)
    }

    /// Adds a moment in UTC, which the script writes as the time since.
    pub(crate) fn moment(&mut self, ms: i64) -> &mut Self {
        let written = utc(ms);
        self.labelled("time", &[("datetime", &written), ("data-ms", &ms.to_string())], &written)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// A table in a box of its own, which scrolls sideways where the page is narrower.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// What it is, for those who hear it.
    pub(crate) label: String,
    /// One a column: what its head says, and whether it holds numbers.
    pub(crate) columns: Vec<(Html, bool)>,
    /// Cells, one a column.
    pub(crate) rows: Vec<Vec<Html>>,
    /// Name of the part that its rows are, if they change.
    pub(crate) part: &'static str,
}

impl Table {
    /// Returns a table without rows; a `#` before a column's name says that it holds numbers.
    pub(crate) fn new(label: &str, columns: &[&str]) -> Self {
        let column = |name: &&str| match name.strip_prefix('#') {
            Some(name) => (Html::of(name), true),
            None => (Html::of(name), false),
        };
        Self { label: label.to_owned(), columns: columns.iter().map(column).collect(), ..Self::default() }
    }

    /// Returns the rows alone.
    pub(crate) fn body(&self) -> Html {
        let mut html = Html::new();
        for row in &self.rows {
            html.raw("<tr>");
            for (place, (cell, (_, is_number))) in row.iter().zip(&self.columns).enumerate() {
                let class = if *is_number { "n" } else { "" };
                // The first cell names its row.
                let (tag, scope) = if place == 0 { ("th", "row") } else { ("td", "") };
                html.element(tag, &[("scope", scope), ("class", class)], cell);
            }
            html.raw("</tr>\n");
        }
        html
    }

    pub(crate) fn written(&self) -> Html {
        let mut html = Html::new();
        html.open(
            "div",
            &[("class", "scroll"), ("tabindex", "0"), ("role", "region"), ("aria-label", &self.label)],
        );
        html.raw("<table><thead><tr>");
        for (name, is_number) in &self.columns {
            html.element("th", &[("scope", "col"), ("class", if *is_number { "n" } else { "" })], name);
        }
        html.raw("</tr></thead>").element("tbody", &[("id", self.part)], &self.body());
        html.raw("</table></div>\n");
        html
    }
}

/// Returns a time in milliseconds since 1970 as `2026-01-31 14:05:09 UTC`, by the civil calendar: days are counted in eras of
/// 400 years that begin in March.
pub(crate) fn utc(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Returns a duration in words, of the two largest units at most.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min", (whole + 30) / 60),
        7200..172_800 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// Returns the first letters of a digest.
pub(crate) fn short(digest: &str) -> String {
    let shown: String = digest.chars().take(12).collect();
    if shown.len() < digest.len() { shown + "…" } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</td><script>alert(\"x\")</script>' onload='";

    #[test]
    fn no_text_becomes_markup() {
        let mut table = Table::new(HOSTILE, &[HOSTILE]);
        let mut cell = Html::new();
        cell.link(HOSTILE, HOSTILE);
        table.rows.push(vec![cell]);
        let written = table.written().into_string();
        assert!(!written.contains("<script") && !written.contains("' onload"), "{written}");
        assert_eq!(written.matches("&lt;script&gt;").count(), 4);
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01 00:00:00 UTC"),
            (1_709_164_800_000, "2024-02-29 00:00:00 UTC"),
            (1_769_817_600_999, "2026-01-31 00:00:00 UTC"),
            (-1_000, "1969-12-31 23:59:59 UTC"),
        ];
        for (ms, written) in cases {
            assert_eq!(utc(ms), written);
        }
    }
}
