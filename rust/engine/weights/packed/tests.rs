use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::checksum::checksum;
use super::*;
use crate::hash::mix;
use crate::kernels::threads::Pool;
use crate::quant::{DType, LAYOUT_VERSION};
use crate::weights::{Checkpoint, TensorView};

/// A model whose tensors nobody asks for.
struct Model {
    path: PathBuf,
}

impl Model {
    fn new(dir: &TempDir, name: &str) -> Self {
        let path = dir.path().join(name);
        fs::write(&path, name).unwrap();
        Self { path }
    }

    fn stamp(&self) -> SourceStamp {
        SourceStamp::of(self, None).unwrap()
    }
}

impl Checkpoint for Model {
    fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self) -> Vec<&Path> {
        vec![&self.path]
    }

    fn tensor_names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn find(&self, _name: &str) -> Option<TensorView<'_>> {
        None
    }

    fn release(&self, _name: &str) {}
}

fn packed(dtype: DType, rows: usize, cols: usize) -> NamedMatrix {
    let len = dtype.num_bytes(&[rows, cols]).unwrap();
    let mut bytes: Vec<u8> = (0..len as u64).map(|i| mix(i) as u8).collect();
    if dtype == DType::I8_ROW {
        for row in bytes.chunks_exact_mut(len / rows) {
            let scale = [row[0], row[1], row[2], row[3]];
            row.chunks_exact_mut(dtype.block_bytes()).for_each(|block| block[..4].copy_from_slice(&scale));
        }
    }
    let view = TensorView { name: "t", dtype, shape: vec![rows, cols], bytes: bytes.as_slice().into() };
    NamedMatrix { name: format!("{dtype} {rows}"), matrix: PackedMatrix::pack(&view, rows, &|row| row).unwrap() }
}

fn every_layout() -> Vec<NamedMatrix> {
    DType::ALL.iter().flat_map(|&dtype| [1, 16, 37].map(|rows| packed(dtype, rows, 512))).collect()
}

fn assert_same(kept: &PackedFile, matrices: &[NamedMatrix]) {
    for NamedMatrix { name, matrix } in matrices {
        let found = kept.matrix(name, matrix.dtype(), matrix.rows(), matrix.cols()).unwrap();
        assert!(found.bytes() == matrix.bytes(), "{name}");
        assert_eq!(found.bytes().as_ptr() as usize % 64, 0, "{name}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_layout_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, pool) = (PackedCache::new(dir.path().join("packed"), u64::MAX), Pool::new(2));
    let stamp = Model::new(&dir, "model").stamp();
    assert!(cache.open(&stamp, &pool).is_none());
    let matrices = every_layout();
    cache.store(&stamp, &matrices);
    let kept = cache.open(&stamp, &pool).unwrap();
    assert_same(&kept, &matrices);
    assert!(kept.matrix("Q4_0 16", DType::Q4_0, 16, 544).is_none());
    assert!(kept.matrix("Q4_0 16", DType::Q4_1, 16, 512).is_none());
    assert!(kept.matrix("none", DType::Q4_0, 16, 512).is_none());
}

/// Packed bytes must not change under a version that files are already kept in.
#[test]
fn the_layout_is_that_of_its_version() {
    let sums: Vec<u64> = DType::ALL.iter().map(|&dtype| checksum(packed(dtype, 37, 512).matrix.bytes())).collect();
    let fold = |sums: &[u64]| sums.iter().fold(0, |sum, &next| mix(sum ^ next));
    let place = |dtype| DType::ALL.iter().position(|&other| other == dtype).unwrap();
    let (plain, rest) = sums.split_at(place(DType::IQ4_NL));
    let (tables, rest) = rest.split_at(place(DType::I4G32) - plain.len());
    let (grouped, rest) = rest.split_at(place(DType::U8G32) - place(DType::I4G32));
    let (bytes, rest) = rest.split_at(1);
    let (rows, floats) = rest.split_at(1);
    let folds = [plain, grouped, tables, floats, bytes, rows].map(fold);
    assert_eq!(
        (LAYOUT_VERSION, folds),
        (
            2,
            [
                14_226_461_101_887_855_876,
                3_030_467_911_030_672_139,
                925_970_399_991_023_067,
                10_549_251_092_942_688_739,
                17_662_459_195_961_862_547,
                904_697_261_034_206_603,
            ]
        ),
        "raise LAYOUT_VERSION if packing changed on purpose: {sums:?}"
    );
}

#[test]
fn another_state_of_the_source_is_packed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, pool) = (PackedCache::new(dir.path().join("packed"), u64::MAX), Pool::new(1));
    let (old, new) = (vec![packed(DType::Q4_0, 16, 64)], vec![packed(DType::Q8_0, 16, 64)]);
    let model = Model::new(&dir, "model");
    cache.store(&model.stamp(), &old);
    fs::write(&model.path, "MODEL").unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    let (changed, touched) = (model.stamp(), {
        File::options().write(true).open(&model.path).unwrap().set_modified(later).unwrap();
        model.stamp()
    });
    for stamp in [changed, touched] {
        assert!(cache.open(&stamp, &pool).is_none());
        cache.store(&stamp, &new);
        assert_same(&cache.open(&stamp, &pool).unwrap(), &new);
    }
    assert_eq!(names(&dir.path().join("packed")).len(), 1);
}

/// What can happen to a file.
#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Zero(prop::sample::Index),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Flip(at, mask) => {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
            Self::Zero(from) => {
                let from = from.index(bytes.len());
                bytes[from..].fill(0);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Append(more) => bytes.extend(more),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Zero),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        1 => proptest::collection::vec(any::<u8>(), 1..100).prop_map(Damage::Append),
    ]
}

