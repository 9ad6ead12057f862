//! Tables for LaTeX papers: the rules of `booktabs`, ready to paste.

/// A title over several columns.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) title: String,
    pub(crate) columns: usize,
}

/// A column.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    pub(crate) title: String,
    /// Whether its cells stand on the right, as numbers do.
    pub(crate) is_number: bool,
}

/// A table. Titles are plain texts; the cells of `rows` and `last` are LaTeX.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tabular {
    /// A comment above the table.
    pub(crate) remark: String,
    pub(crate) columns: Vec<Heading>,
    /// Titles over the last columns; none for a single line of headings.
    pub(crate) spans: Vec<Span>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Rows below a rule.
    pub(crate) last: Vec<Vec<String>>,
}

impl Tabular {
    pub(crate) fn render(&self) -> String {
        let mut text = String::from("% \\usepackage{booktabs}\n");
        if !self.remark.is_empty() {
            text.push_str(&format!("% {}\n", self.remark.replace('\n', " ")));
        }
        let alignment: String =
            self.columns.iter().map(|column| if column.is_number { 'r' } else { 'l' }).collect();
        text.push_str(&format!("\\begin{{tabular}}{{{alignment}}}\n\\toprule\n"));
        text.push_str(&self.titles());
        let headings = self.columns.iter().map(|column| escape(&column.title)).collect::<Vec<_>>();
        text.push_str(&line(&headings));
        text.push_str("\\midrule\n");
        self.rows.iter().for_each(|row| text.push_str(&line(row)));
        if !self.last.is_empty() {
            text.push_str("\\midrule\n");
            self.last.iter().for_each(|row| text.push_str(&line(row)));
        }
        text + "\\bottomrule\n\\end{tabular}\n"
    }

    fn titles(&self) -> String {
        if self.spans.is_empty() {
            return String::new();
        }
        let title =
            |span: &Span| format!("\\multicolumn{{{}}}{{c}}{{{}}}", span.columns, escape(&span.title));
        let spanned: usize = self.spans.iter().map(|span| span.columns).sum();
        let before = self.columns.len().saturating_sub(spanned);
        let cells = std::iter::repeat_n(String::new(), before).chain(self.spans.iter().map(title));
        let mut text = line(&cells.collect::<Vec<_>>());
        let mut first = before + 1;
        let mut rules = Vec::new();
        for span in &self.spans {
            rules.push(format!("\\cmidrule(lr){{{first}-{}}}", first + span.columns - 1));
            first += span.columns;
        }
        text.push_str(&format!("{}\n", rules.join(" ")));
        text
    }
}

fn line(cells: &[String]) -> String {
    format!("{} \\\\\n", cells.join(" & "))
}

/// Returns a plain text as LaTeX writes it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', letter]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '±' => escaped.push_str("$\\pm$"),
            '×' => escaped.push_str("$\\times$"),
            '·' => escaped.push_str("$\\cdot$"),
            '\n' | '\r' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Returns a number with a proper minus sign and power of ten; any other text escaped.
pub(crate) fn number(text: &str) -> String {
    if text.parse::<f64>().is_ok_and(f64::is_finite) {
        match text.split_once(['e', 'E']) {
            Some((digits, power)) => format!("${digits}\\times10^{{{power}}}$"),
            None if text.starts_with('-') => format!("${text}$"),
            None => text.to_owned(),
        }
    } else {
        escape(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_a_command() {
        assert_eq!(escape("a_b & 5 % of {x} \\input"), "a\\_b \\& 5 \\% of \\{x\\} \\textbackslash{}input");
        assert_eq!(
            escape("1 ± 2\n~^<>|$#"),
            "1 $\\pm$ 2 \\textasciitilde{}\\textasciicircum{}\\textless{}\\textgreater{}\\textbar{}\\$\\#"
        );
    }

    #[test]
    fn numbers_have_signs_and_powers() {
        let cases = [
            ("1.5", "1.5"),
            ("-2.00", "$-2.00$"),
            ("1.26e-8", "$1.26\\times10^{-8}$"),
            ("4/255", "4/255"),
            ("a_b", "a\\_b"),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected);
        }
    }

    #[test]
    fn titles_stand_over_their_columns() {
        let table = Tabular {
            remark: "what".to_owned(),
            columns: ["a_key", "p", "q", "r"]
                .map(|title| Heading { title: title.to_owned(), is_number: title != "a_key" })
                .into(),
            spans: vec![
                Span { title: "x".to_owned(), columns: 2 },
                Span { title: "y".to_owned(), columns: 1 },
            ],
            rows: vec![["n", "1", "2", "3"].map(str::to_owned).into()],
            last: vec![["mean", "1", "2", "3"].map(str::to_owned).into()],
        };
        let expected = "% \\usepackage{booktabs}
% what
\\begin{tabular}{lrrr}
\\toprule
 & \\multicolumn{2}{c}{x} & \\multicolumn{1}{c}{y} \\\\
\\cmidrule(lr){2-3} \\cmidrule(lr){4-4}
a\\_key & p & q & r \\\\
\\midrule
n & 1 & 2 & 3 \\\\
\\midrule
mean & 1 & 2 & 3 \\\\
\\bottomrule
\\end{tabular}
";
        assert_eq!(table.render(), expected);
    }
}
