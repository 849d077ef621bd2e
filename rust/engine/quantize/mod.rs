//! Makes quantized models.
//!
//! 1. [`calibration`]: a text becomes sequences of tokens; without one, the model writes it.
//! 2. [`maker`]: layer by layer the text passes through the model, and every matrix is quantized ([`method`]: rounding,
//!    GPTQ, AWQ, SmoothQuant) when the text has come to it, behind matrices that are quantized already.
//! 3. [`partial`]: a finished layer is on disk, with all that the next one needs. A run that ended goes on from there.
//! 4. [`output`]: the folder in the layout of AutoGPTQ, AutoAWQ or compressed-tensors.
//!    Or, for GGUF files, [`gguf_file`]: the text tells only which columns are important, and [`kquants`] encodes.
//! 5. [`certificate`]: it is compared with its source, and what is found goes into the file's metadata.

mod awq;
mod calibration;
pub mod certificate;
mod cholesky;
mod clip;
mod compute;
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

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub use self::calibration::{SEQUENCE_LEN, Text};
pub use self::certificate::{Certificate, CertifiedText, Quality};
pub use self::inputs::Inputs;
pub use self::matrix::Matrix;
pub use self::recipe::Recipe;
pub use self::scheme::Scheme;

use self::calibration::{Named, Wanted};
use self::compute::Compute;
use self::maker::{Maker, NUM_STEPS};
use self::method::{Made, Method};
use self::partial::{Partial, layer_file};
use self::round::Grouped;
use crate::backend::Backend;
use crate::backend::cpu::{CpuLinear, Segment, Session};
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::kernels::Kernels;
use crate::kernels::threads::Pool;
use crate::load::weight_bytes;
use crate::model::{self, Role, Source, roles};
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

    fn step(&mut self);

    /// Something that whoever reads the result should know.
    fn note(&mut self, _text: &str) {}
}

/// Makes the folder `target` of the `.gguf` file or Hugging Face folder `source`, and returns what is written into it.
/// An unfinished earlier run with the same options goes on.
pub fn quantize(source: &Path, target: &Path, options: &Options, progress: &mut dyn Progress) -> Result<Certificate> {
    let opened = model::open(source)?;
    let scheme = match options.scheme {
        Recipe::Folder(scheme) => scheme,
        Recipe::Gguf(mixture) => return gguf_file::make(source, target, mixture, options, progress),
    };
    let method = method(&opened, scheme, options)?;
    let partial = Partial::open(target, &plan(&opened, options)?)?;
    let [calibration, held_out] = texts(&opened, options, &partial, progress)?;
    let (first, num_layers) = (partial.num_layers(), opened.config.num_layers());
    match options.scheme.calibrates() {
        true => {
            Calibrated { source: &opened, method, partial: &partial, options }.layers(first, &calibration, progress)?
        }
        false => rounded_layers(&opened, method, &partial, first, progress)?,
    }
    output::write(&partial.dir.join("ends.safetensors"), &[], &output::ends(&opened)?)?;
    let config = serde_json::to_string_pretty(&output::config(&opened, &method)?).expect("JSON becomes text");
    partial.write_text("config.json", &config)?;
    output::write_texts(&opened, &partial.dir)?;
    let files: Vec<String> = (0..num_layers).map(layer_file).chain(["ends.safetensors".into()]).collect();
    output::write_index(&partial.dir, &files)?;

    let evaluation = match &options.evaluation {
        Some(path) => calibration::whole(&opened, path, sequence_len(&opened))?,
        None => held_out,
    };
    let certificate = Certificate {
        version: env!("CARGO_PKG_VERSION").into(),
        scheme: options.scheme.to_string(),
        group_size: method.group,
        source: opened.config.name.clone(),
        calibration: options.scheme.calibrates().then(|| certified(&calibration)),
        quality: measure([source, &partial.dir], &evaluation, sequence_len(&opened), options, progress)?,
        source_bytes: weight_bytes(&opened),
        bytes: output::num_bytes(&partial.dir)?,
    };
    output::assemble(&partial.dir, &[(certificate::KEY.into(), certificate.to_json())])?;
    partial.finish(num_layers)?;
    Ok(certificate)
}

fn method(source: &Source, scheme: Scheme, options: &Options) -> Result<Method> {
    let c = &source.config;
    let widths = [c.hidden_size, c.q_dim(), c.intermediate_size];
    if let Some(rows) =
        [c.q_dim(), c.kv_dim(), c.hidden_size, c.intermediate_size].iter().find(|rows| !rows.is_multiple_of(8))
    {
        return Err(Error::unsupported(
            source.checkpoint.path(),
            format!("a matrix has {rows} rows, and these formats hold multiples of 8"),
        ));
    }
    let group = match scheme.by_row() {
        true => None,
        false => Some(scheme::group_size(options.group_size, &widths)?),
    };
    Ok(Method { scheme, group })
}

