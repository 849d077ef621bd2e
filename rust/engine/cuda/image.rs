//! Compiled kernels: from disk, or from the sources that are embedded here.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::launch::Source;
use super::nvrtc::Nvrtc;
use crate::error::{Error, Result};

/// Names and texts of cuda/*.cu and the header that they include.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cuda_sources.rs"));
const HEADER: &str = "simt.cuh";

/// Makes cubins for one kind of GPU.
pub struct Images {
    nvrtc: Nvrtc,
    capability: (u32, u32),
    /// Where cubins are kept for the next start. None: they are compiled at every start.
    folder: Option<PathBuf>,
}

impl Images {
    pub fn new(nvrtc: Nvrtc, capability: (u32, u32), folder: Option<PathBuf>) -> Self {
        Self { nvrtc, capability, folder }
    }

    /// The cubin of a source.
    pub fn get(&self, source: &Source) -> Result<Vec<u8>> {
        let text = embedded(&format!("{}.cu", source.name))?;
        let header = embedded(HEADER)?;
        let kept = self.folder.as_ref().map(|folder| folder.join(self.file_name(source.name, header, text)));
        if let Some(cubin) = kept.as_ref().and_then(|path| std::fs::read(path).ok()) {
            return Ok(cubin);
        }
        let cubin = self.nvrtc.compile(source.name, text, &[(HEADER, header)], self.capability)?;
        if let Some(error) = kept.and_then(|path| keep(&path, &cubin).err()) {
            tracing::debug!("compiled kernels are not kept: {error}");
        }
        Ok(cubin)
    }

    /// Differs wherever the cubin may: in its source, its GPU and its compiler.
    fn file_name(&self, name: &str, header: &str, text: &str) -> String {
        let hash = Sha256::new().chain_update(header).chain_update([0]).chain_update(text).finalize();
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let ((major, minor), (nvrtc_major, nvrtc_minor)) = (self.capability, self.nvrtc.version());
        format!("{name}-{hash}-sm_{major}{minor}-nvrtc{nvrtc_major}.{nvrtc_minor}.cubin")
    }
}

fn embedded(name: &str) -> Result<&'static str> {
    let file = FILES.iter().find(|(file, _)| *file == name);
    file.map(|&(_, text)| text)
        .ok_or_else(|| Error::Device(format!("this build was made without the kernels of {name}")))
}

/// Whole or not at all: another process may read it meanwhile.
fn keep(path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().ok_or(std::io::ErrorKind::NotFound)?;
    std::fs::create_dir_all(folder)?;
    let part = path.with_extension(format!("part-{}", std::process::id()));
    std::fs::write(&part, cubin)?;
    std::fs::rename(part, path)
}
