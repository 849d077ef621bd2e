//! Compiled kernels: embedded by `make cuda`, from disk, or compiled from the sources that are embedded here.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::launch::{SOURCES, Source};
use super::nvrtc::Nvrtc;
use crate::error::{Error, Result};

/// Names and texts of cuda/*.cu and the header that they include.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cuda_sources.rs"));
const HEADER: &str = "simt.cuh";
/// A file of kernels, a compute capability, and what the file was compiled to for that.
type Cubin<'a> = (&'a str, (u32, u32), &'a [u8]);
/// The compiler's major version, and what was compiled with this build.
const CUBINS: (u32, &[Cubin<'static>]) = include!(concat!(env!("OUT_DIR"), "/cuda_cubins.rs"));

/// Finds or makes cubins for one kind of GPU.
pub struct Images {
    capability: (u32, u32),
    /// Of the CUDA version that the driver knows.
    driver_major: u32,
    /// Opened when the first kernel has to be compiled.
    nvrtc: OnceCell<Nvrtc>,
    /// Where cubins are kept for the next start. None: they are compiled at every start.
    folder: Option<PathBuf>,
}

impl Images {
    pub fn new(capability: (u32, u32), driver_major: u32, folder: Option<PathBuf>) -> Self {
        Self { capability, driver_major, nvrtc: OnceCell::new(), folder }
    }

    /// The cubin of a source.
    pub fn get(&self, source: &Source) -> Result<Vec<u8>> {
        match best(CUBINS.1, source.name, self.capability).filter(|_| CUBINS.0 <= self.driver_major) {
            Some(cubin) => Ok(cubin.to_vec()),
            None => self.compiled(source),
        }
    }

    fn compiled(&self, source: &Source) -> Result<Vec<u8>> {
        let nvrtc = match self.nvrtc.get() {
            Some(nvrtc) => nvrtc,
            None => {
                let found = Nvrtc::find(self.driver_major)?;
                self.nvrtc.get_or_init(|| found)
            }
        };
        let text = embedded(&format!("{}.cu", source.name))?;
        let header = embedded(HEADER)?;
        let kept = self.folder.as_ref().map(|folder| folder.join(self.file_name(nvrtc, source.name, header, text)));
        if let Some(cubin) = kept.as_ref().and_then(|path| std::fs::read(path).ok()) {
            return Ok(cubin);
        }
        let cubin = nvrtc.compile(source.name, text, &[(HEADER, header)], self.capability)?;
        if let Some(error) = kept.and_then(|path| keep(&path, &cubin).err()) {
            tracing::debug!("compiled kernels are not kept: {error}");
        }
        Ok(cubin)
    }

    /// Differs wherever the cubin may: in its source, its GPU and its compiler.
    fn file_name(&self, nvrtc: &Nvrtc, name: &str, header: &str, text: &str) -> String {
        let hash = Sha256::new().chain_update(header).chain_update([0]).chain_update(text).finalize();
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let ((major, minor), (nvrtc_major, nvrtc_minor)) = (self.capability, nvrtc.version());
        format!("{name}-{hash}-sm_{major}{minor}-nvrtc{nvrtc_major}.{nvrtc_minor}.cubin")
    }
}

/// The files of kernels that models use, with their texts and the header that all of them include.
pub fn sources() -> Vec<(&'static Source, &'static str, &'static str)> {
    let text = |name: &str| embedded(name).unwrap_or_default();
    SOURCES.iter().map(|source| (source, text(&format!("{}.cu", source.name)), text(HEADER))).collect()
}

/// The cubin of `name` that a GPU runs: of its own major capability, and of the highest minor one that it has.
fn best<'a>(cubins: &[Cubin<'a>], name: &str, (major, minor): (u32, u32)) -> Option<&'a [u8]> {
    let suitable = cubins.iter().filter(|(of, made, _)| *of == name && made.0 == major && made.1 <= minor);
    suitable.max_by_key(|(_, made, _)| made.1).map(|&(.., cubin)| cubin)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_runs_code_of_its_own_major_capability_and_of_no_later_minor_one() {
        let cubins: [Cubin<'_>; 5] = [
            ("a", (8, 0), &[80]),
            ("a", (8, 9), &[89]),
            ("a", (8, 6), &[86]),
            ("b", (8, 7), &[0]),
            ("a", (12, 0), &[120]),
        ];
        for (capability, found) in [((8, 0), 80), ((8, 7), 86), ((8, 9), 89), ((12, 1), 120)] {
            assert_eq!(best(&cubins, "a", capability), Some(&[found][..]), "{capability:?}");
        }
        assert_eq!(best(&cubins, "a", (9, 0)), None);
    }

    #[test]
    fn every_file_of_kernels_is_embedded() {
        for source in SOURCES {
            assert!(embedded(&format!("{}.cu", source.name)).is_ok(), "{}", source.name);
        }
        assert!(CUBINS.1.is_empty() || SOURCES.iter().all(|source| best(CUBINS.1, source.name, (9, 0)).is_some()));
    }
}
