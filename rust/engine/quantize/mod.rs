//! Makes quantized models.
//!
//! 1. [`calibration`]: a text becomes sequences of tokens; without one, the model writes it.
//! 2. [`maker`]: layer by layer the text passes through the model, and every matrix is quantized ([`method`]: rounding,
//!    GPTQ, AWQ, SmoothQuant) when the text has come to it, behind matrices that are quantized already.
//! 3. [`partial`]: a finished layer is on disk, with all that the next one needs. A run that ended goes on from there.
//! 4. [`output`]: the folder in the layout of AutoGPTQ, AutoAWQ or compressed-tensors.
//!    Or, for GGUF files, [`gguf_file`]: the text tells only which columns are important, and [`kquants`] encodes. A
//!    folder becomes such a file first ([`convert`]).
//! 5. [`certificate`]: it is compared with its source, and what is found goes into the file's metadata.

mod awq;
mod calibration;
pub mod certificate;
mod cholesky;
mod clip;
mod compute;
mod convert;
mod folder;
mod gguf_file;
mod gptq;
mod inputs;
pub mod kquants;
mod maker;
mod matrix;
mod method;
mod output;
mod partial;
mod recipe;
pub mod round;
mod scheme;
mod smooth;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub use self::calibration::{SEQUENCE_LEN, Text};
pub use self::certificate::{Certificate, CertifiedText, Quality};
pub use self::inputs::Inputs;
pub use self::matrix::Matrix;
pub use self::recipe::Recipe;
pub use self::scheme::Scheme;

use self::calibration::{Named, Texts, Wanted};
use self::partial::Partial;
use crate::backend::Backend;
use crate::backend::cpu::{CpuLinear, Segment, Session};
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::kernels::Kernels;
use crate::kernels::threads::Pool;
use crate::load::weight_bytes;
use crate::model::{self, Role, Source};
use crate::quant::PackedMatrix;
use crate::weights::packed::SourceStamp;

/// What to make, and with which texts.
#[derive(Debug, Clone)]
pub struct Options {
    pub scheme: Recipe,
    /// Columns that share a scale: 32, 64 or 128. None: the largest that fits the model. GGUF's types have their own.
    pub group_size: Option<usize>,
    pub calibration: Text,
    pub calibration_tokens: usize,
    /// What the result is measured on. None: a part of the calibration text that is kept apart.
    pub evaluation: Option<PathBuf>,
    /// None: the physical cores that this process may use.
    pub threads: Option<usize>,
}

impl Options {
    pub fn new(scheme: impl Into<Recipe>) -> Self {
        Self {
            scheme: scheme.into(),
            group_size: None,
            calibration: Text::Written,
            calibration_tokens: 32 * SEQUENCE_LEN,
            evaluation: None,
            threads: None,
        }
    }
}

/// Hears how far a quantization is.
pub trait Progress {
    /// Work in `steps` steps begins; work before it has ended.
    fn begin(&mut self, what: &str, steps: usize);

    /// An error ends the quantization here; what is finished stays.
    fn step(&mut self) -> Result<()>;

    /// Something that whoever reads the result should know.
    fn note(&mut self, _text: &str) {}
}

/// Makes `target` of the `.gguf` file or Hugging Face folder `source`: a folder or a GGUF file, as the scheme has it.
/// Returns what is written into it. An unfinished earlier run with the same options goes on.
pub fn quantize(source: &Path, target: &Path, options: &Options, progress: &mut dyn Progress) -> Result<Certificate> {
    options.scheme.check_target(target)?;
    let opened = model::open(source)?;
    let job = Job { source: &opened, path: source, target, options };
    match options.scheme {
        Recipe::Folder(scheme) => folder::make(&job, scheme, progress),
        Recipe::Gguf(mixture) => gguf_file::make(&job, mixture, progress),
    }
}

/// What is to be made of what.
struct Job<'a> {
    source: &'a Source,
    /// Of the source.
    path: &'a Path,
    target: &'a Path,
    options: &'a Options,
}

