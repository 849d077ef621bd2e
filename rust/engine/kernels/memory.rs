//! Memory that begins on a cache line, so that no register's load or store straddles two: each of them would be two.

use std::cell::UnsafeCell;

const LINE: usize = 64;

/// Zeroed numbers that lanes write through a shared reference, each its own part. They begin on a line if a whole number of them lies
/// before one.
#[derive(Debug)]
pub struct Cells<T> {
    data: Box<[UnsafeCell<T>]>,
    /// Where the first line begins in it.
    start: *mut T,
}

// SAFETY: the pointer is into memory of its own; access goes through it, and its users keep lanes apart.
unsafe impl<T: Send> Sync for Cells<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Cells<T> {}

impl<T> Default for Cells<T> {
    fn default() -> Self {
        Self { data: Box::default(), start: std::ptr::dangling_mut() }
    }
}

impl<T: Clone + Default> Cells<T> {
    /// Pages are taken when first written, where the system hands out zeroed ones.
    pub fn zeroed(len: usize) -> Self {
        let numbers = Box::into_raw(vec![T::default(); len + LINE / size_of::<T>()].into_boxed_slice());
        // SAFETY: UnsafeCell<T> has the layout of T, and the box was just given up.
        let data = unsafe { Box::from_raw(numbers as *mut [UnsafeCell<T>]) };
        let first = data.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        let start = UnsafeCell::raw_get(data[first..].as_ptr());
        Self { data, start }
    }

    /// Makes room for `len` numbers, which are unspecified then.
    pub fn reserve(&mut self, len: usize) {
        if len > self.len() {
            *self = Self::zeroed(len);
        }
    }
}

impl<T> Cells<T> {
    pub fn len(&self) -> usize {
        self.data.len().saturating_sub(LINE / size_of::<T>())
    }

    pub fn ptr(&self) -> *mut T {
        self.start
    }

    /// Where a number is, or the end.
    #[inline]
    pub fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len(), "{index} of {}", self.len());
        self.start.wrapping_add(index)
    }
}

/// `len` numbers of `scratch`, which grows if it must. What is in them is unspecified.
pub fn on_lines(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    const EXCESS: usize = LINE / size_of::<f32>();
    if scratch.len() < len + EXCESS {
        scratch.resize(len + EXCESS, 0.0);
    }
    let first = scratch.as_ptr().align_offset(LINE).min(EXCESS);
    &mut scratch[first..first + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_on_a_line_and_are_zero() {
        for len in [0, 1, 15, 16, 17, 5000] {
            let cells = Cells::<f32>::zeroed(len);
            assert_eq!((cells.len(), cells.ptr() as usize % LINE), (len, 0));
            // SAFETY: nobody else has the cells.
            assert!((0..len).all(|i| unsafe { *cells.at(i) } == 0.0));
            let mut bytes = Cells::<i8>::default();
            bytes.reserve(len + 1);
            assert_eq!((bytes.len(), bytes.ptr() as usize % LINE), (len + 1, 0));
            bytes.reserve(len);
            assert_eq!(bytes.len(), len + 1);
        }
    }

    #[test]
    fn scratch_memory_grows_and_stays() {
        let mut scratch = Vec::new();
        for len in [100, 5, 3000] {
            let part = on_lines(&mut scratch, len);
            assert_eq!((part.len(), part.as_ptr() as usize % LINE), (len, 0));
        }
        let before = scratch.as_ptr();
        on_lines(&mut scratch, 10);
        assert_eq!(scratch.as_ptr(), before);
    }
}
