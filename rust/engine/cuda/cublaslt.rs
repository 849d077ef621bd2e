//! cuBLASLt, NVIDIA's library of matrix products, opened where `cublaslt` is set.
//!
//! It takes another algorithm for another number of rows, and so another order of sums: what a request is answered then
//! depends on how many tokens of others its prompt was computed with. That is why it is not the default.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;

use half::bf16;

use super::driver::{Context, DeviceBuffer, DeviceSlice, Library, Stream, function, places};
use super::launch::GemmOutput;
use crate::error::{Error, Result};

/// From this many rows on it makes products: with fewer, the time is that of reading weights.
pub const LEAST_ROWS: usize = 128;
/// Most bytes that its algorithms may use beside a product's matrices.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// What its algorithms take for granted of matrices' addresses, unless they are told otherwise.
const ALIGNMENT: u64 = 256;

/// Where a library of some major version may lie: for the system's loader, and from site-packages on as NVIDIA's wheels
/// have it.
const LIBRARIES: [(u32, &str, &str); 2] =
    [(13, "libcublasLt.so.13", "nvidia/cu13/lib"), (12, "libcublasLt.so.12", "nvidia/cublas/lib")];
/// The oldest version whose structs these are, as cublasLtGetVersion tells it.
const LEAST_VERSION: usize = 120_000;

// Values of cublasLt.h and library_types.h.
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const OP_T: i32 = 1;
const DESC_TRANSA: c_int = 3;
const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
const SUCCESS: Status = 0;
const NOT_SUPPORTED: Status = 15;

type Status = c_int;
/// A library handle, descriptor, layout, preference or stream.
type Handle = *mut c_void;

/// cublasLtMatmulAlgo_t
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Algorithm([u64; 8]);

/// cublasLtMatmulHeuristicResult_t
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct HeuristicResult {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

const _: () = assert!(size_of::<HeuristicResult>() == 96);

/// A table of functions, found by name.
macro_rules! api {
    ($($method:ident = $symbol:ident($($type:ty),*) -> $result:ty;)+) => {
        #[derive(Debug)]
        struct Api {
            $($method: unsafe extern "C" fn($($type),*) -> $result,)+
        }

        impl Api {
            /// The table, or the name of a function that the library lacks.
            fn find(library: &Library) -> Result<Self, &'static str> {
                let symbol = |name: &'static str| library.symbol(name).ok_or(name);
                $(let $method = symbol(stringify!($symbol))?;)+
                // SAFETY: these are the functions' types in cublasLt.h, and none is null.
                Ok(unsafe { Self { $($method: function($method),)+ } })
            }
        }
    };
}

api! {
    version = cublasLtGetVersion() -> usize;
    status_string = cublasLtGetStatusString(Status) -> *const c_char;
    create = cublasLtCreate(*mut Handle) -> Status;
    destroy = cublasLtDestroy(Handle) -> Status;
    operation_create = cublasLtMatmulDescCreate(*mut Handle, c_int, c_int) -> Status;
    operation_destroy = cublasLtMatmulDescDestroy(Handle) -> Status;
    operation_set = cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize) -> Status;
    layout_create = cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64) -> Status;
    layout_destroy = cublasLtMatrixLayoutDestroy(Handle) -> Status;
    preference_create = cublasLtMatmulPreferenceCreate(*mut Handle) -> Status;
    preference_destroy = cublasLtMatmulPreferenceDestroy(Handle) -> Status;
    preference_set = cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize) -> Status;
    // Operation, layouts of A, B, C and D, preference, how many are wanted, results, how many there are.
    heuristic = cublasLtMatmulAlgoGetHeuristic(
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut HeuristicResult, *mut c_int
    ) -> Status;
    // Operation, alpha, A, B, beta, C, D, each matrix with its layout; algorithm, workspace, stream.
    multiply = cublasLtMatmul(
        Handle, Handle, *const f32, u64, Handle, u64, Handle, *const f32, u64, Handle, u64, Handle,
        *const Algorithm, u64, usize, Handle
    ) -> Status;
}

/// out = x · weightᵀ
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// (m, k)
    pub x: DeviceSlice<'a, bf16>,
    /// (n, k)
    pub weight: DeviceSlice<'a, bf16>,
    /// (m, n)
    pub out: GemmOutput<'a>,
    pub n: usize,
    pub k: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    is_f32: bool,
}

