//! The numbers inside KV blocks.

use std::marker::PhantomData;

use memmap2::{MmapMut, MmapOptions};

use crate::error::{Error, Result};
use crate::ids::{BlockId, EXTENT_BLOCKS};
use crate::kernels::{KvLayer, KvShape};
use crate::kv::KvGeometry;
use crate::sched::BlockCopy;

/// (num_blocks / 16, layers_per_block, extent of 16 blocks): see `KvLayer` for an extent. Pages become real when they are first written.
#[derive(Debug)]
pub struct KvMemory {
    map: MmapMut,
    geometry: KvGeometry,
    shape: KvShape,
    /// By model layer.
    places: Vec<LayerPlace>,
}

/// Where a model layer's cache is.
#[derive(Debug, Clone, Copy)]
pub struct LayerPlace {
    pub group: usize,
    pub slot: usize,
}

impl KvMemory {
    pub fn new(geometry: KvGeometry, shape: KvShape) -> Result<Self> {
        let extents = geometry.num_blocks.div_ceil(EXTENT_BLOCKS);
        let bytes = extents * geometry.layers_per_block * EXTENT_BLOCKS * shape.block_bytes();
        let map = MmapOptions::new().len(bytes).map_anon().map_err(|err| {
            Error::OutOfMemory(format!(
                "the KV cache of {bytes} bytes could not be reserved: {err}; lower kv_cache_memory"
            ))
        })?;
        advise_huge_pages(&map);
        let places = places(&geometry);
        Ok(Self { map, geometry, shape, places })
    }

    /// Clears the pages that the first sequence writes, which its first step would wait for otherwise.
    pub fn prepare(&self) {
        let KvGeometry { layers_per_block, ref groups, .. } = self.geometry;
        let first = groups.len() * layers_per_block * EXTENT_BLOCKS * self.shape.block_bytes();
        populate(&self.map, first.min(self.map.len()));
    }

    pub fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    pub fn place(&self, layer: usize) -> LayerPlace {
        self.places[layer]
    }

    pub fn layer(&self, layer: usize) -> KvLayer<'_> {
        let run = EXTENT_BLOCKS * self.shape.block_bytes();
        KvLayer {
            // Lanes write through this pointer, each its own positions: see `CpuLane`.
            ptr: self.map.as_ptr().wrapping_add(self.places[layer].slot * run).cast_mut(),
            extent_stride: self.geometry.layers_per_block * run,
            num_blocks: self.geometry.num_blocks,
            shape: self.shape,
            _life: PhantomData,
        }
    }

    /// Copies whole blocks, every layer slot of them.
    pub fn copy(&mut self, copies: &[BlockCopy]) {
        let layers = self.geometry.layers_per_block;
        let extent_bytes = EXTENT_BLOCKS * self.shape.block_bytes();
        for copy in copies {
            for slot in 0..layers {
                let extent = |id: BlockId| (id.index() / EXTENT_BLOCKS * layers + slot) * extent_bytes;
                let (src_extent, dst_extent) = (extent(copy.src), extent(copy.dst));
                for (src, dst) in self.shape.pieces(copy.src).zip(self.shape.pieces(copy.dst)) {
                    self.map.copy_within(src_extent + src.start..src_extent + src.end, dst_extent + dst.start);
                }
            }
        }
    }
}

fn places(geometry: &KvGeometry) -> Vec<LayerPlace> {
    let mut places: Vec<(usize, LayerPlace)> = Vec::new();
    for (group, kv_group) in geometry.groups.iter().enumerate() {
        for (slot, &layer) in kv_group.layers.iter().enumerate() {
            places.push((layer, LayerPlace { group, slot }));
        }
    }
    places.sort_by_key(|&(layer, _)| layer);
    places.into_iter().map(|(_, place)| place).collect()
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(map: &MmapMut) {
    // Advice: a system without huge pages serves small ones.
    if let Err(err) = map.advise(memmap2::Advice::HugePage) {
        tracing::debug!("no huge pages for the KV cache: {err}");
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_map: &MmapMut) {}

#[cfg(target_os = "linux")]
fn populate(map: &MmapMut, bytes: usize) {
    // Advice as well: an older system leaves pages to their first use.
    if let Err(err) = map.advise_range(memmap2::Advice::PopulateWrite, 0, bytes) {
        tracing::debug!("the KV cache's first pages are left to their first use: {err}");
    }
}

#[cfg(not(target_os = "linux"))]
fn populate(_map: &MmapMut, _bytes: usize) {}