#[test]
fn damage_is_noticed_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("packed");
    let (cache, pool) = (PackedCache::new(folder.clone(), u64::MAX), Pool::new(2));
    let stamp = Model::new(&dir, "model").stamp();
    // More than one checksum's worth.
    let matrices = vec![packed(DType::F32, 1000, 512), packed(DType::Q6_K, 300, 512)];
    cache.store(&stamp, &matrices);
    let path = folder.join(&names(&folder)[0]);
    let whole = fs::read(&path).unwrap();
    proptest!(ProptestConfig::with_cases(60), |(damage in damage())| {
        let mut bytes = whole.clone();
        damage.apply(&mut bytes);
        prop_assume!(bytes != whole);
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        prop_assert!(cache.open(&stamp, &pool).is_none());
        cache.store(&stamp, &matrices);
        prop_assert!(fs::read(&path).unwrap() == whole);
    });
}

#[test]
fn writers_at_once_do_not_disturb_readers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("packed");
    let stamp = Model::new(&dir, "model").stamp();
    let matrices = every_layout();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (cache, pool) = (PackedCache::new(folder.clone(), u64::MAX), Pool::new(1));
                for _ in 0..10 {
                    cache.store(&stamp, &matrices);
                    // Another thread may just have removed it.
                    if let Some(kept) = cache.open(&stamp, &pool) {
                        cache.remove(&dir.path().join("model"));
                        assert_same(&kept, &matrices);
                    }
                }
            });
        }
    });
    assert!(names(&folder).len() <= 1, "{:?}", names(&folder));
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("packed");
    let models = ["a", "b", "c"].map(|name| Model::new(&dir, name));
    let matrices = vec![packed(DType::Q8_0, 160, 512)];
    let room_for_two = matrices[0].matrix.num_bytes() as u64 * 5 / 2;
    let (cache, pool) = (PackedCache::new(folder.clone(), room_for_two), Pool::new(1));
    for (model, age) in models[..2].iter().zip([2000, 1000]) {
        cache.store(&model.stamp(), &matrices);
        let newest = folder.join(names(&folder).into_iter().find(|name| cache_name_of(model, name)).unwrap());
        File::open(newest).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    assert!(cache.open(&models[0].stamp(), &pool).is_some());
    let [old, fresh] = ["x.draft", "y.draft"].map(|name| folder.join(name));
    File::create(&old).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    File::create(&fresh).unwrap();
    cache.store(&models[2].stamp(), &matrices);
    let there = models.each_ref().map(|model| cache.open(&model.stamp(), &pool).is_some());
    assert_eq!(there, [true, false, true]);
    assert!(!old.exists() && fresh.exists());
}

#[test]
fn drafts_of_a_process_that_was_killed_are_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("packed");
    let model = Model::new(&dir, "model");
    let (cache, pool) = (PackedCache::new(folder.clone(), u64::MAX), Pool::new(1));
    let matrices = vec![packed(DType::Q4_1, 64, 512)];
    cache.store(&model.stamp(), &matrices);
    let kept = folder.join(&names(&folder)[0]);
    fs::remove_file(&kept).unwrap();
    for count in 0..1000 {
        File::create(kept.with_extension(format!("{}-{count}.draft", std::process::id()))).unwrap();
    }
    cache.store(&model.stamp(), &matrices);
    assert!(cache.open(&model.stamp(), &pool).is_some());
}

fn cache_name_of(model: &Model, name: &str) -> bool {
    let real = fs::canonicalize(&model.path).unwrap();
    name.starts_with(&format!("{:016x}", checksum(real.to_string_lossy().as_bytes())))
}

#[test]
fn a_model_and_its_bytes_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, pool) = (PackedCache::new(dir.path().join("packed"), u64::MAX), Pool::new(1));
    let models = ["a", "b"].map(|name| Model::new(&dir, name));
    models.iter().for_each(|model| cache.store(&model.stamp(), &[packed(DType::Q4_1, 64, 512)]));
    let [bytes, others] = models.each_ref().map(|model| cache.bytes_of(&model.path));
    assert!(bytes > 64 * 512 / 2 && cache.bytes() == bytes + others);
    assert_eq!(cache.remove(&models[0].path), bytes);
    assert_eq!((cache.bytes_of(&models[0].path), cache.bytes()), (0, others));
    assert!(cache.open(&models[0].stamp(), &pool).is_none() && cache.open(&models[1].stamp(), &pool).is_some());
}

#[test]
fn what_cannot_be_kept_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let stamp = Model::new(&dir, "model").stamp();
    let matrices = every_layout();
    let no_folder = PackedCache::new(dir.path().join("model"), u64::MAX);
    let no_room = PackedCache::new(dir.path().join("packed"), 1000);
    for cache in [no_folder, no_room] {
        cache.store(&stamp, &matrices);
        assert!(cache.open(&stamp, &Pool::new(1)).is_none() && cache.bytes() == 0);
    }
}

#[test]
fn a_pending_file_is_written_when_told_or_at_the_end() {
    for told in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackedCache::new(dir.path().join("packed"), u64::MAX);
        let stamp = Model::new(&dir, "model").stamp();
        let mut write = PendingWrite::new(cache.clone(), stamp.clone(), every_layout());
        assert_eq!(cache.bytes(), 0);
        if told {
            write.start();
            write.start();
        }
        drop(write);
        assert_same(&cache.open(&stamp, &Pool::new(1)).unwrap(), &every_layout());
    }
}
