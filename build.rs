//! Embeds the GPU kernels' sources, cuda/*.cu, which are compiled where the GPU is.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets it"));
    let folder = root.join("cuda");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| matches!(file.extension().and_then(|end| end.to_str()), Some("cu" | "cuh")));
    files.sort();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets it")).join("cuda_sources.rs");
    std::fs::write(out, table(&files))
}

/// A slice of names and texts.
fn table(files: &[PathBuf]) -> String {
    let mut table = String::from("&[\n");
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("kernels have plain names");
        writeln!(table, "({name:?}, include_str!({:?})),", Path::new(file)).expect("strings grow");
    }
    table + "]"
}
