// Notes what a kernel reads and writes, request by request: the n-th time that the lanes of a warp come to a place is one
// request of the hardware.
#include "launch.h"

namespace emu {
struct Access {
    uint64_t place, address;
    uint32_t warp, visit;
    uint16_t bytes;
    uint8_t lane, flags;  // 1: write, 2: shared memory
};
static std::vector<Access> accesses;

void trace_access(const void* p, size_t bytes, Kind kind, Where where) {
    const uint64_t site = reinterpret_cast<uint64_t>(where.site.file) * 31 + where.site.line;
    const uint64_t place = where.pc ? reinterpret_cast<uint64_t>(where.pc) : site << 8;
    const bool write = !is_read(kind), in_block = in_shared(p);
    const uint64_t address = in_block ? static_cast<const uint8_t*>(p) - shared : static_cast<const uint8_t*>(p) - heap;
    // A place that reads one memory and writes the other, as cp.async does, makes two requests.
    const uint32_t visit = current_fiber()->visits[place * 4 + write * 2 + in_block]++;
    const uint32_t warp = block_serial * (MAX_THREADS / 32) + current->linear / 32;
    const uint8_t flags = (write ? 1 : 0) | (in_block ? 2 : 0);
    accesses.push_back({place, address, warp, visit, (uint16_t)bytes, (uint8_t)current->lane, flags});
}
}  // namespace emu

extern "C" {
// Notes accesses from now on, or no longer.
void emu_trace(int on) {
    emu::config.trace = on != 0;
    if (on) emu::accesses.clear();
}
size_t emu_trace_len() { return emu::accesses.size(); }
// (emu_trace_len, 32 bytes): see `Access`.
const void* emu_trace_data() { return emu::accesses.data(); }
}
