//! Files inside a wheel, which is a zip archive. Nothing in it is ever run.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::choose::Offer;
use crate::error::{Error, Result};
use crate::partial::Partial;
use crate::progress::Progress;

#[derive(Debug)]
pub struct Wheel {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl Wheel {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|err| Error::io(path, err))?;
        let archive = ZipArchive::new(BufReader::new(file));
        let archive = archive.map_err(|err| Error::Wheel { path: path.into(), why: format!("not a wheel: {err}") })?;
        Ok(Self { path: path.into(), archive })
    }

    pub fn offers(&mut self) -> Result<Vec<Offer>> {
        (0..self.archive.len())
            .map(|i| match self.archive.by_index(i) {
                Ok(file) => Ok(Offer { path: file.name().into(), bytes: file.size(), sha256: None }),
                Err(err) => Err(Error::Wheel { path: self.path.clone(), why: err.to_string() }),
            })
            .collect()
    }

    /// What the package's metadata says of its licence.
    pub fn license(&mut self) -> Option<String> {
        let name = self.archive.file_names().find(|name| name.ends_with(".dist-info/METADATA"))?.to_owned();
        let mut text = Vec::new();
        self.archive.by_name(&name).ok()?.take(1 << 20).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        let field = |line: &str| {
            let value = line.strip_prefix("License-Expression:").or_else(|| line.strip_prefix("License:"))?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        text.lines().take_while(|line| !line.is_empty()).find_map(field)
    }

    /// Appends a member to `partial`; its CRC is checked on the way.
    pub fn extract(&mut self, member: &str, partial: &mut Partial, progress: &mut dyn Progress) -> Result<()> {
        let bad = |why: String| Error::Wheel { path: self.path.clone(), why };
        let mut file = self.archive.by_name(member).map_err(|err| bad(format!("{member}: {err}")))?;
        partial.append(&mut file, progress)?.map_err(|err| bad(format!("{member}: {err}")))
    }
}
