// The state of the emulated device: one block at a time, its threads as fibers.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "device.h"
#include "fiber.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emu {
constexpr int MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 128 << 10;
// The smallest of the supported devices (sm_86, sm_89, sm_120): what fits here fits everywhere.
constexpr size_t MAX_SHARED_BYTES = 99 << 10;
// What a kernel may use, statically and dynamically, without asking for more.
constexpr size_t DEFAULT_SHARED_BYTES = 48 << 10;

enum class Order { Forward, Backward, Random };
enum class CopyTime { Late, Early, Random };
struct Config {
    Order order = Order::Random;
    CopyTime cp_async = CopyTime::Late;
    bool approximate = true;
    bool trace = false;
};
extern Config config;
uint64_t random_bits();
void seed_random(uint64_t seed);

enum class Wait { None, Barrier, Collective, Done };

struct Warp {
    uint32_t live, ready, arrived;
    // Counts __syncwarp: orders shared-memory accesses within the warp.
    uint32_t epoch;
};

struct AsyncCopy {
    void* dst;
    const void* src;
    size_t bytes;
    bool pred;
    Site site;
};

struct Fiber : Thread {
    Context context;
    Wait wait;
    Op op;
    uint32_t mask;
    const void* in;
    void* out;
    int arg;
    Site site;
    // How often each place was reached, where accesses are noted.
    std::unordered_map<uint64_t, uint32_t> visits;
    std::vector<AsyncCopy> open;
    std::vector<std::vector<AsyncCopy>> groups;
};

// The running kernel's arguments, where its threads read them.
constexpr int MAX_PARAMS = 32;
struct Params {
    void* pointers[MAX_PARAMS];
    uint64_t values[MAX_PARAMS];
};
extern Params params;

extern Fiber* fibers;
extern uint8_t* stacks;
extern int num_threads;
// Counts barriers (and blocks): orders accesses within the block.
extern uint32_t block_epoch;
// Counts blocks over all launches, and launches.
extern uint32_t block_serial, launch_serial;
uint32_t linear_block();
inline Fiber* current_fiber() { return static_cast<Fiber*>(current); }

// Runs all threads of the current block; false after a failure.
bool run_block(void (*entry)());
// Executes `op` for the lanes of `mask`; `lanes` is the warp's first fiber.
void execute(Op op, uint32_t mask, Fiber* lanes);

// Failures. `fail` reports and gives up the launch; it does not return.
extern bool failed;
extern std::string report;
void add_report(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void give_up();
std::string whereabouts();
template <class... Args>
[[noreturn]] void fail(const char* format, Args... args) {
    add_report(format, args...);
    give_up();
}

// Device memory: one reserved range of addresses, allocations far apart enough that a step beyond one hits nothing.
constexpr size_t HEAP_BYTES = 24ull << 30;
extern uint8_t* heap;
void init_heap();
void* allocate(size_t bytes);
bool release(void* p);
void release_all();
inline bool on_heap(const void* p) { return static_cast<size_t>(static_cast<const uint8_t*>(p) - heap) < HEAP_BYTES; }
// The end of the allocation that begins at or before `offset`, 0 if there is none.
uint64_t allocation_end(uint64_t offset);
bool allocated(uint64_t offset, size_t bytes);

// Shared memory of the current block.
extern uint8_t* shared;
extern size_t shared_used;
void reset_shared(size_t dynamic_bytes, bool opted_in);
inline bool in_shared(const void* p) {
    return static_cast<size_t>(static_cast<const uint8_t*>(p) - shared) < MAX_SHARED_BYTES;
}
bool shared_valid(size_t offset, size_t bytes);

// The checked build's shadow memory; in the plain build these do nothing.
#ifdef EMU_CHECK
constexpr bool CHECKED = true;
#else
constexpr bool CHECKED = false;
#endif
void init_shadow();
void forget(uint64_t offset, uint64_t bytes);
void mark_written(const void* p, size_t bytes);
// Copied bytes are as written or unwritten as the ones that they are copied from, also by way of pinned host memory.
void carry_written(void* dst, const void* src, size_t bytes);
void pin(const void* p, size_t bytes);
void unpin(const void* p);
// A place in a kernel: a site, or the address of an instruction.
struct Where {
    Site site;
    const void* pc;
};
// Copied: read without a look at the value, which nobody may have written.
enum class Kind { Read, Copied, Write, Atomic };
inline bool is_read(Kind kind) { return kind == Kind::Read || kind == Kind::Copied; }
void check_access(const void* p, size_t bytes, Kind kind, Where where);
void check_site(const void* p, size_t bytes, Kind kind, Site site);
void invalidate_shared(const void* p, size_t bytes);
// Notes accesses for `emu_trace`, between which the hardware would make requests of a warp's lanes.
void trace_access(const void* p, size_t bytes, Kind kind, Where where);
}  // namespace emu
