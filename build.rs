//! Embeds the GPU kernels' sources, cuda/*.cu, and, where FERRULE_CUBINS names the folder that cuda/cubins.py has
//! made, what they were compiled to. Other GPUs have them compiled at their first start.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let folder = variable("CARGO_MANIFEST_DIR").expect("Cargo sets it").join("cuda");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-env-changed=FERRULE_CUBINS");
    let out = variable("OUT_DIR").expect("Cargo sets it");
    let files = files(&folder, &["cu", "cuh"])?;
    std::fs::write(out.join("cuda_sources.rs"), sources(&files))?;
    let cubins = match variable("FERRULE_CUBINS") {
        Some(made) => cubins(&made, &files)?,
        None => "(0, &[])".into(),
    };
    std::fs::write(out.join("cuda_cubins.rs"), cubins)
}

fn files(folder: &Path, endings: &[&str]) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().and_then(|end| end.to_str()).is_some_and(|end| endings.contains(&end)));
    files.sort();
    Ok(files)
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("kernels have plain names")
}

/// A slice of names and texts.
fn sources(files: &[PathBuf]) -> String {
    let mut table = String::from("&[\n");
    for file in files {
        writeln!(table, "({:?}, include_str!({file:?})),", name(file)).expect("strings grow");
    }
    table + "]"
}

/// The major version of the compiler, and a slice of names, compute capabilities and cubins. Panics where they were made
/// of other sources.
fn cubins(made: &Path, sources: &[PathBuf]) -> std::io::Result<String> {
    println!("cargo::rerun-if-changed={}", made.display());
    let note = std::fs::read_to_string(made.join("made"))?;
    let mut lines = note.lines().filter_map(|line| line.split_once(' '));
    let (_, version) = lines.next().expect("the note begins with the compiler");
    let hashes: HashMap<&str, &str> = lines.collect();
    let header = std::fs::read_to_string(sources.iter().find(|file| name(file) == "simt.cuh").expect("it is there"))?;
    for source in sources.iter().filter(|file| name(file) != "simt.cuh") {
        let text = header.clone() + &std::fs::read_to_string(source)?;
        let stem = name(source).trim_end_matches(".cu");
        let hash = format!("{:016x}", fnv1a(text.as_bytes()));
        assert_eq!(hashes.get(stem), Some(&hash.as_str()), "cubins of {stem} are of another source: run make cuda");
    }
    let mut table = format!("({}, &[\n", version.split(' ').next().unwrap_or("0"));
    for file in files(made, &["cubin"])? {
        let (stem, capability) = name(&file).trim_end_matches(".cubin").split_once(".sm_").expect("NAME.sm_XX.cubin");
        let (major, minor) = capability.split_at(capability.len() - 1);
        writeln!(table, "({stem:?}, ({major}, {minor}), include_bytes!({file:?})),").expect("strings grow");
    }
    Ok(table + "])")
}

/// 64 bits; cuda/cubins.py has the same.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf29ce484222325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3))
}
