// The checked build's memory of who wrote and read what: out of bounds, never written, misaligned, races.
//
// Two accesses are ordered if one thread makes both, if a barrier lies between them, or, within a warp, a __syncwarp.
// Blocks of a launch are never ordered, launches always are.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "machine.h"

namespace emu {
#ifndef EMU_CHECK

void init_shadow() {}
void forget(uint64_t, uint64_t) {}
void mark_written(const void*, size_t) {}
void carry_written(void*, const void*, size_t) {}
void pin(const void*, size_t) {}
void unpin(const void*) {}
void check_access(const void*, size_t, Kind, Where) {}
void check_site(const void*, size_t, Kind, Site) {}
void invalidate_shared(const void*, size_t) {}

#else

struct Access {
    uint32_t block, epoch, warp_epoch;
    uint16_t thread;
    bool made, atomic;
};

// How far apart the threads are that have read a cell unordered.
enum Readers : uint8_t { ONE, SAME_WARP, SAME_BLOCK, OTHER_BLOCKS };

// Two bytes of memory. Older than `stamp` says (another launch, or in shared memory another block): nothing is known.
struct Cell {
    uint32_t stamp;
    Access write, read;
    Readers readers;
};
constexpr size_t CELL_BYTES = 2;

static uint8_t* written;  // per byte of the heap
static Cell* heap_cells;
static Cell shared_cells[MAX_SHARED_BYTES / CELL_BYTES];
static uint8_t shared_written[MAX_SHARED_BYTES / CELL_BYTES];

template <class T>
static T* reserve(size_t count) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* p = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, flags, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<T*>(p);
}

void init_shadow() {
    written = reserve<uint8_t>(HEAP_BYTES);
    heap_cells = reserve<Cell>(HEAP_BYTES / CELL_BYTES);
    if (!written || !heap_cells) {
        fprintf(stderr, "emu: no address space for the shadow of the device's memory\n");
        abort();
    }
}

void forget(uint64_t offset, uint64_t bytes) {
    const uint64_t first = (offset + 4095) / 4096 * 4096, last = (offset + bytes) / 4096 * 4096;
    if (last <= first) return (void)memset(written + offset, 0, bytes);
    memset(written + offset, 0, first - offset);
    madvise(written + first, last - first, MADV_DONTNEED);
    memset(written + last, 0, offset + bytes - last);
}

void mark_written(const void* p, size_t bytes) {
    if (on_heap(p)) memset(written + (static_cast<const uint8_t*>(p) - heap), 1, bytes);
}

// Of pinned host memory, per byte: it came from the device, where nobody had written it. What the host writes is not seen:
// nothing that it writes, it also copies from the device.
struct Pinned {
    uint8_t* unwritten;
    size_t bytes;
};
static std::map<const uint8_t*, Pinned> pinned;

void pin(const void* p, size_t bytes) {
    if (uint8_t* unwritten = reserve<uint8_t>(bytes)) pinned[static_cast<const uint8_t*>(p)] = {unwritten, bytes};
}

void unpin(const void* p) {
    const auto found = pinned.find(static_cast<const uint8_t*>(p));
    if (found == pinned.end()) return;
    munmap(found->second.unwritten, found->second.bytes);
    pinned.erase(found);
}

// Null: the host's own memory, all of which counts as written.
static uint8_t* unwritten_on_host(const void* p) {
    auto after = pinned.upper_bound(static_cast<const uint8_t*>(p));
    if (after == pinned.begin()) return nullptr;
    --after;
    const size_t offset = static_cast<const uint8_t*>(p) - after->first;
    return offset < after->second.bytes ? after->second.unwritten + offset : nullptr;
}

void carry_written(void* dst, const void* src, size_t bytes) {
    const uint8_t* device = on_heap(src) ? written + (static_cast<const uint8_t*>(src) - heap) : nullptr;
    const uint8_t* host = unwritten_on_host(src);
    uint8_t* to_device = on_heap(dst) ? written + (static_cast<uint8_t*>(dst) - heap) : nullptr;
    uint8_t* to_host = unwritten_on_host(dst);
    for (size_t i = 0; i < bytes && (to_device || to_host); ++i) {
        const bool is_written = device ? device[i] : !host || !host[i];
        (to_device ? to_device : to_host)[i] = to_device ? is_written : !is_written;
    }
}

// A line of a kernel, or an address for addr2line, relative to the library.
static std::string describe(Where where) {
    if (!where.pc) return std::string(where.site.file) + ":" + std::to_string(where.site.line);
    Dl_info info;
    if (!dladdr(where.pc, &info)) return "?";
    char text[40];
    // A return address: the call is before it.
    const uintptr_t offset = reinterpret_cast<uintptr_t>(where.pc) - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
    snprintf(text, sizeof text, "+0x%zx", (size_t)offset);
    return text;
}

static Readers distance(const Access& past) {
    if (past.block != linear_block()) return OTHER_BLOCKS;
    if (past.thread == current->linear) return ONE;
    return past.thread / 32 == current->linear / 32 ? SAME_WARP : SAME_BLOCK;
}

static bool ordered_before_now(const Access& past, Readers apart) {
    if (apart == OTHER_BLOCKS) return false;
    if (apart == ONE || past.epoch != block_epoch) return true;
    return apart == SAME_WARP && past.warp_epoch != current->warp->epoch;
}

static bool conflicts(const Access& past) { return past.made && !ordered_before_now(past, distance(past)); }

