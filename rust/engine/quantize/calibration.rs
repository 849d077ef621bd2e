//! The text that passes through the model while it is quantized, and the text that it is measured on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{EngineConfig, Quantization};
use crate::error::{Error, Result};
use crate::evaluate;
use crate::handle::EngineHandle;
use crate::ids::TokenId;
use crate::kernels::BLOCK_ROWS;
use crate::load::load_text;
use crate::model::Source;
use crate::output::Event;
use crate::request::{GenerateRequest, Prompt, SamplingParams};
use crate::stream::EventStream;

/// Tokens of a sequence, of a model that was trained for as many.
pub const SEQUENCE_LEN: usize = 512;
/// Sequences that are kept for measuring, where no other text is given for it.
const HELD_OUT: usize = 8;
/// A text with fewer says too little.
const LEAST_TOKENS: usize = 256;
/// Sequences that are written at once: as many rows as share a block of weights that was unpacked for them.
const AT_ONCE: usize = BLOCK_ROWS;

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// In UTF-8.
    File(PathBuf),
    /// What the model itself writes at temperature 1, from nothing.
    Written,
}

/// Sequences of tokens with the name of their text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub sequences: Vec<Vec<TokenId>>,
}

/// What a quantization reads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Texts {
    pub calibration: Named,
    /// What the result is measured on: a text of its own, or what was kept apart.
    pub evaluation: Named,
}

impl Named {
    pub fn num_tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

/// What to take from a text.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub calibration_tokens: usize,
    /// Tokens of a sequence.
    pub sequence_len: usize,
    /// Whether some sequences are to be kept apart, for measuring.
    pub held_out: bool,
    pub threads: Option<usize>,
}

impl Wanted {
    fn num_calibration(self) -> usize {
        self.calibration_tokens.div_ceil(self.sequence_len)
    }

    fn num_held_out(self) -> usize {
        if self.held_out { HELD_OUT } else { 0 }
    }

    pub fn num_sequences(self) -> usize {
        self.num_calibration() + self.num_held_out()
    }
}

/// Sequences for calibration, and others for measuring (none unless wanted). `on_written` hears of each sequence that
/// the model wrote.
pub fn sequences(
    source: &Source,
    text: &Text,
    wanted: Wanted,
    on_written: &mut dyn FnMut() -> Result<()>,
) -> Result<Texts> {
    let (count, held_out) = (wanted.num_calibration(), wanted.num_held_out());
    match text {
        Text::File(path) => split(path, windows(source, path, wanted.sequence_len)?, count, held_out),
        Text::Written => {
            let engine = EngineHandle::load(source.checkpoint.path(), config(source, wanted)?)?;
            let mut written = write(&engine, count + held_out, wanted.sequence_len, on_written)?;
            let name = |part: &str| format!("{part} that the source model wrote");
            let apart = written.split_off(count);
            Ok(Texts {
                calibration: Named { name: name("text"), sequences: written },
                evaluation: Named { name: name("other text"), sequences: apart },
            })
        }
    }
}

/// All of a file, for measuring.
pub fn whole(source: &Source, path: &Path, sequence_len: usize) -> Result<Named> {
    Ok(Named { name: file_name(path), sequences: windows(source, path, sequence_len)? })
}

fn windows(source: &Source, path: &Path, sequence_len: usize) -> Result<Vec<Vec<TokenId>>> {
    let (tokenizer, _) = load_text(&*source.checkpoint)?;
    evaluate::windows(tokenizer.as_ref(), &read(path)?, sequence_len)
}

/// For writing. Full precision is rounded to eight bits: what the text says changes little, and it is there several
/// times sooner.
fn config(source: &Source, wanted: Wanted) -> Result<EngineConfig> {
    Ok(EngineConfig {
        max_num_seqs: AT_ONCE,
        max_model_len: Some(wanted.sequence_len),
        threads: wanted.threads,
        quantization: source.can_be_quantized(Quantization::Int8)?.then_some(Quantization::Int8),
        ..EngineConfig::default()
    })
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|err| Error::io(path, err))?;
    String::from_utf8(bytes).map_err(|err| Error::InvalidRequest(format!("{}: not UTF-8 text: {err}", path.display())))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// `count` windows spread evenly over those before the last ones, which are held out.
fn split(path: &Path, mut windows: Vec<Vec<TokenId>>, count: usize, held_out: usize) -> Result<Texts> {
    let held_out = held_out.min(windows.len() / 2);
    let apart = windows.split_off(windows.len() - held_out);
    let kept = count.min(windows.len());
    let tokens: usize = windows.iter().map(Vec::len).sum();
    if count > 0 && tokens < LEAST_TOKENS {
        let what =
            format!("{}: {tokens} tokens are too few to calibrate with; {LEAST_TOKENS} are needed", path.display());
        return Err(Error::InvalidRequest(what));
    }
    let spread = (0..kept).map(|i| windows[i * windows.len() / kept].clone()).collect();
    let name = file_name(path);
    Ok(Texts {
        calibration: Named { name: name.clone(), sequences: spread },
        evaluation: Named { name: format!("the end of {name}, held out"), sequences: apart },
    })
}

/// `count` sequences of `len` tokens, each by a seed of its own.
fn write(
    engine: &EngineHandle,
    count: usize,
    len: usize,
    on_written: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<TokenId>>> {
    let tokenizer = engine.model().tokenizer.as_ref();
    let start = tokenizer.and_then(|tokenizer| tokenizer.bos().or(tokenizer.eos().first().copied())).unwrap_or(0);
    let params = |seed: usize| SamplingParams {
        max_tokens: len - 1,
        temperature: 1.0,
        ignore_eos: true,
        seed: Some(seed as u64),
        ..SamplingParams::default()
    };
    let mut written = Vec::with_capacity(count);
    while written.len() < count {
        let seeds = written.len()..count.min(written.len() + AT_ONCE);
        let request = |seed| GenerateRequest::new(Prompt::Tokens(vec![start]), params(seed));
        let streams = seeds.map(|seed| engine.stream(request(seed))).collect::<Result<Vec<_>>>()?;
        written.extend(side_by_side(streams, start, len, on_written)?);
    }
    Ok(written)
}

/// What streams write behind `start`. They grow in step, so that the first one tells how far all are: `on_written` hears of
/// as many sequences as there are tokens for.
fn side_by_side(
    streams: Vec<EventStream>,
    start: TokenId,
    len: usize,
    on_written: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<TokenId>>> {
    let (count, mut told) = (streams.len(), 0);
    let mut written = Vec::with_capacity(count);
    for stream in streams {
        let mut tokens = vec![start];
        for event in stream {
            match event {
                Event::Delta(delta) => tokens.extend(delta.token_ids),
                Event::Error(err) => return Err(err),
                _ => {}
            }
            while told < count * tokens.len() / len {
                on_written()?;
                told += 1;
            }
        }
        written.push(tokens);
    }
    Ok(written)
}
