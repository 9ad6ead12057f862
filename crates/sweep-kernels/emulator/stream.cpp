#include "stream.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "execute.h"

namespace emulated {

namespace {

// One lock for all streams: the emulated device does one thing at a time. Recursive, for an operation may wait for another.
std::recursive_mutex& device_lock() {
    static auto* lock = new std::recursive_mutex;
    return *lock;
}

struct Streams {
    std::set<Stream*> living;
    std::map<int, Stream*> defaults;
};

Streams& streams() {
    static auto* all = new Streams;
    return *all;
}

bool read_lazy() {
    const char* text = std::getenv("SWEEP_EMULATOR_STREAMS");
    if (text == nullptr || std::strcmp(text, "eager") == 0) return false;
    if (std::strcmp(text, "lazy") == 0) return true;
    fail("SWEEP_EMULATOR_STREAMS is `%s`; it can be eager or lazy", text);
}

bool is_lazy() {
    static const bool lazy = read_lazy();
    return lazy;
}

void perform(const Stream::Operation& operation) {
    set_operation(operation.name);
    operation.work();
    set_operation(nullptr);
}

void drain_until(Stream& stream, unsigned long long position) {
    while (stream.completed < position) {
        Stream::Operation operation = std::move(stream.queue.front());
        stream.queue.pop_front();
        perform(operation);
        ++stream.completed;
    }
}

Stream* default_stream(int device) {
    Stream*& stream = streams().defaults[device];
    if (stream == nullptr) {
        stream = new Stream;
        stream->device = device;
        stream->blocking = true;
        streams().living.insert(stream);
    }
    return stream;
}

}  // namespace

Stream* create_stream(int device, bool blocking) {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    auto* stream = new Stream;
    stream->device = device;
    stream->blocking = blocking;
    streams().living.insert(stream);
    return stream;
}

void destroy_stream(Stream* stream) {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    drain(*stream);
    // The object stays: events may still refer to it.
    streams().living.erase(stream);
}

Stream* stream_of(void* handle, int device) {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    if (reinterpret_cast<uintptr_t>(handle) <= 2) return default_stream(device);
    auto* stream = static_cast<Stream*>(handle);
    return streams().living.count(stream) == 0 ? nullptr : stream;
}

void submit_to(Stream& stream, const char* operation, std::function<void()> work) {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    if (is_lazy() && stream.blocking) {
        // The default stream and the blocking ones run in the order of submission.
        for (Stream* other : streams().living) {
            if (other != &stream && other->blocking && other->device == stream.device) drain(*other);
        }
    }
    ++stream.submitted;
    if (is_lazy()) {
        stream.queue.push_back({operation, std::move(work)});
        return;
    }
    perform({operation, std::move(work)});
    ++stream.completed;
}

void drain(Stream& stream) {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    drain_until(stream, stream.submitted);
}

void drain_all() {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    for (Stream* stream : streams().living) drain(*stream);
}

void drain_to(const Event& event) {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    if (event.stream != nullptr) drain_until(*event.stream, event.position);
}

bool is_complete(const Event& event) {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    return event.stream == nullptr || event.stream->completed >= event.position;
}

bool is_idle() {
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    for (Stream* stream : streams().living) {
        if (stream->completed < stream->submitted) return false;
    }
    return true;
}

}  // namespace emulated