static Access this_access() {
    return {linear_block(), block_epoch, current->warp->epoch, static_cast<uint16_t>(current->linear), true, false};
}

[[noreturn]] static void fail_race(const char* memory, const Access& past, const char* did, const char* now,
                                   Where where) {
    fail("RACE %s memory: %s by %s at %s, %s by block %u thread %u with nothing between", memory, now,
         whereabouts().c_str(), describe(where).c_str(), did, past.block, past.thread);
}

static void record(Cell& cell, uint32_t stamp, Kind kind, const char* memory, Where where) {
    if (cell.stamp != stamp) cell = Cell{stamp, {}, {}, ONE};
    const bool together = kind == Kind::Atomic && cell.write.atomic;
    if (!together && conflicts(cell.write))
        fail_race(memory, cell.write, "written", is_read(kind) ? "read" : "write", where);
    if (is_read(kind)) {
        const Readers apart = cell.read.made && conflicts(cell.read) ? distance(cell.read) : ONE;
        const bool keep = cell.readers == OTHER_BLOCKS || (cell.read.made && cell.read.epoch == block_epoch);
        cell.readers = max(apart, keep ? cell.readers : ONE);
        cell.read = this_access();
        return;
    }
    // With several readers in this epoch, only a barrier that came after the last of them orders them all.
    const bool many = cell.readers == OTHER_BLOCKS || (cell.readers != ONE && cell.read.epoch == block_epoch &&
                                                        (cell.readers == SAME_BLOCK ||
                                                         cell.read.warp_epoch == current->warp->epoch));
    if (cell.read.made && (many || conflicts(cell.read))) fail_race(memory, cell.read, "read", "write", where);
    cell.write = this_access();
    cell.write.atomic = kind == Kind::Atomic;
    cell.read = {};
    cell.readers = ONE;
}

static const char* name_of(Kind kind) { return is_read(kind) ? "read" : "write"; }

static void check_shared(size_t offset, size_t bytes, Kind kind, Where where) {
    if (!shared_valid(offset, bytes))
        fail("OUT OF BOUNDS %s of %zu bytes at shared offset %zu: %s at %s", name_of(kind), bytes, offset,
             whereabouts().c_str(), describe(where).c_str());
    for (size_t i = offset / CELL_BYTES; i <= (offset + bytes - 1) / CELL_BYTES; ++i) {
        const bool fresh = shared_cells[i].stamp != block_serial;
        if (fresh) shared_written[i] = 0;
        record(shared_cells[i], block_serial, kind, "shared", where);
        if (kind == Kind::Write) shared_written[i] = 1;
        if (!shared_written[i])
            fail("NEVER WRITTEN: read of shared offset %zu: %s at %s", i * CELL_BYTES, whereabouts().c_str(), describe(where).c_str());
    }
}

static void check_heap(uint64_t offset, size_t bytes, Kind kind, Where where) {
    if (!allocated(offset, bytes))
        fail("OUT OF BOUNDS %s of %zu bytes, %lld behind the end of an allocation: %s at %s", name_of(kind),
             bytes, (long long)(offset + bytes - allocation_end(offset)), whereabouts().c_str(), describe(where).c_str());
    for (uint64_t i = offset / CELL_BYTES; i <= (offset + bytes - 1) / CELL_BYTES; ++i)
        record(heap_cells[i], launch_serial, kind, "global", where);
    if (kind == Kind::Write) return (void)memset(written + offset, 1, bytes);
    if (kind == Kind::Copied) return;
    for (size_t i = 0; i < bytes; ++i)
        if (!written[offset + i])
            fail("NEVER WRITTEN: read of global memory: %s at %s", whereabouts().c_str(), describe(where).c_str());
}

// Where kernels may read and write besides device memory: their stacks, the emulator's state, constants.
static bool is_machine(const void* p) {
    const auto within = [p](const void* base, size_t bytes) {
        return static_cast<size_t>(static_cast<const uint8_t*>(p) - static_cast<const uint8_t*>(base)) < bytes;
    };
    if (within(stacks, STACK_BYTES * MAX_THREADS) || within(fibers, sizeof(Fiber) * MAX_THREADS)) return true;
    if (within(&current, sizeof current) || within(&block, sizeof block) || within(&params, sizeof params))
        return true;
    Dl_info info;
    return dladdr(p, &info);
}

void check_access(const void* p, size_t bytes, Kind kind, Where where) {
    const bool global = on_heap(p);
    if (!global && !in_shared(p)) {
        if (is_machine(p)) return;
        fail("WILD %s of %p: %s at %s", name_of(kind), p, whereabouts().c_str(), describe(where).c_str());
    }
    if (reinterpret_cast<uintptr_t>(p) % bytes)
        fail("MISALIGNED %s of %zu bytes: %s at %s", name_of(kind), bytes, whereabouts().c_str(), describe(where).c_str());
    if (config.trace) trace_access(p, bytes, kind, where);
    if (global)
        check_heap(static_cast<const uint8_t*>(p) - heap, bytes, kind, where);
    else
        check_shared(static_cast<const uint8_t*>(p) - shared, bytes, kind, where);
}

void check_site(const void* p, size_t bytes, Kind kind, Site site) {
    check_access(p, bytes, kind, Where{site, nullptr});
}

void invalidate_shared(const void* p, size_t bytes) {
    const size_t offset = static_cast<const uint8_t*>(p) - shared;
    memset(shared_written + offset / CELL_BYTES, 0, bytes / CELL_BYTES);
}

#endif
}  // namespace emu
