//! Memory of the device, and host memory that the device reads and writes.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::api::DevicePtr;
use super::{Context, Event, Stream};
use crate::error::Result;

/// Numbers that have the same bits on both sides, and are valid whatever their bits are.
pub trait DeviceNumber: Copy + Default + private::Sealed {}

mod private {
    pub trait Sealed {}
}

macro_rules! device_numbers {
    ($($type:ty),+) => { $(impl private::Sealed for $type {} impl DeviceNumber for $type {})+ };
}

device_numbers!(f32, f16, bf16, i32, u32, u8);

/// Memory on the device, freed when it is dropped (which waits for the work that uses it).
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    context: Arc<Context>,
    address: DevicePtr,
    len: usize,
    _type: PhantomData<T>,
}

/// A part of a [`DeviceBuffer`]. Whether others use it at the same time is a matter of streams and events.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceSlice<'a, T> {
    address: DevicePtr,
    len: usize,
    _life: PhantomData<&'a T>,
}

impl<T> Clone for DeviceSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DeviceSlice<'_, T> {}

impl<T: DeviceNumber> DeviceBuffer<T> {
    /// Without defined contents.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self> {
        context.make_current()?;
        let mut address = 0;
        // SAFETY: the result lives. The driver refuses 0 bytes, which an unused buffer has.
        unsafe { context.api().allocate(&mut address, (len * size_of::<T>()).max(1)) }?;
        Ok(Self { context: context.clone(), address, len, _type: PhantomData })
    }

    pub fn from_slice(context: &Arc<Context>, values: &[T]) -> Result<Self> {
        let buffer = Self::new(context, values.len())?;
        // SAFETY: the buffer is as long as the values, which are read before the call returns.
        unsafe { context.api().copy_to_device(buffer.address, values.as_ptr().cast(), size_of_val(values)) }?;
        Ok(buffer)
    }

    /// Waits for nothing but this copy: what other streams write must be done.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.context.make_current()?;
        let mut values = vec![T::default(); self.len];
        let bytes = size_of_val(&values[..]);
        // SAFETY: the vector is as long as the buffer, and is written before the call returns.
        unsafe { self.context.api().copy_to_host(values.as_mut_ptr().cast(), self.address, bytes) }?;
        Ok(values)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn num_bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    pub fn all(&self) -> DeviceSlice<'_, T> {
        self.slice(0..self.len)
    }

    pub fn slice(&self, range: Range<usize>) -> DeviceSlice<'_, T> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        let address = self.address + (range.start * size_of::<T>()) as DevicePtr;
        DeviceSlice { address, len: range.len(), _life: PhantomData }
    }
}

impl<T> DeviceSlice<'_, T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(in crate::cuda) fn address(&self) -> DevicePtr {
        self.address
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated once and freed here; the driver waits for work that uses it.
        let freed = self.context.make_current().and_then(|()| unsafe { self.context.api().free(self.address) });
        if let Err(error) = freed {
            tracing::debug!("{error}");
        }
    }
}

/// Page-locked host memory, which copies read and write while this thread goes on. Looking at it waits until the last
/// copy that uses it is done.
#[derive(Debug)]
pub struct PinnedBuffer<T> {
    context: Arc<Context>,
    ptr: *mut T,
    len: usize,
    /// After the last copy.
    used: Event,
}

// SAFETY: the memory belongs to this value alone, and copies in flight are waited for.
unsafe impl<T: Send> Send for PinnedBuffer<T> {}

impl<T: DeviceNumber> PinnedBuffer<T> {
    /// Of zeros.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self> {
        let used = Event::new(context)?;
        let mut ptr: *mut c_void = std::ptr::null_mut();
        // SAFETY: the result lives; 0 asks for nothing special.
        unsafe { context.api().allocate_host(&mut ptr, (len * size_of::<T>()).max(1), 0) }?;
        // SAFETY: just allocated with this length; zeros are valid numbers.
        unsafe { ptr.cast::<T>().write_bytes(0, len) };
        Ok(Self { context: context.clone(), ptr: ptr.cast(), len, used })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The contents, once no copy uses them any more.
    pub fn wait(&mut self) -> Result<&mut [T]> {
        self.used.synchronize()?;
        // SAFETY: the allocation of this length; copies are done, and new ones need `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) })
    }

    /// Copies the first `to.len()` numbers to the device, in the stream's order.
    pub fn upload(&mut self, to: DeviceSlice<'_, T>, stream: &Stream) -> Result<()> {
        self.upload_from(0, to, stream)
    }

    /// Copies `to.len()` numbers from `start` on to the device. All copies of a buffer are in one stream, or in order otherwise.
    pub fn upload_from(&mut self, start: usize, to: DeviceSlice<'_, T>, stream: &Stream) -> Result<()> {
        let (from, bytes) = (self.part(start, to.len), to.len * size_of::<T>());
        // SAFETY: both sides have the bytes; the host's side is not written before `used` is reached.
        unsafe { self.context.api().copy_to_device_async(to.address, from.cast(), bytes, stream.handle()) }?;
        self.used.record(stream)
    }

    /// Copies from the device to the first `from.len()` numbers, in the stream's order.
    pub fn download(&mut self, from: DeviceSlice<'_, T>, stream: &Stream) -> Result<()> {
        self.download_to(0, from, stream)
    }

    /// Copies from the device to `from.len()` numbers from `start` on: see `upload_from`.
    pub fn download_to(&mut self, start: usize, from: DeviceSlice<'_, T>, stream: &Stream) -> Result<()> {
        let (to, bytes) = (self.part(start, from.len), from.len * size_of::<T>());
        // SAFETY: both sides have the bytes; the host's side is not looked at before `used` is reached.
        unsafe { self.context.api().copy_to_host_async(to.cast(), from.address, bytes, stream.handle()) }?;
        self.used.record(stream)
    }

    fn part(&self, start: usize, len: usize) -> *mut T {
        assert!(start + len <= self.len, "{start} + {len} of {}", self.len);
        // SAFETY: within the allocation.
        unsafe { self.ptr.add(start) }
    }
}

impl<T> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        let waited = self.context.make_current().and_then(|()| self.used.synchronize());
        // SAFETY: allocated once and freed here, when no copy uses it any more (or the context is broken, and none runs).
        let freed = unsafe { self.context.api().free_host(self.ptr.cast()) };
        if let Err(error) = waited.and(freed) {
            tracing::debug!("{error}");
        }
    }
}
