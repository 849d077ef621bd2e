// Streams as queues that run lazily, in a random order of those that events allow: a forgotten event or wait shows.
#pragma once
#include <deque>
#include <memory>
#include <set>

#include "../launch.h"

namespace emu {
struct Function {
    const Kernel* kernel;
    size_t dynamic_limit = DEFAULT_SHARED_BYTES;
};

struct Stream;
// The point in a stream behind which an event lies; before the first record, none.
struct Event {
    std::shared_ptr<Stream> stream;
    uint64_t sequence = 0;
    bool captured = false;
};

struct Work {
    enum Kind { Kernel, Copy, Fill, Await } kind;
    Launch launch{};
    std::vector<std::vector<uint8_t>> params;
    void* dst = nullptr;
    const void* src = nullptr;
    size_t bytes = 0;
    uint8_t value = 0;
    Event event{};
};

struct Graph {
    std::vector<Work> work;
};

struct Stream {
    std::deque<Work> queue;
    uint64_t issued = 0, done = 0;
    std::unique_ptr<Graph> capture;
    bool capture_broken = false;
};

using StreamRef = std::shared_ptr<Stream>;
StreamRef create_stream();
void destroy_stream(Stream* stream);
// The stream of a handle; 0 is the default one. Null: there is none.
StreamRef find_stream(void* handle);
bool any_capture();

// An error of a kernel stays: every later call returns it.
extern int sticky;
int enqueue(Stream& stream, Work work);
// Runs until `stream` has done its first `sequence` pieces of work.
int drain(Stream& stream, uint64_t sequence);
int drain_all();
}  // namespace emu
