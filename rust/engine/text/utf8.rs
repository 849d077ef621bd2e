//! Bytes that come in pieces, to text.

/// Decodes UTF-8 piece by piece. What it returns concatenates to `String::from_utf8_lossy` of all bytes.
#[derive(Debug, Default)]
pub(super) struct Utf8Stream {
    /// The start of a character that may still be completed: at most three bytes.
    partial: Vec<u8>,
}

impl Utf8Stream {
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.partial.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.partial);
        let mut rest = &bytes[..];
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            out.push_str(std::str::from_utf8(valid).expect("valid up to here, says from_utf8"));
            let Some(bad_len) = error.error_len() else {
                self.partial = invalid.to_vec();
                return;
            };
            out.push(char::REPLACEMENT_CHARACTER);
            rest = &invalid[bad_len..];
        }
        out.push_str(std::str::from_utf8(rest).expect("the loop ended because it is valid"));
    }

    pub(super) fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.partial).is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_split_decodes_like_the_whole(
            pieces in prop::collection::vec(prop::collection::vec(prop::sample::select(&b"a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xFF\xED\xA0"[..]), 0..5), 0..12),
        ) {
            let (mut stream, mut out) = (Utf8Stream::default(), String::new());
            pieces.iter().for_each(|piece| stream.push(piece, &mut out));
            stream.finish(&mut out);
            let bytes = pieces.concat();
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
