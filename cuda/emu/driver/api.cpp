// The CUDA driver API, as far as Ferrule calls it, over the emulated device.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "stream.h"

using namespace emu;

namespace {
constexpr int STREAM_CAPTURE_UNSUPPORTED = 900, STREAM_CAPTURE_INVALIDATED = 901, INVALID_HANDLE = 400;
constexpr int INVALID_DEVICE = 101;
constexpr size_t DEVICE_BYTES = 8ull << 30;

std::recursive_mutex mutex;
std::map<const uint8_t*, size_t> pinned;

bool is_pinned(const void* p) {
    auto after = pinned.upper_bound(static_cast<const uint8_t*>(p));
    if (after == pinned.begin()) return false;
    --after;
    return p < after->first + after->second;
}

// What may not happen while a stream records: the recording is lost, as on a device.
int refuse_in_capture(Stream& stream) {
    if (!stream.capture) return SUCCESS;
    stream.capture_broken = true;
    return STREAM_CAPTURE_UNSUPPORTED;
}

int finish(Stream& stream) {
    if (const int refused = refuse_in_capture(stream)) return refused;
    return drain(stream, stream.issued);
}

int finish_all() { return any_capture() ? STREAM_CAPTURE_UNSUPPORTED : drain_all(); }

Work copy_work(void* dst, const void* src, size_t bytes) {
    Work work{Work::Copy};
    work.dst = dst, work.src = src, work.bytes = bytes;
    return work;
}

// Does a copy that the stream has still to do read these bytes?
bool reads(const Stream& stream, const void* at, size_t bytes) {
    const char* begin = static_cast<const char*>(at);
    for (const Work& work : stream.queue) {
        const char* from = static_cast<const char*>(work.src);
        if (work.kind == Work::Copy && from < begin + bytes && begin < from + work.bytes) return true;
    }
    return false;
}

// Pageable memory is copied at once, behind all that the stream has to do.
int copy_now(Stream& stream, void* dst, const void* src, size_t bytes) {
    if (const int code = finish(stream)) return code;
    copy(dst, src, bytes);
    return SUCCESS;
}

struct Device {
    static int attribute(int which) {
        switch (which) {
            case 1: return MAX_THREADS;            // threads per block
            case 8: return DEFAULT_SHARED_BYTES;   // shared memory per block
            case 10: return 32;                    // warp size
            case 16: return 16;                    // multiprocessors
            case 75: return 8;                     // compute capability 8.9
            case 76: return 9;
            case 97: return MAX_SHARED_BYTES;      // shared memory per block on demand
            default: return 0;
        }
    }
};
}  // namespace

#define LOCK std::lock_guard<std::recursive_mutex> lock_(mutex)
#define STREAM(name, handle)                   \
    const StreamRef name = find_stream(handle); \
    if (!name) return INVALID_HANDLE

extern "C" {
int cuInit(unsigned) { return init_heap(), SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal ? INVALID_DEVICE : SUCCESS; }
int cuDeviceGetName(char* name, int len, int) { return snprintf(name, len, "Emulated GPU"), SUCCESS; }
int cuDeviceGetAttribute(int* value, int which, int) { return *value = Device::attribute(which), SUCCESS; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = DEVICE_BYTES, SUCCESS; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &pinned, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void*) { return SUCCESS; }
int cuCtxGetCurrent(void** context) { return *context = &pinned, SUCCESS; }
int cuCtxSynchronize() {
    LOCK;
    return finish_all();
}
int cuGetErrorName(int code, const char** name) { return *name = code ? "CUDA_ERROR" : "CUDA_SUCCESS", SUCCESS; }
int cuGetErrorString(int code, const char** text) {
    *text = code == ILLEGAL_ADDRESS ? report.c_str()
          : code == STREAM_CAPTURE_UNSUPPORTED ? "not permitted while a stream records"
                                               : "refused by the emulated GPU";
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = *total = DEVICE_BYTES, SUCCESS; }
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    LOCK;
    if (!bytes) return INVALID_VALUE;
    *address = reinterpret_cast<uint64_t>(allocate(bytes));
    return *address ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFree_v2(uint64_t address) {
    LOCK;
    if (const int code = finish_all()) return code;
    return release(reinterpret_cast<void*>(address)) ? SUCCESS : INVALID_VALUE;
}
int cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    LOCK;
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    pinned[static_cast<uint8_t*>(*p)] = bytes;
    pin(*p, bytes);
    return SUCCESS;
}
int cuMemFreeHost(void* p) {
    LOCK;
    const int code = finish_all();
    pinned.erase(static_cast<uint8_t*>(p));
    unpin(p);
    return free(p), code;
}
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
    LOCK;
    if (const int code = finish_all()) return code;
    return copy(reinterpret_cast<void*>(to), from, bytes), SUCCESS;
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    LOCK;
    if (const int code = finish_all()) return code;
    return copy(to, reinterpret_cast<void*>(from), bytes), SUCCESS;
}
// Pinned memory is read when the copy runs, which may be late.
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* handle) {
    LOCK;
    STREAM(stream, handle);
    void* dst = reinterpret_cast<void*>(to);
    return is_pinned(from) ? enqueue(*stream, copy_work(dst, from, bytes)) : copy_now(*stream, dst, from, bytes);
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* handle) {
    LOCK;
    STREAM(stream, handle);
    const void* src = reinterpret_cast<const void*>(from);
    if (!is_pinned(to)) return copy_now(*stream, to, src, bytes);
    // Whoever reads it before the copy has run finds nothing of use, but for what the stream does before.
    if (!stream->capture && !reads(*stream, to, bytes)) memset(to, 0xff, bytes);
    return enqueue(*stream, copy_work(to, src, bytes));
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* handle) {
    LOCK;
    STREAM(stream, handle);
    return enqueue(*stream, copy_work(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes));
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* handle) {
    LOCK;
    STREAM(stream, handle);
    Work work{Work::Fill};
    work.dst = reinterpret_cast<void*>(to), work.bytes = bytes, work.value = value;
    return enqueue(*stream, work);
}

