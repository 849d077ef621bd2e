//! A list of texts in two allocations: vocabularies have hundreds of thousands of them.

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Strings {
    text: String,
    /// Where each one ends in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// `ends` ascend, and the last one is the length of `bytes`. None: a part is not UTF-8.
    pub(super) fn from_parts(bytes: Vec<u8>, ends: Vec<usize>) -> Option<Self> {
        let text = String::from_utf8(bytes).ok()?;
        ends.iter().all(|&end| text.is_char_boundary(end)).then_some(Self { text, ends })
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, id: usize) -> Option<&str> {
        let end = *self.ends.get(id)?;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a str>>(strings: I) -> Self {
        let mut list = Self::default();
        for string in strings {
            list.text.push_str(string);
            list.ends.push(list.text.len());
        }
        list
    }
}
