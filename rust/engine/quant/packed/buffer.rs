//! Memory for weights: anonymous (zeroed, in huge pages where that helps) or a mapped file; aligned to cache lines.

use std::cell::RefCell;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::weights::MappedFile;

const HUGE_PAGE: usize = 2 << 20;

/// Zeroed anonymous memory. Pages are taken when first written, by the thread that writes.
#[derive(Debug)]
pub struct Buffer {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone; sharing it follows the rules of its accessors.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` bytes, at least one, aligned to pages, and to huge pages from 2 MB on.
    pub fn zeroed(len: usize) -> Result<Self> {
        let len = len.max(1);
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { 1 };
        let start = map(len.checked_add(align - 1).ok_or_else(|| out_of_memory(len))?, len)?;
        let skip = (start as usize).next_multiple_of(align) - start as usize;
        // SAFETY: skip < align, so that `len` bytes follow inside the mapping; what lies around them is given back.
        let ptr = unsafe { start.add(skip) };
        trim(start, skip, align - 1 - skip, len);
        if align == HUGE_PAGE {
            // SAFETY: the range is ours. Advice: a refusal changes nothing but speed.
            unsafe { libc::madvise(ptr.cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Self { ptr, len })
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }
}

/// Where weights lie.
#[derive(Debug, Clone)]
enum Memory {
    Anonymous(Arc<Buffer>),
    /// A packed file: read-only.
    Mapped(Arc<MappedFile>),
}

impl Memory {
    fn zeroed(len: usize) -> Result<Self> {
        Ok(Self::Anonymous(Arc::new(Buffer::zeroed(len)?)))
    }

    fn as_ptr(&self) -> *mut u8 {
        match self {
            Self::Anonymous(buffer) => buffer.as_ptr(),
            Self::Mapped(file) => file.bytes().as_ptr().cast_mut(),
        }
    }
}

/// A part of such memory, aligned to a cache line. The memory lives as long as one of its parts.
#[derive(Debug, Clone)]
pub struct Region {
    memory: Memory,
    start: usize,
    len: usize,
}

impl Region {
    /// A buffer of its own.
    pub fn zeroed(len: usize) -> Result<Self> {
        Ok(Self { memory: Memory::zeroed(len)?, start: 0, len })
    }

    /// `len` bytes of a packed file. None: it does not have them there.
    pub fn mapped(file: &Arc<MappedFile>, start: usize, len: usize) -> Option<Self> {
        let fits = start.is_multiple_of(64) && start.checked_add(len)? <= file.bytes().len();
        fits.then(|| Self { memory: Memory::Mapped(Arc::clone(file)), start, len })
    }

    pub fn is_writable(&self) -> bool {
        matches!(self.memory, Memory::Anonymous(_))
    }

    /// Gives the pages of a file's part back.
    pub fn release(&self) {
        if let Memory::Mapped(file) = &self.memory {
            file.release(&file.bytes()[self.start..self.start + self.len]);
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// To be written through only if `is_writable`.
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: start + len lies inside the memory.
        unsafe { self.memory.as_ptr().add(self.start) }
    }
}

/// Memory for a model's matrices. Small ones share large buffers, since only those come in huge pages:
/// matrices of less than 2 MB in small pages are read at 4/5 of the speed.
#[derive(Debug, Default)]
pub struct WeightArena {
    /// The buffer that is being filled, and how far.
    open: RefCell<Option<(Memory, usize)>>,
}

impl WeightArena {
    /// Untouched memory costs nothing, so that a large buffer's unused end does not matter.
    const BUFFER_LEN: usize = 16 * HUGE_PAGE;

    pub(super) fn take(&self, len: usize) -> Result<Region> {
        if len > Self::BUFFER_LEN / 4 {
            return Region::zeroed(len);
        }
        let mut open = self.open.borrow_mut();
        let (memory, start) = match open.take().filter(|(_, used)| used + len <= Self::BUFFER_LEN) {
            Some(open) => open,
            None => (Memory::zeroed(Self::BUFFER_LEN)?, 0),
        };
        *open = Some((memory.clone(), (start + len).next_multiple_of(64)));
        Ok(Region { memory, start, len })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the range was mapped in `zeroed` and nobody borrows it any more.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

fn out_of_memory(len: usize) -> Error {
    Error::OutOfMemory(format!("no memory for {len} bytes of weights: use a smaller or more strongly quantized model"))
}

fn map(map_len: usize, len: usize) -> Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address that the system chooses.
    let ptr = unsafe { libc::mmap(std::ptr::null_mut(), map_len, protection, flags, -1, 0) };
    if ptr == libc::MAP_FAILED { Err(out_of_memory(len)) } else { Ok(ptr.cast()) }
}

/// Gives whole pages before and after the aligned range back.
fn trim(start: *mut u8, before: usize, after: usize, len: usize) {
    if before > 0 {
        // SAFETY: `before` whole pages at the mapping's start, below the range that is kept.
        unsafe { libc::munmap(start.cast(), before) };
    }
    let page = 4096;
    let end = (start as usize + before + len).next_multiple_of(page);
    let after_end = (start as usize + before + len + after).next_multiple_of(page);
    if after_end > end {
        // SAFETY: whole pages past the range that is kept, inside the mapping.
        unsafe { libc::munmap(end as *mut libc::c_void, after_end - end) };
    }
}

/// Asks memory for the cache lines that `bytes` from `p` on begin in, to come close to this core. Any address will do.
pub(crate) fn fetch(p: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch touches no memory that the program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_writable_to_its_end() {
        for len in [0, 1, 4096, 5000, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 77] {
            let buffer = Buffer::zeroed(len).unwrap();
            let align = if len >= HUGE_PAGE { HUGE_PAGE } else { 4096 };
            assert_eq!(buffer.as_ptr() as usize % align, 0);
            // SAFETY: the buffer is not shared.
            let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.as_ptr(), len) };
            assert!(bytes.iter().all(|&b| b == 0));
            bytes.fill(7);
        }
    }

    #[test]
    fn an_arena_hands_out_parts_that_do_not_overlap() {
        let arena = WeightArena::default();
        let lens = [1, 100, 5 << 20, 64, 8 << 20, 20 << 20, 7 << 20, 7 << 20, 7 << 20, 0, 3];
        let regions: Vec<Region> = lens.iter().map(|&len| arena.take(len).unwrap()).collect();
        drop(arena);
        for (i, region) in regions.iter().enumerate() {
            assert_eq!(region.as_ptr() as usize % 64, 0);
            // SAFETY: no other region has these bytes: the second loop would see it.
            unsafe { std::slice::from_raw_parts_mut(region.as_ptr(), region.len()) }.fill(i as u8 + 1);
        }
        for (i, region) in regions.iter().enumerate() {
            // SAFETY: nobody writes any more.
            let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), region.len()) };
            assert!(bytes.len() == lens[i] && bytes.iter().all(|&b| b == i as u8 + 1), "region {i}");
        }
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        assert!(matches!(Buffer::zeroed(usize::MAX / 4), Err(Error::OutOfMemory(_))));
        assert!(matches!(Buffer::zeroed(usize::MAX), Err(Error::OutOfMemory(_))));
    }
}
