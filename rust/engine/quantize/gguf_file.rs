//! Makes a GGUF file: of a folder first one of the same numbers; calibration, encoding, comparison, and the file with
//! what was found.

use std::cell::RefCell;

use super::calibration::Named;
use super::kquants::{self, Importance, Plan, mixture::Mixture};
use super::maker::{Maker, num_steps};
use super::partial::Partial;
use super::{Certificate, Inputs, Job, Matrix, Progress, certificate, convert};
use crate::backend::{Act, Backend};
use crate::error::{Error, Result};
use crate::kernels::threads::Pool;
use crate::model::{self, Role, Source};
use crate::weights::Gguf;

const IMPORTANCE: &str = "importance.json";
/// What a folder became.
const CONVERTED: &str = "converted.gguf";
/// The file before it is measured.
const UNMEASURED: &str = "unmeasured.gguf";
/// How many tensors its beginning has.
const ENCODED: &str = "encoded";

pub fn make(job: &Job<'_>, mixture: &'static Mixture, progress: &mut dyn Progress) -> Result<Certificate> {
    if job.options.group_size.is_some() {
        let what = format!("{} has blocks of its own: a group size does not apply", mixture.name);
        return Err(Error::InvalidConfig(what));
    }
    let partial = job.partial()?;
    let texts = job.texts(&partial, progress)?;
    let converted = converted(job, &partial, progress)?;
    let job = &Job { source: converted.as_ref().unwrap_or(job.source), ..*job };
    let gguf = job.source.checkpoint.gguf().expect("the model is a GGUF file by now");
    let importance = importance(job, &partial, &texts.calibration, progress)?;
    let plan = Plan::new(gguf, mixture, true)?;
    tell_fallbacks(&plan, progress);
    let unmeasured = partial.dir.join(UNMEASURED);
    if !unmeasured.exists() {
        let num_encoded = partial.read_text(ENCODED).and_then(|count| count.parse().ok()).unwrap_or(0);
        let begun = plan.begin(gguf, &unmeasured, num_encoded)?;
        progress.begin("quantizing", begun.num_left());
        let threads = job.options.threads.unwrap_or_else(Pool::default_threads);
        begun.finish(gguf, &importance, threads, &mut |num_encoded| {
            partial.write_text(ENCODED, &num_encoded.to_string())?;
            progress.step()
        })?;
    }
    let certificate = job.certify(&unmeasured, plan.num_bytes() as u64, None, texts, progress)?;
    kquants::copy_with(&Gguf::open(&unmeasured)?, job.target, certificate::KEY, &certificate.to_json())?;
    partial.remove()?;
    Ok(certificate)
}

/// The folder as a GGUF file, an earlier run's if there was one. None: the source is a file.
fn converted(job: &Job<'_>, partial: &Partial, progress: &mut dyn Progress) -> Result<Option<Source>> {
    if job.source.checkpoint.gguf().is_some() {
        return Ok(None);
    }
    let path = partial.dir.join(CONVERTED);
    match path.exists() {
        true => model::open(&path),
        false => convert::to_gguf(job.source, &path, progress),
    }
    .map(Some)
}

fn tell_fallbacks(plan: &Plan, progress: &mut dyn Progress) {
    let Some(first) = plan.fallbacks.first() else { return };
    let (count, all) = (plan.fallbacks.len(), plan.tensors.len());
    progress.note(&format!(
        "{count} of {all} tensors have rows that are no multiple of 256, such as {first}: larger types with blocks of 32 \
         take the place of K types there"
    ));
}

/// The importance of the columns of every matrix: an earlier run's, if there was one.
fn importance(job: &Job<'_>, partial: &Partial, text: &Named, progress: &mut dyn Progress) -> Result<Importance> {
    let read = |text: &str| serde_json::from_str(text).ok();
    if let Some(kept) = partial.read_text(IMPORTANCE).as_deref().and_then(read) {
        return Ok(kept);
    }
    let importance = measured_importance(job, text, progress)?;
    let text = serde_json::to_string(&importance).expect("numbers become JSON");
    partial.write_text(IMPORTANCE, &text)?;
    // The same numbers as a run that goes on from here will have, to their last bit.
    Ok(read(&text).expect("JSON becomes numbers"))
}

fn measured_importance(job: &Job<'_>, text: &Named, progress: &mut dyn Progress) -> Result<Importance> {
    let source = job.source;
    let config = &source.config;
    progress.begin("calibrating", config.num_layers() * num_steps(config));
    let mut session = job.session(text)?;
    let (found, progress) = (RefCell::new(Importance::new()), RefCell::new(progress));
    let look = |roles: &[Role], inputs: &Inputs<'_>, matrices: Vec<Matrix>| {
        for &role in roles {
            // Experts of one tensor come one after the other.
            found.borrow_mut().entry(source.part(role)?.name).or_default().extend(inputs.importance());
        }
        progress.borrow_mut().step()?;
        Ok(matrices)
    };
    for layer in 0..config.num_layers() {
        session.enter(config.layers[layer].clone())?;
        Maker::new(&session, source, &look).layer(layer)?;
    }
    session.norm(&source.vector(Role::FinalNorm)?);
    let head = Inputs { x: session.activations(Act::Normed), cols: config.hidden_size };
    let role = if config.tie_embeddings { Role::Embedding } else { Role::Head };
    found.borrow_mut().insert(source.part(role)?.name, head.importance());
    Ok(found.into_inner())
}