/// How products of a shape are made.
#[derive(Debug)]
struct Plan {
    /// Layouts of the weight, x and out.
    layouts: [Handle; 3],
    algorithm: Algorithm,
}

/// The library on a device, for one stream at a time: all products use one workspace.
#[derive(Debug)]
pub struct CublasLt {
    api: Api,
    handle: Handle,
    /// The first factor is transposed.
    operation: Handle,
    preference: Handle,
    workspace: DeviceBuffer<u8>,
    /// None: the library has no algorithm for the shape.
    plans: RefCell<HashMap<Shape, Option<Plan>>>,
}

// SAFETY: the library may be called from any thread, by one at a time.
unsafe impl Send for CublasLt {}

impl CublasLt {
    /// The newest library for a driver of CUDA `most_major`.
    pub fn find(context: &Arc<Context>, most_major: u32) -> Result<Self> {
        let suitable = LIBRARIES.iter().filter(|&&(major, ..)| major <= most_major);
        let mut paths = suitable.flat_map(|&(_, name, wheel)| places(name, wheel));
        let found = paths.find(|path| Library::open(path).is_ok()).ok_or_else(|| {
            Error::Device(format!(
                "cublaslt is set, and cuBLASLt for CUDA {most_major} or earlier was not found: pip install nvidia-cublas \
                 (CUDA 13) or nvidia-cublas-cu12, or install the CUDA toolkit"
            ))
        })?;
        Self::open(context, &found)
    }

    /// The library in a file, which needs the context's device.
    pub fn open(context: &Arc<Context>, path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::Device(format!("cublaslt is set, and {} {reason}", path.display()));
        let library = Library::open(path).map_err(|reason| failed(format!("cannot be opened ({reason})")))?;
        let too_old = |what: String| failed(format!("is too old: {what}; cuBLASLt 12.0 or later is needed"));
        let api = Api::find(&library).map_err(|missing| too_old(format!("it lacks {missing}")))?;
        // SAFETY: it takes nothing.
        let version = unsafe { (api.version)() };
        if version < LEAST_VERSION {
            return Err(too_old(format!("it is version {}.{}", version / 10_000, version / 100 % 100)));
        }
        context.make_current()?;
        let null = std::ptr::null_mut();
        let mut opened = Self {
            api,
            handle: null,
            operation: null,
            preference: null,
            workspace: DeviceBuffer::new(context, WORKSPACE_BYTES)?,
            plans: RefCell::default(),
        };
        opened.create()?;
        Ok(opened)
    }

    fn create(&mut self) -> Result<()> {
        // SAFETY: the results live.
        let created = unsafe { (self.api.create)(&mut self.handle) };
        self.check("cublasLtCreate", created)?;
        // SAFETY: as above.
        let created = unsafe { (self.api.operation_create)(&mut self.operation, COMPUTE_32F, R_32F) };
        self.check("cublasLtMatmulDescCreate", created)?;
        // SAFETY: as above.
        let created = unsafe { (self.api.preference_create)(&mut self.preference) };
        self.check("cublasLtMatmulPreferenceCreate", created)?;
        let (transposed, workspace) = (OP_T, WORKSPACE_BYTES as u64);
        // SAFETY: made above; the value lives and has the attribute's size.
        let set = unsafe { (self.api.operation_set)(self.operation, DESC_TRANSA, (&raw const transposed).cast(), 4) };
        self.check("cublasLtMatmulDescSetAttribute", set)?;
        let value = (&raw const workspace).cast();
        // SAFETY: as above.
        let set = unsafe { (self.api.preference_set)(self.preference, PREF_MAX_WORKSPACE_BYTES, value, 8) };
        self.check("cublasLtMatmulPreferenceSetAttribute", set)
    }

