// Runs the threads of a block in a chosen order: forwards, backwards or at random, warp by warp and lane by lane.
#include <cstdarg>
#include <cstdio>
#include <map>

#include "machine.h"

namespace emu {
Thread* current;
Block block;
Config config;
Fiber* fibers;
uint8_t* stacks;
int num_threads;
uint32_t block_epoch, block_serial, launch_serial;
bool failed;
std::string report;

static Warp warps[MAX_THREADS / 32];
static Context scheduler;
static int num_live, num_at_barrier;
static uint64_t random_state = 88172645463325252ull;

uint64_t random_bits() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

void seed_random(uint64_t seed) {
    random_state = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
    if (!random_state) random_state = 1;
}

float approximate(float x) {
    if (!config.approximate || x == 0.f || x == 1.f || !std::isfinite(x)) return x;
    // The same for the same number, as on a device.
    const uint32_t mixed = __float_as_uint(x) * 2654435761u;
    return x * (1.f + ((int)(mixed >> 29) - 3) * 0x1p-24f);
}

uint32_t linear_block() {
    return block.index.x + block.grid.x * (block.index.y + block.grid.y * block.index.z);
}

void add_report(const char* format, ...) {
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    failed = true;
    if (report.size() < 4000) report.append(text).append("\n");
}

std::string whereabouts() {
    char text[100];
    snprintf(text, sizeof text, "block (%u,%u,%u) thread %u", block.index.x, block.index.y, block.index.z,
             current->linear);
    return text;
}

static void to_scheduler() { switch_context(current_fiber()->context, scheduler); }

void give_up() {
    to_scheduler();
    __builtin_unreachable();
}

static uint32_t bit(const Fiber* fiber) { return 1u << fiber->lane; }

static void sleep_as(Wait wait) {
    Fiber* me = current_fiber();
    me->wait = wait;
    me->warp->ready &= ~bit(me);
    to_scheduler();
}

static void wake(Fiber* fiber) {
    fiber->wait = Wait::None;
    fiber->warp->ready |= bit(fiber);
}

static bool same_place(Site a, Site b) { return a.line == b.line && !strcmp(a.file, b.file); }

// All that live have arrived: they must stand at the same barrier.
static void open_barrier() {
    const Fiber* first = nullptr;
    for (int i = 0; i < num_threads; ++i) {
        if (fibers[i].wait != Wait::Barrier) continue;
        if (!first) first = &fibers[i];
        if (!same_place(first->site, fibers[i].site)) {
            add_report("SYNC divergent barrier: %s:%d and %s:%d", first->site.file, first->site.line,
                       fibers[i].site.file, fibers[i].site.line);
            return;
        }
        wake(&fibers[i]);
    }
    num_at_barrier = 0;
    ++block_epoch;
}

void barrier(Site site) {
    current_fiber()->site = site;
    if (++num_at_barrier < num_live) return sleep_as(Wait::Barrier);
    current_fiber()->wait = Wait::Barrier;
    open_barrier();
    to_scheduler();
}

static uint32_t lanes_of_warp(const Fiber* fiber) {
    const int rest = num_threads - (int)(fiber->linear & ~31u);
    return rest >= 32 ? ~0u : (1u << rest) - 1;
}

static bool all_want(const Fiber* lanes, uint32_t mask, Op op) {
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1 && (lanes[i].op != op || lanes[i].mask != mask)) return false;
    return true;
}

static void check_matrix_row(const void* row, Site site) {
    if (reinterpret_cast<uintptr_t>(row) % 16)
        fail("MISALIGNED ldmatrix row: %s %s:%d", whereabouts().c_str(), site.file, site.line);
    check_site(row, 16, Kind::Read, site);
}

