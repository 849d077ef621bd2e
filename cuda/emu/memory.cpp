// Device memory (sparse: pages come to be when they are touched), shared memory, and background copies.
#include <sys/mman.h>

#include <map>

#include "launch.h"

namespace emu {
uint8_t* heap;
uint8_t* shared;
size_t shared_used;

static constexpr uint64_t ALIGNMENT = 256, GAP = 4096;
static std::map<uint64_t, uint64_t> allocations;  // offset -> bytes
static uint64_t heap_top = GAP;

void init_heap() {
    if (heap) return;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    heap = static_cast<uint8_t*>(mmap(nullptr, HEAP_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0));
    stacks = static_cast<uint8_t*>(mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE, flags, -1, 0));
    shared = static_cast<uint8_t*>(mmap(nullptr, MAX_SHARED_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0));
    fibers = new Fiber[MAX_THREADS];
    init_shadow();
}

// Where `bytes` fit: behind the last allocation, or in the first hole once the end is reached.
static uint64_t find_room(uint64_t bytes) {
    const uint64_t needed = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + GAP;
    if (heap_top + needed <= HEAP_BYTES) {
        const uint64_t offset = heap_top;
        heap_top += needed;
        return offset;
    }
    uint64_t offset = GAP;
    for (const auto& taken : allocations) {
        if (offset + needed <= taken.first) return offset;
        offset = (taken.first + taken.second + GAP + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return offset + needed <= HEAP_BYTES ? offset : 0;
}

void* allocate(size_t bytes) {
    init_heap();
    const uint64_t offset = find_room(bytes);
    if (!offset) return nullptr;
    allocations[offset] = bytes;
    // NaN in every float type, so that what is read before it is written shows in the results. Not where the point
    // is that the memory is larger than the machine's.
    if (bytes < (256u << 20)) memset(heap + offset, 0xff, bytes);
    return heap + offset;
}

static void drop(uint64_t offset, uint64_t bytes) {
    forget(offset, bytes);
    const uint64_t first = (offset + 4095) / 4096 * 4096, last = (offset + bytes) / 4096 * 4096;
    if (last > first) madvise(heap + first, last - first, MADV_DONTNEED);
}

bool release(void* p) {
    auto found = allocations.find(static_cast<uint8_t*>(p) - heap);
    if (found == allocations.end()) return false;
    drop(found->first, found->second);
    allocations.erase(found);
    if (allocations.empty()) heap_top = GAP;
    return true;
}

void release_all() {
    for (const auto& taken : allocations) drop(taken.first, taken.second);
    allocations.clear();
    heap_top = GAP;
}

uint64_t allocation_end(uint64_t offset) {
    auto after = allocations.upper_bound(offset);
    if (after == allocations.begin()) return 0;
    --after;
    return after->first + after->second;
}

bool allocated(uint64_t offset, size_t bytes) { return offset + bytes <= allocation_end(offset); }

// Shared memory: the dynamic part, then static arrays in the order in which a block reaches them, with gaps between.
struct SharedArray {
    size_t offset, bytes;
};
static std::map<const void*, SharedArray> static_arrays;
static size_t dynamic_bytes, static_bytes;
static bool may_use_more;

void reset_shared(size_t bytes, bool opted_in) {
    memset(shared, 0xff, shared_used ? shared_used : MAX_SHARED_BYTES);
    static_arrays.clear();
    dynamic_bytes = shared_used = bytes;
    static_bytes = 0;
    may_use_more = opted_in;
}

void* dynamic_shared() { return shared; }

void* static_shared(const void* key, size_t bytes) {
    auto found = static_arrays.find(key);
    if (found != static_arrays.end()) return shared + found->second.offset;
    const size_t offset = (shared_used + 15) / 16 * 16 + 64;
    static_bytes += (bytes + 15) / 16 * 16;
    if (static_bytes > DEFAULT_SHARED_BYTES) fail("%zu bytes of static shared memory: 48 KiB is the most", static_bytes);
    const size_t limit = may_use_more ? MAX_SHARED_BYTES : DEFAULT_SHARED_BYTES;
    if (static_bytes + dynamic_bytes > limit || offset + bytes > MAX_SHARED_BYTES)
        fail("%zu bytes of shared memory: %zu is the most", static_bytes + dynamic_bytes, limit);
    static_arrays[key] = {offset, bytes};
    shared_used = offset + bytes;
    return shared + offset;
}

bool shared_valid(size_t offset, size_t bytes) {
    if (offset + bytes <= dynamic_bytes) return true;
    for (const auto& array : static_arrays)
        if (offset >= array.second.offset && offset + bytes <= array.second.offset + array.second.bytes) return true;
    return false;
}

void load(void* value, const void* p, size_t bytes, Site site) {
    check_site(p, bytes, Kind::Read, site);
    memcpy(value, p, bytes);
}

void store(void* p, const void* value, size_t bytes, Site site) {
    check_site(p, bytes, Kind::Write, site);
    memcpy(p, value, bytes);
}

void copy16(void* to, const void* from, Site site) {
    if (!on_heap(to) || !on_heap(from)) fail("copy16 outside of global memory: %s:%d", site.file, site.line);
    check_site(from, 16, Kind::Copied, site);
    check_site(to, 16, Kind::Write, site);
    copy(to, from, 16);
}

void atomic_access(void* p, size_t bytes, Site site) { check_site(p, bytes, Kind::Atomic, site); }

static void finish(const AsyncCopy& copy) {
    // Noted when it was issued.
    const bool trace = std::exchange(config.trace, false);
    check_site(copy.dst, copy.bytes, Kind::Write, copy.site);
    config.trace = trace;
    if (copy.pred)
        memcpy(copy.dst, copy.src, copy.bytes);
    else
        memset(copy.dst, 0, copy.bytes);
}

void cp_async(void* dst, const void* src, size_t bytes, bool pred, Site site) {
    if (!in_shared(dst)) fail("cp.async to %p, which is not shared memory: %s:%d", dst, site.file, site.line);
    if (pred) check_site(src, bytes, Kind::Read, site);
    // Until the wait, the destination belongs to the copy.
    check_site(dst, bytes, Kind::Write, site);
    const AsyncCopy copy{dst, src, bytes, pred, site};
    const bool early = config.cp_async == CopyTime::Random ? random_bits() & 1 : config.cp_async == CopyTime::Early;
    if (early)
        finish(copy);
    else
        memset(dst, 0xff, bytes);
    invalidate_shared(dst, bytes);
    current_fiber()->open.push_back(copy);
}

void cp_async_commit() {
    Fiber* me = current_fiber();
    me->groups.push_back(std::move(me->open));
    me->open.clear();
}

void cp_async_wait(int groups_under_way) {
    auto& groups = current_fiber()->groups;
    while ((int)groups.size() > groups_under_way) {
        for (const AsyncCopy& copy : groups.front()) finish(copy);
        groups.erase(groups.begin());
    }
}
}  // namespace emu
