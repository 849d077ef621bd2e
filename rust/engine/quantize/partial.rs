//! A quantized folder on its way: what is finished stays when the process ends, and the next one goes on from there.
//!
//! ```text
//! DST.partial/  plan.json               what is being made of what
//!               calibration.json        its tokens
//!               layer-00000.safetensors and so on: finished layers
//!               hidden-00001            the residual stream before layer 1, float32, once layer 0 is finished
//!
//! of a GGUF file:
//!               converted.gguf          what the source is as such a file, if it is a folder
//!               importance.json         of its columns
//!               encoded                 how many tensors are finished in
//!               unmeasured.gguf.unfinished
//!               unmeasured.gguf         all of them
//! ```

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::output::{OutTensor, write};
use crate::error::{Error, Result};

pub struct Partial {
    pub dir: PathBuf,
    target: PathBuf,
    /// Keeps others away.
    _lock: File,
}

impl Partial {
    /// Opens or makes the folder beside `target`. What is in it must have been made by the same `plan`; one in which
    /// nothing was made yet may have another.
    pub fn open(target: &Path, plan: &Value) -> Result<Self> {
        if target.exists() {
            return Err(Error::InvalidConfig(format!("{} is there already", target.display())));
        }
        let mut name = target.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".partial");
        let dir = target.with_file_name(name);
        fs::create_dir_all(&dir).map_err(|err| Error::io(&dir, err))?;
        let partial = Self { _lock: lock(&dir)?, dir, target: target.into() };
        let path = partial.dir.join("plan.json");
        match fs::read(&path) {
            Ok(bytes) if serde_json::from_slice::<Value>(&bytes).is_ok_and(|old| old == *plan) => Ok(partial),
            Ok(_) if partial.has_work() => Err(Error::InvalidConfig(format!(
                "{} is left of another quantization: delete it, or ask for the same again",
                partial.dir.display()
            ))),
            _ => {
                partial.write_text("plan.json", &plan.to_string())?;
                Ok(partial)
            }
        }
    }

    fn has_work(&self) -> bool {
        let mut names = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.any(|name| name != "plan.json")
    }

    /// Writes a small file whole or not at all.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        self.write_bytes(name, text.as_bytes())
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, unfinished) = (self.dir.join(name), self.dir.join(format!("{name}.unfinished")));
        fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &path)).map_err(|err| Error::io(&path, err))
    }

    pub fn read_text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(name)).ok()
    }

    /// Layers that are finished, from the first one on.
    pub fn num_layers(&self) -> usize {
        (0..).take_while(|&layer| self.dir.join(layer_file(layer)).is_file()).count()
    }

    /// A layer's tensors, and the residual stream behind it (which a scheme without calibration does not have).
    pub fn finish_layer(&self, layer: usize, tensors: &[OutTensor], residual: Option<&[f32]>) -> Result<()> {
        if let Some(residual) = residual {
            let bytes: Vec<u8> = residual.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.write_bytes(&hidden_file(layer + 1), &bytes)?;
        }
        write(&self.dir.join(layer_file(layer)), &[], tensors)?;
        // What stood before this layer is not needed any more; if it stays, it does no harm.
        let _ = fs::remove_file(self.dir.join(hidden_file(layer)));
        Ok(())
    }

    /// The residual stream before layer `layer`.
    pub fn residual(&self, layer: usize) -> Result<Vec<f32>> {
        let path = self.dir.join(hidden_file(layer));
        let bytes = fs::read(&path).map_err(|err| Error::io(&path, err))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    /// Deletes everything: the result has its own place.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).map_err(|err| Error::io(&self.dir, err))
    }

    /// Deletes everything but what a finished folder has, and gives the folder its name.
    pub fn finish(self, num_layers: usize) -> Result<()> {
        let leftovers = (0..num_layers).map(layer_file).chain([
            "plan.json".into(),
            "calibration.json".into(),
            "ends.safetensors".into(),
            "model.safetensors.index.json".into(),
            hidden_file(num_layers),
        ]);
        self.delete_unfinished();
        for name in leftovers {
            match fs::remove_file(self.dir.join(&name)) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&self.dir.join(name), err));
                }
                _ => {}
            }
        }
        fs::rename(&self.dir, &self.target).map_err(|err| Error::io(&self.target, err))
    }

    /// What a process that ended while it wrote has left.
    fn delete_unfinished(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "unfinished") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Two would write into each other's files.
fn lock(dir: &Path) -> Result<File> {
    let file = File::open(dir).map_err(|err| Error::io(dir, err))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::InvalidConfig(format!("another quantization is at work in {}", dir.display())))
        }
        Err(TryLockError::Error(err)) => Err(Error::io(dir, err)),
    }
}

pub fn layer_file(layer: usize) -> String {
    format!("layer-{layer:05}.safetensors")
}

fn hidden_file(layer: usize) -> String {
    format!("hidden-{layer:05}")
}
