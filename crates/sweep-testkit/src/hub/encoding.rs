//! Percent encoding, forms and hexadecimal digits.

/// Returns `bytes` in lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Returns whether `text` is `digits` lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Percent-encodes everything but the unreserved characters of RFC 3986 and `/`.
pub(super) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Decodes percent escapes once. A `%` without two digits behind it stays as it is.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        if let Some(byte) = escaped(&bytes[position..]) {
            decoded.push(byte);
            position += 3;
        } else {
            decoded.push(bytes[position]);
            position += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Returns the fields of a query or of a posted form, decoded, in order.
pub(super) fn fields(text: &str) -> Vec<(String, String)> {
    let clean = |text: &str| decode(&text.replace('+', " "));
    text.split('&')
        .filter(|field| !field.is_empty())
        .map(|field| field.split_once('=').unwrap_or((field, "")))
        .map(|(name, value)| (clean(name), clean(value)))
        .collect()
}

fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once() {
        let cases = [
            ("refs%2Fconvert%2fparquet", "refs/convert/parquet"),
            ("a%252Fb", "a%2Fb"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%C3%BCber", "über"),
            ("a+b", "a+b"),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text), expected, "{text}");
        }
    }

    #[test]
    fn encoding_is_undone_by_decoding() {
        for text in ["data/über 100%.txt", "a+b#c?d&e=f", "plain-1.0_x~"] {
            assert_eq!(decode(&encode(text)), text);
        }
        assert_eq!(encode("a b/c%"), "a%20b/c%25");
    }

    #[test]
    fn fields_of_a_form_keep_their_order() {
        let expected = [("paths", "a b"), ("paths", "c/d"), ("expand", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields("paths=a+b&paths=c%2Fd&expand"), expected);
    }
}
