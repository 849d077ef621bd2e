#include "launch.h"

#include <csetjmp>
#include <csignal>
#include <map>
#include <numeric>

namespace emu {
static std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

void add_kernel(const Kernel& kernel) { kernels().emplace(kernel.name, kernel); }

const Kernel* find_kernel(const std::string& name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

const char* refusal(const Launch& launch) {
    const dim3 grid = launch.grid, block = launch.block;
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || !threads) return "a grid or block without threads";
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "a grid beyond 2147483647 x 65535 x 65535";
    if (threads > MAX_THREADS || block.z > 64) return "a block of more than 1024 threads, or deeper than 64";
    if (threads > (uint64_t)launch.kernel->bounds.threads) return "more threads than the kernel's launch bounds";
    if (launch.dynamic_shared > (launch.opted_in ? MAX_SHARED_BYTES : DEFAULT_SHARED_BYTES))
        return "more dynamic shared memory than the function's attribute or the device allows";
    return nullptr;
}

static const Kernel* running;
Params params;
static void enter_kernel() { running->call(running->function, params.pointers); }

static void take_params(const Kernel& kernel, void** values) {
    for (int i = 0; i < kernel.num_params; ++i) {
        memcpy(&params.values[i], values[i], kernel.param_bytes[i]);
        params.pointers[i] = &params.values[i];
    }
}

static sigjmp_buf segv_return;

static void on_segv(int, siginfo_t* info, void*) {
    add_report("ILLEGAL ADDRESS %p: %s", info->si_addr, current ? whereabouts().c_str() : "between threads");
    siglongjmp(segv_return, 1);
}

// Turns a crash of a kernel into a failed launch, as a device does.
class CatchSegv {
   public:
    CatchSegv() {
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        action.sa_sigaction = on_segv;
        sigaction(SIGSEGV, &action, &before);
    }
    ~CatchSegv() { sigaction(SIGSEGV, &before, nullptr); }

   private:
    struct sigaction before;
};

// Visits 0 .. n in an order that is random, and different for every launch: i * step + first mod n.
struct BlockOrder {
    uint64_t n, first = 0, step = 1;
    explicit BlockOrder(uint64_t num_blocks) : n(num_blocks) {
        if (config.order == Order::Backward) first = n - 1, step = n - 1;
        if (config.order != Order::Random || n < 3) return;
        first = random_bits() % n;
        step = random_bits() % n | 1;
        while (std::gcd(step, n) != 1) step += 2;
    }
    uint64_t at(uint64_t i) const { return (i * step + first) % n; }
};

static void run_blocks(const Launch& launch) {
    const dim3 grid = launch.grid;
    const BlockOrder order((uint64_t)grid.x * grid.y * grid.z);
    for (uint64_t i = 0; i < order.n && !failed; ++i) {
        const uint64_t at = order.at(i);
        block.index = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
        reset_shared(launch.dynamic_shared, launch.opted_in);
        run_block(enter_kernel);
    }
}

Result run(const Launch& launch, void** values) {
    init_heap();
    report.clear();
    failed = false;
    ++launch_serial;
    running = launch.kernel;
    take_params(*launch.kernel, values);
    num_threads = launch.block.x * launch.block.y * launch.block.z;
    block = {{}, launch.block, launch.grid};
    CatchSegv guard;
    if (sigsetjmp(segv_return, 1) == 0) run_blocks(launch);
    current = nullptr;
    return failed ? ILLEGAL_ADDRESS : SUCCESS;
}

void copy(void* dst, const void* src, size_t bytes) {
    carry_written(dst, src, bytes);
    memmove(dst, src, bytes);
}
}  // namespace emu