void collective(Op op, uint32_t mask, const void* in, void* out, int arg, Site site) {
    Fiber* me = current_fiber();
    if (op == Op::LdMatrix || op == Op::LdMatrixTrans) check_matrix_row(in, site);
    // A block that is not of whole warps: lanes that never were are no part of a full mask.
    if (op < Op::LdMatrix) mask &= lanes_of_warp(me);
    if (!(mask & bit(me))) fail("SYNC lane %u is not in its own mask %08x: %s:%d", me->lane, mask, site.file, site.line);
    me->op = op, me->mask = mask, me->in = in, me->out = out, me->arg = arg, me->site = site;
    Fiber* lanes = fibers + (me->linear & ~31u);
    me->warp->arrived |= bit(me);
    if ((me->warp->arrived & mask) != mask || !all_want(lanes, mask, op)) return sleep_as(Wait::Collective);
    execute(op, mask, lanes);
    me->warp->arrived &= ~mask;
    if (op == Op::SyncWarp) ++me->warp->epoch;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) wake(&lanes[i]);
    if (failed || config.order != Order::Forward) to_scheduler();
}

static void (*kernel_entry)();

static void run_thread() {
    kernel_entry();
    Fiber* me = current_fiber();
    me->groups.push_back(me->open);
    for (const auto& group : me->groups)
        if (!group.empty()) fail("a cp.async was never waited for: %s:%d", group[0].site.file, group[0].site.line);
    me->warp->live &= ~bit(me);
    if (--num_live && num_at_barrier == num_live) open_barrier();
    sleep_as(Wait::Done);
    __builtin_trap();
}

static void start_threads() {
    num_live = num_threads;
    num_at_barrier = 0;
    ++block_epoch;
    ++block_serial;
    for (int i = 0; i < num_threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.linear = i;
        fiber.lane = i % 32;
        fiber.warp = &warps[i / 32];
        fiber.index = {i % block.dim.x, i / block.dim.x % block.dim.y, i / block.dim.x / block.dim.y};
        fiber.wait = Wait::None;
        fiber.visits.clear();
        fiber.open.clear();
        fiber.groups.clear();
        make_context(fiber.context, stacks + STACK_BYTES * i, STACK_BYTES, run_thread);
        if (fiber.lane == 0) *fiber.warp = Warp{lanes_of_warp(&fiber), lanes_of_warp(&fiber), 0, 0};
    }
}

static void report_deadlock() {
    std::map<std::string, int> places;
    for (int i = 0; i < num_threads; ++i) {
        const Fiber& fiber = fibers[i];
        if (fiber.wait == Wait::Done) continue;
        const char* what = fiber.wait == Wait::Barrier ? "barrier" : "warp operation";
        ++places[std::string(what) + " " + fiber.site.file + ":" + std::to_string(fiber.site.line)];
    }
    std::string list;
    for (const auto& place : places) list += " [" + std::to_string(place.second) + " threads at " + place.first + "]";
    add_report("DEADLOCK block (%u,%u,%u): %d threads have exited;%s", block.index.x, block.index.y, block.index.z,
               num_threads - num_live, list.c_str());
}

// The next warp with a lane that can run, -1 if there is none.
static int choose_warp(int warp, int num_warps) {
    if (config.order == Order::Random && random_bits() % 4 == 0) warp = random_bits() % num_warps;
    for (int tried = 0; tried < num_warps; ++tried) {
        if (warps[warp].ready) return warp;
        warp = (warp + (config.order == Order::Backward ? num_warps - 1 : 1)) % num_warps;
    }
    return -1;
}

static int choose_lane(uint32_t ready) {
    if (config.order == Order::Forward) return __builtin_ctz(ready);
    if (config.order == Order::Backward) return 31 - __builtin_clz(ready);
    const int first = random_bits() % 32;
    const uint32_t rotated = first ? ready >> first | ready << (32 - first) : ready;
    return (first + __builtin_ctz(rotated)) % 32;
}

bool run_block(void (*entry)()) {
    kernel_entry = entry;
    start_threads();
    const int num_warps = (num_threads + 31) / 32;
    int warp = config.order == Order::Backward ? num_warps - 1 : 0;
    while (num_live && !failed) {
        warp = choose_warp(warp, num_warps);
        if (warp < 0) {
            report_deadlock();
            break;
        }
        current = &fibers[warp * 32 + choose_lane(warps[warp].ready)];
        switch_context(scheduler, current_fiber()->context);
    }
    current = nullptr;
    return !failed;
}
}  // namespace emu
