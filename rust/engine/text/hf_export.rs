//! The tokenizer of a GGUF file as the files of a Hugging Face folder.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::gguf_tokenizer::Metadata;
use crate::error::{Error, Result};
use crate::weights::{Gguf, Value as GgufValue};

/// File names and contents: `tokenizer.json`, and a `tokenizer_config.json` with the special tokens and the chat
/// template.
pub fn files(gguf: &Gguf) -> Result<Vec<(&'static str, Value)>> {
    let metadata = Metadata::read(gguf)?;
    let tokenizer = match gguf.get("tokenizer.ggml.model").and_then(GgufValue::as_str) {
        Some("gpt2") => byte_level(&metadata)?,
        _ => sentence_piece(&metadata)?,
    };
    Ok(vec![("tokenizer.json", tokenizer), ("tokenizer_config.json", config(&metadata)?)])
}

fn byte_level(metadata: &Metadata<'_>) -> Result<Value> {
    let kind = metadata.pre_tokenizer_kind()?;
    let internal = |err: String| Error::Internal(format!("the pre-tokenizer cannot be written: {err}"));
    let pre_tokenizer = kind.pre_tokenizer().map_err(|err| internal(err.to_string()))?;
    let mut steps = serde_json::to_value(pre_tokenizer).map_err(|err| internal(err.to_string()))?;
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    steps["pretokenizers"].as_array_mut().ok_or_else(|| internal("it is no sequence".into()))?.push(bytes.clone());
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": kind.ignore_merges,
        "vocab": vocabulary(metadata), "merges": merges(metadata)?,
    });
    let normalizer = serde_json::to_value(kind.normalizer()).map_err(|err| internal(err.to_string()))?;
    whole(metadata, kind.add_bos, [normalizer, steps, bytes, model])
}

/// SentencePiece's BPE: pieces merge in the order of their scores.
fn sentence_piece(metadata: &Metadata<'_>) -> Result<Value> {
    let prefix = metadata.flag("add_space_prefix", true);
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let mut normalizer = spaces.clone();
    if prefix {
        normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]});
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = metadata.id("unknown_token_id")?.map(|id| metadata.text(id));
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": vocabulary(metadata), "merges": scored_merges(metadata)?,
    });
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    whole(metadata, true, [normalizer, Value::Null, decoder, model])
}

fn whole(metadata: &Metadata<'_>, add_bos: bool, parts: [Value; 4]) -> Result<Value> {
    let [normalizer, pre_tokenizer, decoder, model] = parts;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added(metadata), "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(metadata, add_bos)?, "decoder": decoder, "model": model,
    }))
}

fn vocabulary(metadata: &Metadata<'_>) -> Map<String, Value> {
    metadata.ids().filter(|(_, text, _)| !text.is_empty()).map(|(id, text, _)| (text.to_owned(), json!(id))).collect()
}

fn added(metadata: &Metadata<'_>) -> Vec<Value> {
    let rstrip = metadata.strips_after_special();
    let added = metadata.ids().filter(|(_, text, kind)| kind.is_added() && !text.is_empty());
    let token = |(id, text, special): (u32, &str, bool)| {
        json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": rstrip && special,
            "normalized": false, "special": special,
        })
    };
    added.map(|(id, text, kind)| token((id, text, kind.is_special()))).collect()
}

fn post_processor(metadata: &Metadata<'_>, add_bos: bool) -> Result<Value> {
    let at = |name: &str, key: &str, default: bool| -> Result<Option<u32>> {
        Ok(metadata.id(name)?.filter(|_| metadata.flag(key, default)))
    };
    let bos = at("bos_token_id", "add_bos_token", add_bos)?;
    let eos = at("eos_token_id", "add_eos_token", false)?;
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let special = |id: u32, sequence: u32| json!({"SpecialToken": {"id": metadata.text(id), "type_id": sequence}});
    let around = |name: &str, sequence: u32| {
        let text = json!({"Sequence": {"id": name, "type_id": sequence}});
        let (bos, eos) = (bos.map(|id| special(id, sequence)), eos.map(|id| special(id, sequence)));
        bos.into_iter().chain([text]).chain(eos).collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = bos
        .into_iter()
        .chain(eos)
        .map(|id| {
            (metadata.text(id).to_owned(), json!({"id": metadata.text(id), "ids": [id], "tokens": [metadata.text(id)]}))
        })
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    Ok(json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens}))
}

fn merges<'a>(metadata: &Metadata<'a>) -> Result<Vec<&'a str>> {
    match metadata.get("merges") {
        Some(GgufValue::Strings(lines)) => Ok(lines.iter().collect()),
        _ => Err(metadata.corrupt("tokenizer.ggml.merges is not a list of strings")),
    }
}

/// Every way to cut a piece into two others, best pieces first. Cuts of one piece are ordered by their parts' ids.
fn scored_merges(metadata: &Metadata<'_>) -> Result<Vec<[String; 2]>> {
    let scores = metadata.scores()?;
    let ids: HashMap<&str, u32> = metadata
        .ids()
        .filter(|(_, text, kind)| !text.is_empty() && !kind.is_added())
        .map(|(id, text, _)| (text, id))
        .collect();
    let mut merges: Vec<(f32, u32, u32)> = Vec::new();
    for (&text, &id) in &ids {
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                merges.push((scores[id as usize], left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    Ok(merges.into_iter().map(|(_, left, right)| [metadata.text(left).into(), metadata.text(right).into()]).collect())
}

fn config(metadata: &Metadata<'_>) -> Result<Value> {
    let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    for (key, name) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ] {
        if let Some(id) = metadata.id(name)? {
            config[key] = json!(metadata.text(id));
        }
    }
    if let Some(template) = metadata.gguf().get("tokenizer.chat_template").and_then(GgufValue::as_str) {
        config["chat_template"] = json!(template);
    }
    Ok(config)
}