impl Job<'_> {
    /// Where the work goes on, or begins.
    fn partial(&self) -> Result<Partial> {
        Partial::open(self.target, &self.plan()?)
    }

    /// All that the result depends on, so that one run may go on with another one's work.
    fn plan(&self) -> Result<Value> {
        let Self { source, options, .. } = self;
        let stamp =
            SourceStamp::of(&*source.checkpoint, None).map_err(|err| Error::io(source.checkpoint.path(), err))?;
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "source": stamp,
            "scheme": options.scheme.name(),
            "group_size": options.group_size,
            "calibration": format!("{:?}", options.calibration),
            "calibration_tokens": options.calibration_tokens,
            "evaluation": options.evaluation,
        }))
    }

    /// Sequences for calibration and for measuring: those of an earlier run, if there was one.
    fn texts(&self, partial: &Partial, progress: &mut dyn Progress) -> Result<Texts> {
        let options = self.options;
        const FILE: &str = "calibration.json";
        let kept = partial.read_text(FILE).and_then(|text| serde_json::from_str(&text).ok());
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let file = options.evaluation.as_ref();
        // Before the long work: what is wrong with this file is known at once.
        let evaluation = file.map(|path| calibration::whole(self.source, path, self.sequence_len())).transpose()?;
        let wanted = Wanted {
            calibration_tokens: if options.scheme.calibrates() { options.calibration_tokens } else { 0 },
            sequence_len: self.sequence_len(),
            held_out: evaluation.is_none(),
            threads: options.threads,
        };
        let mut texts = self.written_or_read(wanted, progress)?;
        if let Some(evaluation) = evaluation {
            texts.evaluation = evaluation;
        } else if texts.evaluation.sequences.is_empty() {
            progress.note("the calibration text is too short to keep a part of it apart: the result is not measured");
        }
        partial.write_text(FILE, &serde_json::to_string(&texts).expect("tokens become JSON"))?;
        Ok(texts)
    }

    fn written_or_read(&self, wanted: Wanted, progress: &mut dyn Progress) -> Result<Texts> {
        let from = &self.options.calibration;
        match wanted.num_sequences() {
            0 => return Ok(Texts::default()),
            count if *from == Text::Written => progress.begin("writing calibration text", count),
            _ => {}
        }
        calibration::sequences(self.source, from, wanted, &mut || progress.step())
    }

    /// With the embedded text as the residual stream.
    fn session(&self, text: &Named) -> Result<Session> {
        let kernels = Kernels::new(EngineConfig::default().isa()?)?;
        let pool = Pool::new(self.options.threads.unwrap_or_else(Pool::default_threads));
        let session = Session::new(&self.source.config, &text.sequences, kernels, pool)?;
        session.embed(&embedding(self.source)?, self.source.config.embedding_scale);
        Ok(session)
    }

    /// The certificate of `made`, `bytes` of weights, compared with the source.
    fn certify(
        &self,
        made: &Path,
        bytes: u64,
        group_size: Option<usize>,
        texts: Texts,
        progress: &mut dyn Progress,
    ) -> Result<Certificate> {
        Ok(Certificate {
            version: env!("CARGO_PKG_VERSION").into(),
            scheme: self.options.scheme.to_string(),
            group_size,
            source: self.source.config.name.clone(),
            calibration: self.options.scheme.calibrates().then(|| certified(&texts.calibration)),
            quality: self.measure(made, &texts.evaluation, progress)?,
            source_bytes: weight_bytes(self.source),
            bytes,
        })
    }

    fn measure(&self, made: &Path, text: &Named, progress: &mut dyn Progress) -> Result<Option<Quality>> {
        if text.sequences.is_empty() {
            return Ok(None);
        }
        progress.begin("measuring", text.sequences.len());
        let measured = evaluate::compare([self.path, made], &text.sequences, self.options.threads, || progress.step())?;
        Ok(Some(Quality::new(certified(text), self.sequence_len(), &measured)))
    }

    fn sequence_len(&self) -> usize {
        SEQUENCE_LEN.min(self.source.config.max_position)
    }
}

fn embedding(source: &Source) -> Result<CpuLinear> {
    let part = source.part(Role::Embedding)?;
    let view = source.checkpoint.tensor(&part.name)?;
    let matrix = PackedMatrix::pack(&view, part.rows, &*part.row_of)?;
    let segment = Segment { matrix, output: crate::backend::Act::Normed, col: 0, order: None };
    Ok(CpuLinear { segments: vec![segment], orders: Vec::new() })
}

fn certified(text: &Named) -> CertifiedText {
    CertifiedText { name: text.name.clone(), tokens: text.num_tokens() }
}

#[cfg(test)]
mod tests;
