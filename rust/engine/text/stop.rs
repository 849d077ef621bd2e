//! Stop strings, found across any split into deltas.

use std::sync::Arc;

/// Holds back text that may become a stop string.
///
/// The stop string whose last byte comes first wins; of several that end at the same byte, the one that
/// starts earliest, then the one that is listed first.
#[derive(Debug, Clone)]
pub struct StopStrings {
    /// The choices of a request share them.
    patterns: Arc<[Pattern]>,
    /// By pattern: how many of its bytes the text ends with.
    matched: Vec<usize>,
    /// Text that was pushed and not returned.
    held: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopHit {
    /// Into the list that was given.
    pub index: usize,
    /// Text before the stop string, not emitted yet.
    pub text: String,
}

impl StopStrings {
    /// Empty strings never stop anything.
    pub fn new(stop: &[String]) -> Self {
        Self {
            patterns: stop.iter().map(|s| Pattern::new(s)).collect(),
            matched: vec![0; stop.len()],
            held: String::new(),
        }
    }

    /// The text that is safe to emit now, or the first stop string that is complete.
    pub fn push(&mut self, text: &str) -> Result<String, StopHit> {
        let before = self.held.len();
        self.held.push_str(text);
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            if let Some(index) = self.advance(byte) {
                return Err(self.hit(index, before + at + 1));
            }
        }
        let open = self.matched.iter().copied().max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - open);
        Ok(std::mem::replace(&mut self.held, kept))
    }

    /// What was held back, at the end.
    pub fn finish(&mut self) -> String {
        self.matched.fill(0);
        std::mem::take(&mut self.held)
    }

    /// Feeds one byte to every pattern; the longest of those that it completes.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        let mut done: Option<usize> = None;
        for (index, (pattern, matched)) in self.patterns.iter().zip(&mut self.matched).enumerate() {
            let complete = pattern.advance(matched, byte);
            let longer = done.is_none_or(|d| self.patterns[d].bytes.len() < pattern.bytes.len());
            if complete && longer {
                done = Some(index);
            }
        }
        done
    }

    fn hit(&mut self, index: usize, end: usize) -> StopHit {
        self.held.truncate(end - self.patterns[index].bytes.len());
        StopHit { index, text: self.finish() }
    }
}

/// A stop string as a Knuth-Morris-Pratt automaton: constant work per byte, however long the string is.
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `borders[n]`: length of the longest proper prefix of the first `n + 1` bytes that also ends them.
    borders: Vec<usize>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len()];
        for n in 1..bytes.len() {
            borders[n] = extend(&bytes, &borders, borders[n - 1], bytes[n]);
        }
        Self { bytes, borders }
    }

    /// Whether `byte` completes the pattern, of which the text ended with `matched` bytes.
    fn advance(&self, matched: &mut usize, byte: u8) -> bool {
        *matched = extend(&self.bytes, &self.borders, *matched, byte);
        !self.bytes.is_empty() && *matched == self.bytes.len()
    }
}

/// The longest prefix of `pattern` that ends a text which ended with `matched` bytes of it and goes on with `byte`.
fn extend(pattern: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && pattern.get(matched) != Some(&byte) {
        matched = borders[matched - 1];
    }
    matched + usize::from(pattern.get(matched) == Some(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the documentation promises, by exhaustive search: text before the stop string, and its index.
    fn search(text: &str, stop: &[String]) -> Option<(String, usize)> {
        for end in 1..=text.len() {
            let ending = stop
                .iter()
                .enumerate()
                .filter(|(_, s)| !s.is_empty() && text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some((index, s)) = ending.min_by_key(|(index, s)| (end - s.len(), *index)) {
                return Some((text[..end - s.len()].to_owned(), index));
            }
        }
        None
    }

    /// Pushes `text` in pieces; all that came out, and the hit's index.
    fn stream(text: &str, cuts: &[usize], stop: &[String]) -> (String, Option<usize>) {
        let mut stops = StopStrings::new(stop);
        let mut out = String::new();
        let chars: Vec<char> = text.chars().collect();
        let mut rest = &chars[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(*cuts.next().expect("cuts are not empty")));
            match stops.push(&String::from_iter(head)) {
                Ok(safe) => out += &safe,
                Err(hit) => return (out + &hit.text, Some(hit.index)),
            }
            rest = tail;
        }
        (out + &stops.finish(), None)
    }

    proptest! {
        #[test]
        fn any_split_gives_what_a_search_of_the_whole_text_gives(
            text in "[abé€]{0,24}",
            stop in prop::collection::vec("[abé€]{0,4}", 0..4),
            cuts in prop::collection::vec(0usize..4, 1..8),
        ) {
            prop_assume!(cuts.iter().any(|&c| c > 0));
            let expected = match search(&text, &stop) {
                Some((before, index)) => (before, Some(index)),
                None => (text.clone(), None),
            };
            prop_assert_eq!(stream(&text, &cuts, &stop), expected);
        }

        #[test]
        fn holds_back_no_more_than_may_become_a_stop_string(text in "[ab]{0,12}", stop in "[ab]{1,4}") {
            let mut stops = StopStrings::new(std::slice::from_ref(&stop));
            if let Ok(safe) = stops.push(&text) {
                let held = &text[safe.len()..];
                let longest = (0..stop.len()).rev().find(|&n| text.ends_with(&stop[..n])).unwrap();
                prop_assert_eq!(held.len(), longest);
            }
        }
    }

    #[test]
    fn of_stop_strings_that_end_together_the_earliest_start_wins() {
        let stop = ["c".to_owned(), "bc".to_owned(), "bc".to_owned()];
        assert_eq!(StopStrings::new(&stop).push("abc"), Err(StopHit { index: 1, text: "a".into() }));
    }
}
