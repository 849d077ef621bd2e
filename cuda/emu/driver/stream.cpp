#include "stream.h"

#include <cstdio>

namespace emu {
int sticky;

static std::vector<StreamRef>& streams() {
    static std::vector<StreamRef> all{std::make_shared<Stream>()};
    return all;
}

StreamRef create_stream() { return streams().emplace_back(std::make_shared<Stream>()); }

void destroy_stream(Stream* stream) {
    auto& all = streams();
    for (size_t i = 1; i < all.size(); ++i)
        if (all[i].get() == stream) return (void)all.erase(all.begin() + i);
}

StreamRef find_stream(void* handle) {
    if (!handle) return streams()[0];
    for (const StreamRef& stream : streams())
        if (stream.get() == handle) return stream;
    return nullptr;
}

bool any_capture() {
    for (const StreamRef& stream : streams())
        if (stream->capture) return true;
    return false;
}

static bool ready(const Stream& stream) {
    if (stream.queue.empty()) return false;
    const Work& next = stream.queue.front();
    return next.kind != Work::Await || !next.event.stream || next.event.stream->done >= next.event.sequence;
}

static void perform(Work& work) {
    if (sticky) return;
    switch (work.kind) {
        case Work::Kernel: {
            std::vector<void*> params;
            for (auto& param : work.params) params.push_back(param.data());
            sticky = run(work.launch, params.data());
            if (sticky) fprintf(stderr, "emulated GPU: %s: %s", work.launch.kernel->name, report.c_str());
            return;
        }
        case Work::Copy: return copy(work.dst, work.src, work.bytes);
        case Work::Fill:
            mark_written(work.dst, work.bytes);
            memset(work.dst, work.value, work.bytes);
            return;
        case Work::Await: return;
    }
}

static void step(Stream& stream) {
    Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    perform(work);
    ++stream.done;
}

static Stream* choose_ready() {
    std::vector<Stream*> able;
    for (const StreamRef& stream : streams())
        if (ready(*stream)) able.push_back(stream.get());
    return able.empty() ? nullptr : able[random_bits() % able.size()];
}

int enqueue(Stream& stream, Work work) {
    if (sticky) return sticky;
    if (stream.capture) return stream.capture->work.push_back(std::move(work)), SUCCESS;
    stream.queue.push_back(std::move(work));
    ++stream.issued;
    // Some work begins before anybody waits for it.
    if (random_bits() % 4 == 0)
        if (Stream* able = choose_ready()) step(*able);
    return sticky;
}

int drain(Stream& stream, uint64_t sequence) {
    while (stream.done < sequence) {
        Stream* able = choose_ready();
        if (!able) {
            fprintf(stderr, "emulated GPU: all streams wait for events of each other\n");
            return sticky = LAUNCH_FAILED;
        }
        step(*able);
    }
    return sticky;
}

int drain_all() {
    for (size_t i = 0; i < streams().size(); ++i) drain(*streams()[i], streams()[i]->issued);
    return sticky;
}
}  // namespace emu
