//! Which files of a repository or wheel make the model.

use crate::error::{Error, Result};

/// A file that a source offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub path: String,
    pub bytes: u64,
    /// None: the source does not say.
    pub sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What the engine opens, relative to the model's folder; "" is the folder itself.
    pub entry: String,
    pub files: Vec<Offer>,
}

/// Quantizations from the one to have first: small and good on a CPU before large and exact.
const QUANTS: [&str; 16] = [
    "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M", "Q2_K",
    "BF16", "F16", "F32",
];

/// What a Hugging Face folder needs beside its weights.
const COMPANIONS: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
];

/// `wanted` is a path among the offers, or a part of one GGUF file's name. None: a GGUF file by the order
/// of quantizations, or else the folder's safetensors.
pub fn choose(what: &str, offers: &[Offer], wanted: Option<&str>) -> Result<Choice> {
    let no_choice = |why: String| Error::NoChoice { what: what.into(), why };
    let ggufs: Vec<&Offer> = offers.iter().filter(|offer| is_gguf(&offer.path)).collect();
    if let Some(wanted) = wanted {
        return named(offers, &ggufs, wanted).map(single).map_err(no_choice);
    }
    let whole: Vec<&Offer> = ggufs.iter().copied().filter(|offer| !is_shard(&offer.path)).collect();
    let preferred = QUANTS.iter().find_map(|quant| whole.iter().find(|offer| has_quant(&offer.path, quant)));
    if let Some(gguf) = preferred.or_else(|| whole.iter().min_by_key(|offer| offer.bytes)) {
        return Ok(single(gguf));
    }
    match folder(offers) {
        Some(choice) => Ok(choice),
        None if !ggufs.is_empty() => {
            Err(no_choice("its GGUF files are split in parts, which Ferrule does not join".into()))
        }
        None => Err(no_choice("it has neither a GGUF file nor config.json with safetensors".into())),
    }
}

fn named<'a>(offers: &'a [Offer], ggufs: &[&'a Offer], wanted: &str) -> Result<&'a Offer, String> {
    if let Some(exact) = offers.iter().find(|offer| offer.path == wanted) {
        return Ok(exact);
    }
    let lower = wanted.to_lowercase();
    let near: Vec<&Offer> = ggufs.iter().copied().filter(|o| o.path.to_lowercase().contains(&lower)).collect();
    let list = |offers: &[&Offer]| offers.iter().map(|o| o.path.as_str()).collect::<Vec<_>>().join(", ");
    match near.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("it has no file '{wanted}'; its GGUF files: {}", list(ggufs))),
        several => Err(format!("'{wanted}' could be any of {}", list(several))),
    }
}

fn single(offer: &Offer) -> Choice {
    let entry = file_name(&offer.path).to_owned();
    Choice { entry, files: vec![offer.clone()] }
}

fn folder(offers: &[Offer]) -> Option<Choice> {
    offers.iter().find(|offer| offer.path == "config.json")?;
    let has_index = offers.iter().any(|offer| offer.path == "model.safetensors.index.json");
    let is_weight = |path: &str| match has_index {
        true => path.starts_with("model-") && path.ends_with(".safetensors") && !path.contains('/'),
        false => path == "model.safetensors",
    };
    offers.iter().find(|offer| is_weight(&offer.path))?;
    let wanted = |path: &str| is_weight(path) || COMPANIONS.contains(&path);
    let files = offers.iter().filter(|offer| wanted(&offer.path)).cloned().collect();
    Some(Choice { entry: String::new(), files })
}

pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_gguf(path: &str) -> bool {
    let name = file_name(path).to_lowercase();
    name.ends_with(".gguf") && !name.starts_with("mmproj")
}

/// `name-00001-of-00003.gguf`
fn is_shard(path: &str) -> bool {
    path.rsplit_once("-of-").is_some_and(|(_, rest)| rest.trim_end_matches(".gguf").bytes().all(|b| b.is_ascii_digit()))
}

fn has_quant(path: &str, quant: &str) -> bool {
    let name = file_name(path).to_uppercase();
    let name = name.trim_end_matches(".GGUF");
    name.strip_suffix(quant).is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(paths: &[&str]) -> Vec<Offer> {
        paths.iter().map(|&path| Offer { path: path.into(), bytes: path.len() as u64, sha256: None }).collect()
    }

    #[test]
    fn quantizations_are_preferred_in_order() {
        let repo = offers(&["m-F16.gguf", "m.Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf", "README.md"]);
        assert_eq!(choose("r", &repo, None).unwrap().entry, "m-Q4_K_M.gguf");
        assert_eq!(choose("r", &repo, Some("q8")).unwrap().entry, "m.Q8_0.gguf");
        assert_eq!(choose("r", &repo, Some("m-F16.gguf")).unwrap().entry, "m-F16.gguf");
        let several = choose("r", &repo, Some("m")).unwrap_err().to_string();
        assert!(several.contains("m-F16.gguf, m.Q8_0.gguf"), "{several}");
        let none = choose("r", &repo, Some("q5")).unwrap_err().to_string();
        assert!(none.contains("no file 'q5'"), "{none}");
    }

    #[test]
    fn a_quant_is_a_whole_word_at_the_end() {
        assert!(has_quant("a/m.q4_0.gguf", "Q4_0") && has_quant("Q4_0.gguf", "Q4_0"));
        assert!(!has_quant("m-BF16.gguf", "F16") && !has_quant("Q4_0/m.gguf", "Q4_0"));
    }

    #[test]
    fn a_folder_takes_its_weights_and_companions_only() {
        let repo =
            offers(&["config.json", "model.safetensors", "onnx/model.onnx", "pytorch_model.bin", "tokenizer.json"]);
        let choice = choose("r", &repo, None).unwrap();
        assert_eq!(choice.entry, "");
        let paths: Vec<&str> = choice.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn split_and_empty_repositories_are_refused() {
        let split = choose("r", &offers(&["m-Q4_0-00001-of-00002.gguf"]), None).unwrap_err().to_string();
        assert!(split.contains("split"), "{split}");
        let empty = choose("r", &offers(&["README.md", "config.json"]), None).unwrap_err().to_string();
        assert!(empty.contains("neither"), "{empty}");
    }
}