    /// Puts a product in the stream, whose context is current. False: the library has no algorithm for its shape.
    ///
    /// Row-major matrices are column-major ones transposed: the library computes outᵀ (n, m) = weight (k, n)ᵀ · x (k, m).
    pub fn multiply(&self, product: &Product<'_>, stream: &Stream) -> Result<bool> {
        let &Product { x, weight, out, n, k } = product;
        let m = x.len() / k;
        assert_eq!((x.len(), weight.len(), out.len()), (m * k, n * k, m * n));
        let shape = Shape { m, n, k, is_f32: matches!(out, GemmOutput::F32(_)) };
        let mut plans = self.plans.borrow_mut();
        let plan = match plans.entry(shape) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(self.plan(shape)?),
        };
        let Some(Plan { layouts: [weight_layout, x_layout, out_layout], algorithm }) = plan else { return Ok(false) };
        let (alpha, beta, workspace) = (1.0_f32, 0.0_f32, self.workspace.all().address());
        let addresses = [weight.address(), x.address(), out.address(), workspace];
        assert!(addresses.iter().all(|address| address.is_multiple_of(ALIGNMENT)), "{addresses:x?} are not aligned");
        // SAFETY: handles are alive; the matrices have the layouts' shapes, asserted above, and outlive the work, since
        // freeing waits; beta is 0, so the result is not read.
        let status = unsafe {
            (self.api.multiply)(
                self.handle,
                self.operation,
                &alpha,
                weight.address(),
                *weight_layout,
                x.address(),
                *x_layout,
                &beta,
                out.address(),
                *out_layout,
                out.address(),
                *out_layout,
                algorithm,
                workspace,
                WORKSPACE_BYTES,
                stream.handle(),
            )
        };
        self.check("cublasLtMatmul", status).map(|()| true)
    }

    fn plan(&self, shape: Shape) -> Result<Option<Plan>> {
        let Shape { m, n, k, is_f32 } = shape;
        let sizes = [(R_16BF, k, n), (R_16BF, k, m), (if is_f32 { R_32F } else { R_16BF }, n, m)];
        let mut layouts = [std::ptr::null_mut(); 3];
        for (layout, (dtype, rows, cols)) in layouts.iter_mut().zip(sizes) {
            // SAFETY: the result lives. Columns follow each other without a gap.
            let created = unsafe { (self.api.layout_create)(layout, dtype, rows as u64, cols as u64, rows as i64) };
            self.check("cublasLtMatrixLayoutCreate", created)?;
        }
        let algorithm = self.algorithm(layouts)?;
        if algorithm.is_none() {
            tracing::warn!(
                "cuBLASLt has no algorithm for a product of ({m}, {k}) and ({n}, {k}): Ferrule's kernels make it"
            );
            self.destroy_layouts(layouts);
        }
        Ok(algorithm.map(|algorithm| Plan { layouts, algorithm }))
    }

    /// The first of those that the library takes for the fastest.
    fn algorithm(&self, [weight, x, out]: [Handle; 3]) -> Result<Option<Algorithm>> {
        let (mut result, mut count) = (MaybeUninit::<HeuristicResult>::uninit(), 0);
        // SAFETY: handles are alive, and there is room for one result.
        let status = unsafe {
            (self.api.heuristic)(
                self.handle,
                self.operation,
                weight,
                x,
                out,
                out,
                self.preference,
                1,
                result.as_mut_ptr(),
                &mut count,
            )
        };
        if status == NOT_SUPPORTED || (status == SUCCESS && count == 0) {
            return Ok(None);
        }
        self.check("cublasLtMatmulAlgoGetHeuristic", status)?;
        // SAFETY: the library wrote one result.
        let HeuristicResult { algorithm, workspace_bytes, state, .. } = unsafe { result.assume_init() };
        assert!(
            workspace_bytes <= WORKSPACE_BYTES,
            "{workspace_bytes} bytes are wanted, and {WORKSPACE_BYTES} were granted"
        );
        Ok((state == SUCCESS).then_some(algorithm))
    }

    fn destroy_layouts(&self, layouts: [Handle; 3]) {
        for layout in layouts {
            // SAFETY: made by this library, and not used any more.
            unsafe { (self.api.layout_destroy)(layout) };
        }
    }

    fn check(&self, what: &str, status: Status) -> Result<()> {
        if status == SUCCESS {
            return Ok(());
        }
        // SAFETY: the library's strings end with a zero and live as long as it.
        let text = unsafe { CStr::from_ptr((self.api.status_string)(status)) }.to_string_lossy();
        Err(Error::Device(format!("{what}: {text} ({status})")))
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        for plan in std::mem::take(self.plans.get_mut()).into_values().flatten() {
            self.destroy_layouts(plan.layouts);
        }
        let (api, null) = (&self.api, std::ptr::null_mut());
        let made = [
            (self.preference, api.preference_destroy),
            (self.operation, api.operation_destroy),
            (self.handle, api.destroy),
        ];
        for (handle, destroy) in made.into_iter().filter(|&(handle, _)| handle != null) {
            // SAFETY: made by this library, and not used any more.
            unsafe { destroy(handle) };
        }
    }
}
