//! Text inside HTML and SVG, in one place.

use std::borrow::Cow;

/// Returns `text` such that HTML and SVG show it as it is, between tags and in quoted attributes alike. Control characters,
/// which XML cannot hold, become the replacement character.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_special) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ if is_special(letter) => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(letter),
        }
    }
    Cow::Owned(escaped)
}

/// Whether a character cannot be written as it is: markup, characters that XML excludes, and those that turn the
/// direction of the text around them.
fn is_special(letter: char) -> bool {
    let is_control = letter.is_control() && !matches!(letter, '\n' | '\t');
    let turns = matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_control || turns || matches!(letter, '&' | '<' | '>' | '"' | '\'' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markup_becomes_text() {
        let cases = [
            ("plain ε ≤ 4/255", "plain ε ≤ 4/255"),
            ("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
            ("\" onload=\"x", "&quot; onload=&quot;x"),
            ("&amp;", "&amp;amp;"),
            ("a\u{0}b\u{1b}c\nd", "a\u{fffd}b\u{fffd}c\nd"),
            ("\u{202e}evil", "\u{fffd}evil"),
        ];
        for (text, escaped) in cases {
            assert_eq!(escape(text), escaped);
        }
    }

    proptest! {
        #[test]
        fn no_text_opens_a_tag_or_leaves_an_attribute(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'', '\0']));
        }
    }
}
