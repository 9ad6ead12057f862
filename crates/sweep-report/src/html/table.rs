//! Tables of the page.

use crate::escape::escape;

/// A cell.
pub(super) struct Cell {
    /// What is written, as HTML.
    html: String,
    is_number: bool,
    /// What hovering says.
    hint: String,
    id: Option<String>,
}

impl Cell {
    /// A text, escaped.
    pub(super) fn text(text: &str) -> Self {
        Self::html(escape(text).into_owned())
    }

    /// HTML as it is.
    pub(super) const fn html(html: String) -> Self {
        Self { html, is_number: false, hint: String::new(), id: None }
    }

    /// A number, as HTML.
    pub(super) const fn number(html: String) -> Self {
        Self { html, is_number: true, hint: String::new(), id: None }
    }

    /// Nothing.
    pub(super) fn empty() -> Self {
        Self::number("–".to_owned())
    }

    pub(super) fn with_hint(self, hint: String) -> Self {
        Self { hint, ..self }
    }

    /// Makes the cell the target of links.
    pub(super) fn with_id(self, id: String) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Writes the cell; `begins` says that a group of columns begins with it.
    fn written(&self, begins: bool) -> String {
        let id = self.id.as_ref().map_or_else(String::new, |id| format!(" id=\"{}\"", escape(id)));
        let class = class(self.is_number, begins);
        let hint =
            if self.hint.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&self.hint)) };
        format!("<td{id}{class}{hint}>{}</td>", self.html)
    }
}

/// A heading above some columns.
pub(super) struct Heading {
    /// What it says.
    pub(super) text: String,
    /// How many columns it is above.
    pub(super) columns: usize,
}

/// A table with one or two lines of headings.
#[derive(Default)]
pub(super) struct Table {
    /// Above groups of columns; empty for none.
    pub(super) above: Vec<Heading>,
    /// One a column.
    pub(super) columns: Vec<String>,
    /// Rows of cells, one a column.
    pub(super) rows: Vec<Vec<Cell>>,
    /// Rows below a line.
    pub(super) footer: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&name| name.to_owned()).collect(), ..Self::default() }
    }

    /// Returns for every column whether a group, but the first, begins with it.
    fn beginnings(&self) -> Vec<bool> {
        let mut begins = vec![false; self.columns.len()];
        let mut next = 0;
        for Heading { columns, .. } in &self.above {
            if next > 0 {
                begins[next] = true;
            }
            next += columns;
        }
        begins
    }

    /// Returns the table in a box of its own, which scrolls where the page is narrower.
    pub(super) fn written(&self) -> String {
        let mut html = "<div class=\"scroll\" tabindex=\"0\"><table><thead>".to_owned();
        if !self.above.is_empty() {
            html.push_str("<tr>");
            for Heading { text, columns } in &self.above {
                html.push_str(&format!("<th colspan=\"{columns}\" class=\"above\">{}</th>", escape(text)));
            }
            html.push_str("</tr>");
        }
        html.push_str("<tr>");
        let begins = self.beginnings();
        for (index, name) in self.columns.iter().enumerate() {
            let is_number = self.rows.iter().any(|row| row[index].is_number);
            let class = class(is_number, begins[index]);
            html.push_str(&format!("<th scope=\"col\"{class}>{}</th>", escape(name)));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        push_rows(&mut html, &self.rows, &begins);
        html.push_str("</tbody>");
        if !self.footer.is_empty() {
            html.push_str("<tfoot>\n");
            push_rows(&mut html, &self.footer, &begins);
            html.push_str("</tfoot>");
        }
        html.push_str("</table></div>\n");
        html
    }
}

const fn class(is_number: bool, begins: bool) -> &'static str {
    match (is_number, begins) {
        (true, true) => " class=\"n g\"",
        (true, false) => " class=\"n\"",
        (false, true) => " class=\"g\"",
        (false, false) => "",
    }
}

fn push_rows(html: &mut String, rows: &[Vec<Cell>], begins: &[bool]) {
    for row in rows {
        html.push_str("<tr>");
        row.iter().zip(begins).for_each(|(cell, begins)| html.push_str(&cell.written(*begins)));
        html.push_str("</tr>\n");
    }
}
