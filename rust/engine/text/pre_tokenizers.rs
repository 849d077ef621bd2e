//! Pre-tokenizer kinds of byte-level BPE, as `tokenizer.ggml.pre` names them.
//! Sources: the models' published tokenizer.json files, and the table in llama.cpp that gave the kinds their names.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// The cased letters of Unicode 8, which DeepSeek spelled out. Escaped: those that Unicode normalization replaces.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\x{1F5F}-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌ\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_MARKS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const CJK: &str = r"[一-龥ࠀ-一가-퟿]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// What a kind of pre-tokenizer implies.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizerKind {
    /// Each one cuts what the ones before it left.
    patterns: &'static [&'static str],
    /// Text is composed (Unicode NFC) first.
    nfc: bool,
    /// A whole word of the vocabulary is a token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// BOS is added where the file does not say.
    pub(super) add_bos: bool,
}

const fn plain(patterns: &'static [&'static str]) -> PreTokenizerKind {
    PreTokenizerKind { patterns, nfc: false, ignore_merges: false, add_bos: false }
}

/// One name for each kind that differs from the others, as llama.cpp has it.
const NAMES: &[&str] = &[
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "smollm",
    "tekken",
    "gpt-4o",
    "olmo",
    "stablelm2",
    "dbrx",
    "qwen35",
    "seed-coder",
    "deepseek-v3",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "bailingmoe",
];

impl PreTokenizerKind {
    /// What cuts a text where nothing else is said.
    pub(super) const GPT2: &str = GPT2;

    /// The name of the kind with these patterns.
    pub(super) fn name_of(patterns: &[String], nfc: bool, ignore_merges: bool) -> Option<&'static str> {
        NAMES.iter().copied().find(|name| {
            let kind = Self::named(name).expect("the names are of kinds");
            kind.patterns == patterns && kind.nfc == nfc && kind.ignore_merges == ignore_merges
        })
    }

    const fn composed(self) -> Self {
        Self { nfc: true, ..self }
    }

    const fn whole_words_and_bos(self) -> Self {
        Self { ignore_merges: true, add_bos: true, ..self }
    }

    /// None: Ferrule does not know the kind.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "default" => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
                plain(&[LLAMA3]).whole_words_and_bos()
            }
            "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => plain(&[LLAMA3]),
            "qwen2" | "deepseek-r1-qwen" => plain(&[QWEN2]).composed(),
            "stablelm2" | "hunyuan" | "megrez" | "solar-open" | "grok-2" => plain(&[QWEN2]),
            "qwen35" => plain(&[QWEN35]).composed(),
            "mpt" | "olmo" => plain(&[GPT2]).composed(),
            "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "jais" | "trillion" | "granite-docling"
            | "exaone4" => plain(&[GPT2]),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                plain(&[r"\p{N}", GPT2])
            }
            "falcon" => plain(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
            "tekken" => plain(&[TEKKEN]).whole_words_and_bos(),
            "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => plain(&[GPT4O]),
            "deepseek-llm" => plain(&["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"\s+$", CJK, r"\p{N}+"]),
            "deepseek-coder" => plain(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"]),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => plain(&[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]),
            "bloom" | "poro-chat" | "gpt3-finnish" => plain(&[BLOOM]),
            "viking" => plain(&[BLOOM, r"\p{N}"]),
            "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(&[BAILING]),
            "seed-coder" => plain(&[SEED_CODER]),
            _ => return None,
        })
    }

    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.nfc.then_some(NormalizerWrapper::NFC(NFC))
    }

    pub(super) fn pre_tokenizer(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let mut steps = Vec::with_capacity(self.patterns.len());
        for &pattern in self.patterns {
            let pattern = SplitPattern::Regex(pattern.into());
            steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
        }
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizer};

    use super::*;

    fn cut(kind: &str, text: &str) -> Vec<String> {
        let pre_tokenizer = PreTokenizerKind::named(kind).unwrap().pre_tokenizer().unwrap();
        let mut parts = tokenizers::PreTokenizedString::from(text);
        pre_tokenizer.pre_tokenize(&mut parts).unwrap();
        let offsets = parts.get_splits(OffsetReferential::Original, OffsetType::Byte);
        offsets.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn digits_are_cut_as_each_kind_says() {
        for (kind, expected) in [
            ("gpt-2", &["a", " 12345"][..]),
            ("smollm", &["a", " ", "1", "2", "3", "4", "5"]),
            ("llama-bpe", &["a", " ", "123", "45"]),
            ("qwen2", &["a", " ", "1", "2", "3", "4", "5"]),
            ("default", &["a", " ", "123", "45"]),
            ("falcon", &["a", " ", "123", "45"]),
            ("deepseek-v3", &["a", " ", "123", "45"]),
            ("viking", &["a", " ", "1", "2", "3", "4", "5"]),
        ] {
            assert_eq!(cut(kind, "a 12345"), expected, "{kind}");
        }
    }

    /// No regular expression gives up on the longest run that the segmenter lets through.
    #[test]
    fn long_white_space_is_cut_like_short_white_space() {
        const KINDS: &str = "default gpt-2 smollm llama-bpe qwen2 qwen35 tekken gpt-4o falcon deepseek-llm \
                             deepseek-coder deepseek-v3 bloom viking bailingmoe seed-coder";
        for kind in KINDS.split(' ') {
            let shape = |spaces: usize| {
                let pieces = cut(kind, &format!("a{}the 1\n", " ".repeat(spaces)));
                pieces
                    .iter()
                    .map(|piece| if piece.len() > 9 { piece.len() + 99 - spaces } else { piece.len() })
                    .collect()
            };
            let (short, long): (Vec<usize>, Vec<usize>) = (shape(99), shape(500_000));
            assert_eq!(short, long, "{kind}");
        }
    }

    #[test]
    fn letters_that_normalization_replaces_are_letters() {
        for letter in ["\u{1f7d}", "\u{1fbe}", "\u{1fd3}", "\u{1fdb}", "\u{2126}", "\u{212a}"] {
            assert_eq!(cut("deepseek-llm", &format!("ª{letter}")), ["ª", letter]);
        }
    }

    #[test]
    fn words_and_spaces_are_cut_as_each_kind_says() {
        for (kind, expected) in [
            ("gpt-2", &["I", "'ll", " ", " HEs", "'", "S", "\n", "\n", "x"][..]),
            ("llama-bpe", &["I", "'ll", " ", " HEs", "'S", "\n\n", "x"]),
            ("tekken", &["I", "'ll", " ", " HEs", "'S", "\n\n", "x"]),
            ("gpt-4o", &["I'll", " ", " HEs'S", "\n\n", "x"]),
        ] {
            assert_eq!(cut(kind, "I'll  HEs'S\n\nx"), expected, "{kind}");
        }
    }
}
