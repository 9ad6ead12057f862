// Streams and events. By default an operation runs when it is submitted; with SWEEP_EMULATOR_STREAMS=lazy it waits in its
// stream's queue until the host synchronises, so that a host that reads too early, or a stream that does not wait for the other
// one's event, finds memory that has not been written.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>

namespace emulated {

struct Stream;

// A point in a stream's order. Waiting for it runs the stream up to that point.
struct Event {
    Stream* stream = nullptr;
    // How many operations of the stream had been submitted at the last record; 0: never recorded, always complete.
    unsigned long long position = 0;
    std::chrono::steady_clock::time_point time{};
    bool timed = true;
};

struct Stream {
    struct Operation {
        const char* name;
        std::function<void()> work;
    };
    std::deque<Operation> queue;
    unsigned long long submitted = 0, completed = 0;
    // Whether it synchronises with the default stream.
    bool blocking = false;
    int device = 0;
};

Stream* create_stream(int device, bool blocking);
void destroy_stream(Stream* stream);
// The stream behind a handle: 0, 1 and 2 mean the default stream of the device. Null when the handle is unknown.
Stream* stream_of(void* handle, int device);

void submit_to(Stream& stream, const char* operation, std::function<void()> work);
// Runs everything that has been submitted to the stream.
void drain(Stream& stream);
void drain_all();
// Runs the stream up to the event's point.
void drain_to(const Event& event);
bool is_complete(const Event& event);
// Whether all that was submitted is done.
bool is_idle();

}  // namespace emulated