/// All that the result depends on, so that one run may go on with another one's work.
fn plan(source: &Source, options: &Options) -> Result<Value> {
    let stamp = SourceStamp::of(&*source.checkpoint, None).map_err(|err| Error::io(source.checkpoint.path(), err))?;
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
fn texts(source: &Source, options: &Options, partial: &Partial, progress: &mut dyn Progress) -> Result<[Named; 2]> {
    const FILE: &str = "calibration.json";
    let kept = partial.read_text(FILE).and_then(|text| serde_json::from_str(&text).ok());
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let wanted = Wanted {
        calibration_tokens: if options.scheme.calibrates() { options.calibration_tokens } else { 0 },
        sequence_len: sequence_len(source),
        held_out: options.evaluation.is_none(),
        threads: options.threads,
    };
    if wanted.calibration_tokens == 0 && !wanted.held_out {
        return Ok([Named::default(), Named::default()]);
    }
    if options.calibration == Text::Written {
        progress.begin("writing calibration text", wanted.num_sequences());
    }
    let texts = calibration::sequences(source, &options.calibration, wanted, &mut || progress.step())?;
    partial.write_text(FILE, &serde_json::to_string(&texts).expect("tokens become JSON"))?;
    Ok(texts)
}

/// A run of layers with calibration.
struct Calibrated<'a> {
    source: &'a Source,
    method: Method,
    partial: &'a Partial,
    options: &'a Options,
}

impl Calibrated<'_> {
    fn layers(&self, first: usize, text: &Named, progress: &mut dyn Progress) -> Result<()> {
        let config = &self.source.config;
        progress.begin("quantizing", (config.num_layers() - first) * NUM_STEPS);
        if first == config.num_layers() {
            return Ok(());
        }
        let mut session = session(self.source, self.options.threads, text)?;
        if first > 0 {
            session.set_residual(&self.partial.residual(first)?);
        }
        let progress = RefCell::new(progress);
        for layer in first..config.num_layers() {
            session.enter(config.layers[layer].clone())?;
            let made = RefCell::new(Vec::new());
            let quantize = |roles: &[Role], inputs: &Inputs<'_>, matrices: Vec<Matrix>| {
                let compute = Compute { kernels: session.kernels(), pool: session.pool() };
                let new = self.method.quantize(&compute, config, inputs, roles, matrices)?;
                let effective = new.iter().map(Made::effective).collect();
                made.borrow_mut().extend(new);
                progress.borrow_mut().step();
                Ok(effective)
            };
            Maker::new(&session, self.source, &quantize).layer(layer)?;
            let tensors = output::layer(self.source, layer, made.into_inner(), self.method.scheme.layout())?;
            self.partial.finish_layer(layer, &tensors, Some(session.activations(crate::backend::Act::Residual)))?;
        }
        Ok(())
    }
}

/// With the embedded text as the residual stream.
fn session(source: &Source, threads: Option<usize>, text: &Named) -> Result<Session> {
    let kernels = Kernels::new(EngineConfig::default().isa()?)?;
    let pool = Pool::new(threads.unwrap_or_else(Pool::default_threads));
    let session = Session::new(&source.config, &text.sequences, kernels, pool)?;
    session.embed(&embedding(source)?, source.config.embedding_scale);
    Ok(session)
}

fn embedding(source: &Source) -> Result<CpuLinear> {
    let part = source.part(Role::Embedding)?;
    let view = source.checkpoint.tensor(&part.name)?;
    let matrix = PackedMatrix::pack(&view, part.rows, &*part.row_of)?;
    Ok(CpuLinear { segments: vec![Segment { matrix, output: crate::backend::Act::Normed, col: 0 }], order: None })
}

/// Layers whose matrices are rounded as they are.
fn rounded_layers(
    source: &Source,
    method: Method,
    partial: &Partial,
    first: usize,
    progress: &mut dyn Progress,
) -> Result<()> {
    let num_layers = source.config.num_layers();
    progress.begin("quantizing", num_layers - first);
    for layer in first..num_layers {
        let matrices = roles(&source.config).into_iter().filter(|role| role.layer() == Some(layer) && role.is_matrix());
        let made = matrices.map(|role| {
            let matrix = Matrix::load(source, role)?;
            let grouped = Grouped::nearest(&matrix, method.group.unwrap_or(matrix.cols), method.scheme.codes());
            Ok(Made { role, grouped, input_scale: None })
        });
        let tensors = output::layer(source, layer, made.collect::<Result<_>>()?, method.scheme.layout())?;
        partial.finish_layer(layer, &tensors, None)?;
        progress.step();
    }
    Ok(())
}

fn measure(
    models: [&Path; 2],
    text: &Named,
    window: usize,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Option<Quality>> {
    if text.sequences.is_empty() {
        return Ok(None);
    }
    progress.begin("measuring", text.sequences.len());
    let measured = evaluate::compare(models, &text.sequences, options.threads, || progress.step())?;
    Ok(Some(Quality::new(certified(text), window, &measured)))
}

fn sequence_len(source: &Source) -> usize {
    SEQUENCE_LEN.min(source.config.max_position)
}

fn certified(text: &Named) -> CertifiedText {
    CertifiedText { name: text.name.clone(), tokens: text.num_tokens() }
}

#[cfg(test)]
mod tests;