int cuModuleLoadData(void** module, const void*) { return *module = &pinned, SUCCESS; }
int cuModuleUnload(void*) { return SUCCESS; }
int cuModuleGetFunction(void** function, void*, const char* name) {
    LOCK;
    static std::map<std::string, std::unique_ptr<Function>> functions;
    const Kernel* kernel = find_kernel(name);
    if (!kernel) return NOT_FOUND;
    auto& found = functions[name];
    if (!found) found.reset(new Function{kernel});
    return *function = found.get(), SUCCESS;
}
int cuFuncGetParamInfo(void* function, size_t i, size_t* offset, size_t* bytes) {
    const Kernel* kernel = static_cast<Function*>(function)->kernel;
    if (i >= (size_t)kernel->num_params) return INVALID_VALUE;
    *offset = 0;
    for (size_t before = 0; before <= i; ++before) {
        const size_t size = kernel->param_bytes[before];
        *offset = (*offset + size - 1) / size * size;
        if (before < i) *offset += size;
    }
    return *bytes = kernel->param_bytes[i], SUCCESS;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    constexpr int MAX_DYNAMIC_SHARED_BYTES = 8;
    if (attribute != MAX_DYNAMIC_SHARED_BYTES) return SUCCESS;
    if (value < 0 || (size_t)value > MAX_SHARED_BYTES) return INVALID_VALUE;
    static_cast<Function*>(function)->dynamic_limit = value;
    return SUCCESS;
}
int cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned dynamic_shared, void* stream_handle, void** params, void**) {
    LOCK;
    STREAM(stream, stream_handle);
    const Function* function = static_cast<Function*>(handle);
    Work work{Work::Kernel};
    work.launch = {function->kernel, {gx, gy, gz}, {bx, by, bz}, dynamic_shared,
                   function->dynamic_limit > DEFAULT_SHARED_BYTES};
    const char* why = refusal(work.launch);
    if (!why && dynamic_shared > function->dynamic_limit) why = "more dynamic shared memory than the function's attribute";
    if (why) return fprintf(stderr, "emulated GPU: %s: %s\n", function->kernel->name, why), INVALID_VALUE;
    for (int i = 0; i < function->kernel->num_params; ++i) {
        const uint8_t* param = static_cast<const uint8_t*>(params[i]);
        work.params.emplace_back(param, param + function->kernel->param_bytes[i]);
    }
    return enqueue(*stream, std::move(work));
}

int cuStreamCreate(void** handle, unsigned) {
    LOCK;
    return *handle = create_stream().get(), SUCCESS;
}
int cuStreamDestroy_v2(void* handle) {
    LOCK;
    STREAM(stream, handle);
    const int code = drain(*stream, stream->issued);
    destroy_stream(stream.get());
    return code;
}
int cuStreamSynchronize(void* handle) {
    LOCK;
    STREAM(stream, handle);
    return finish(*stream);
}
int cuStreamWaitEvent(void* handle, void* event, unsigned) {
    LOCK;
    STREAM(stream, handle);
    const Event& awaited = *static_cast<Event*>(event);
    if (stream->capture) return awaited.captured ? SUCCESS : refuse_in_capture(*stream);
    Work work{Work::Await};
    work.event = awaited;
    return enqueue(*stream, work);
}

int cuEventCreate(void** event, unsigned) { return *event = new Event, SUCCESS; }
int cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), SUCCESS; }
int cuEventRecord(void* event, void* handle) {
    LOCK;
    STREAM(stream, handle);
    *static_cast<Event*>(event) = {stream, stream->issued, stream->capture != nullptr};
    return sticky;
}
int cuEventSynchronize(void* event) {
    LOCK;
    const Event& awaited = *static_cast<Event*>(event);
    if (awaited.captured) return STREAM_CAPTURE_UNSUPPORTED;
    return awaited.stream ? drain(*awaited.stream, awaited.sequence) : sticky;
}
int cuEventQuery(void* event) {
    LOCK;
    const Event& asked = *static_cast<Event*>(event);
    return !asked.stream || asked.stream->done >= asked.sequence ? sticky : NOT_READY;
}
int cuEventElapsedTime(float* milliseconds, void*, void*) { return *milliseconds = 0, SUCCESS; }

int cuStreamBeginCapture_v2(void* handle, int) {
    LOCK;
    STREAM(stream, handle);
    if (!handle || stream->capture) return STREAM_CAPTURE_UNSUPPORTED;
    stream->capture.reset(new Graph);
    stream->capture_broken = false;
    return SUCCESS;
}
int cuStreamEndCapture(void* handle, void** graph) {
    LOCK;
    STREAM(stream, handle);
    if (!stream->capture) return INVALID_VALUE;
    std::unique_ptr<Graph> recorded = std::move(stream->capture);
    *graph = nullptr;
    if (stream->capture_broken) return STREAM_CAPTURE_INVALIDATED;
    return *graph = recorded.release(), SUCCESS;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, uint64_t) {
    return *executable = new Graph(*static_cast<Graph*>(graph)), SUCCESS;
}
int cuGraphLaunch(void* executable, void* handle) {
    LOCK;
    STREAM(stream, handle);
    for (const Work& work : static_cast<Graph*>(executable)->work)
        if (const int code = enqueue(*stream, work)) return code;
    return sticky;
}
int cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }
int cuGraphExecDestroy(void* executable) { return delete static_cast<Graph*>(executable), SUCCESS; }
}
