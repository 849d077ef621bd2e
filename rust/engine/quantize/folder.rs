//! Makes a quantized folder: layer by layer, with what a text tells of the matrices' inputs, or without.

use std::cell::RefCell;

use super::calibration::Named;
use super::compute::Compute;
use super::maker::{Maker, num_steps};
use super::method::{Made, Method};
use super::partial::{Partial, layer_file};
use super::round::Grouped;
use super::{Certificate, Inputs, Job, Matrix, Progress, Scheme, certificate, output, scheme};
use crate::backend::Act;
use crate::error::{Error, Result};
use crate::model::{Role, roles};

pub fn make(job: &Job<'_>, scheme: Scheme, progress: &mut dyn Progress) -> Result<Certificate> {
    let method = method(job, scheme)?;
    let partial = job.partial()?;
    let texts = job.texts(&partial, progress)?;
    let run = Run { job, method, partial: &partial };
    match scheme.calibrates() {
        true => run.calibrated_layers(&texts.calibration, progress)?,
        false => run.rounded_layers(progress)?,
    }
    run.write_rest()?;
    let bytes = output::num_bytes(&partial.dir)?;
    let certificate = job.certify(&partial.dir, bytes, method.group, texts, progress)?;
    output::assemble(&partial.dir, &[(certificate::KEY.into(), certificate.to_json())])?;
    partial.finish(job.source.config.num_layers())?;
    Ok(certificate)
}

fn method(job: &Job<'_>, scheme: Scheme) -> Result<Method> {
    let c = &job.source.config;
    if scheme == Scheme::Int4Awq && c.experts.is_some() {
        let what = "a mixture of experts: AWQ folds factors into a norm, which the router reads, too";
        return Err(Error::unsupported(job.source.checkpoint.path(), what));
    }
    let widths = [c.hidden_size, c.q_dim(), c.intermediate_size];
    if let Some(rows) =
        [c.q_dim(), c.kv_dim(), c.hidden_size, c.intermediate_size].iter().find(|rows| !rows.is_multiple_of(8))
    {
        return Err(Error::unsupported(
            job.source.checkpoint.path(),
            format!("a matrix has {rows} rows, and these formats hold multiples of 8"),
        ));
    }
    let group = match scheme.by_row() {
        true => None,
        false => Some(scheme::group_size(job.options.group_size, &widths)?),
    };
    Ok(Method { scheme, group })
}

/// The making of one folder.
struct Run<'a> {
    job: &'a Job<'a>,
    method: Method,
    partial: &'a Partial,
}

impl Run<'_> {
    /// Each layer's matrices with the inputs that come through matrices quantized before.
    fn calibrated_layers(&self, text: &Named, progress: &mut dyn Progress) -> Result<()> {
        let (source, first) = (self.job.source, self.partial.num_layers());
        let config = &source.config;
        progress.begin("quantizing", (config.num_layers() - first) * num_steps(config));
        if first == config.num_layers() {
            return Ok(());
        }
        let mut session = self.job.session(text)?;
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
                progress.borrow_mut().step()?;
                Ok(effective)
            };
            Maker::new(&session, source, &quantize).layer(layer)?;
            let tensors = output::layer(source, layer, made.into_inner(), self.method.scheme.layout())?;
            self.partial.finish_layer(layer, &tensors, Some(session.activations(Act::Residual)))?;
        }
        Ok(())
    }

    /// Matrices rounded as they are.
    fn rounded_layers(&self, progress: &mut dyn Progress) -> Result<()> {
        let (source, first) = (self.job.source, self.partial.num_layers());
        let num_layers = source.config.num_layers();
        progress.begin("quantizing", num_layers - first);
        for layer in first..num_layers {
            let rounded = |role: &Role| role.layer() == Some(layer) && role.is_matrix() && !role.is_kept();
            let matrices = roles(&source.config).into_iter().filter(rounded);
            let made = matrices.map(|role| {
                let matrix = Matrix::load(source, role)?;
                let grouped =
                    Grouped::nearest(&matrix, self.method.group.unwrap_or(matrix.cols), self.method.scheme.codes());
                Ok(Made { role, grouped, input_scale: None })
            });
            let tensors = output::layer(source, layer, made.collect::<Result<_>>()?, self.method.scheme.layout())?;
            self.partial.finish_layer(layer, &tensors, None)?;
            progress.step()?;
        }
        Ok(())
    }

    /// What a folder has beside its layers.
    fn write_rest(&self) -> Result<()> {
        let (source, partial) = (self.job.source, self.partial);
        output::write(&partial.dir.join("ends.safetensors"), &[], &output::ends(source)?)?;
        let config = serde_json::to_string_pretty(&output::config(source, &self.method)?).expect("JSON becomes text");
        partial.write_text("config.json", &config)?;
        output::write_texts(source, &partial.dir)?;
        let layers = (0..source.config.num_layers()).map(layer_file);
        output::write_index(&partial.dir, &layers.chain(["ends.safetensors".into()]).collect::<Vec<_>>())
    }
}
