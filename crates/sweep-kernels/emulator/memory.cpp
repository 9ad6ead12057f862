#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "execute.h"

namespace emulated {

namespace {

constexpr size_t PAGE = 4096;
constexpr unsigned char FRESH = 0xFF;
// Fills the bytes of a mapping that belong to no allocation; a change is found when the allocation is freed.
constexpr unsigned char SLACK = 0xA5;
// Freed address ranges stay inaccessible until this many more have been freed.
constexpr size_t QUARANTINE = 512;

struct Allocation {
    char* mapping;
    size_t mapped;
    size_t bytes;
    int device;
};

struct Use {
    size_t used = 0, peak = 0;
};

struct Range {
    char* mapping;
    size_t mapped;
};

struct State {
    std::mutex mutex;
    // By start address.
    std::map<const char*, Allocation> device, pinned;
    std::map<int, Use> use;
    std::deque<Range> quarantine;
};

State& state() {
    static auto* all = new State;
    return *all;
}

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Maps `bytes` so that they end at a guard page.
bool map(size_t bytes, int device, char** start, Allocation* allocation) {
    size_t usable = round_up(bytes == 0 ? 1 : bytes, 16);
    size_t mapped = round_up(usable, PAGE) + PAGE;
    void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return false;
    auto* bytes_of = static_cast<char*>(base);
    if (mprotect(bytes_of + mapped - PAGE, PAGE, PROT_NONE) != 0) {
        munmap(base, mapped);
        return false;
    }
    *start = bytes_of + mapped - PAGE - usable;
    *allocation = {bytes_of, mapped, bytes, device};
    std::memset(bytes_of, SLACK, static_cast<size_t>(*start - bytes_of));
    std::memset(*start, FRESH, bytes);
    std::memset(*start + bytes, SLACK, usable - bytes);
    return true;
}

bool all_slack(const char* from, const char* to) {
    for (; from < to; ++from) {
        if (static_cast<unsigned char>(*from) != SLACK) return false;
    }
    return true;
}

void check_slack(const char* start, const Allocation& allocation) {
    const char* end = allocation.mapping + allocation.mapped - PAGE;
    if (!all_slack(allocation.mapping, start)) fail("bytes before the allocation of %zu bytes at %p were overwritten", allocation.bytes, static_cast<const void*>(start));
    if (!all_slack(start + allocation.bytes, end)) fail("bytes after the allocation of %zu bytes at %p were overwritten", allocation.bytes, static_cast<const void*>(start));
}

// Gives the pages back but keeps the addresses for a while.
void retire(State& all, const Allocation& allocation) {
    mmap(allocation.mapping, allocation.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    all.quarantine.push_back({allocation.mapping, allocation.mapped});
    if (all.quarantine.size() > QUARANTINE) {
        munmap(all.quarantine.front().mapping, all.quarantine.front().mapped);
        all.quarantine.pop_front();
    }
}

using Map = std::map<const char*, Allocation>;

// The allocation that starts at or before the address, or end().
Map::const_iterator at_or_before(const Map& map, const void* address) {
    auto next = map.upper_bound(static_cast<const char*>(address));
    return next == map.begin() ? map.end() : std::prev(next);
}

bool contains(const Map& map, const void* address, size_t bytes) {
    auto found = at_or_before(map, address);
    if (found == map.end()) return false;
    size_t offset = static_cast<size_t>(static_cast<const char*>(address) - found->first);
    return offset <= found->second.bytes && bytes <= found->second.bytes - offset;
}

size_t configured_total() {
    const char* text = std::getenv("SWEEP_EMULATOR_MEMORY");
    if (text == nullptr) return size_t{4} << 30;
    char* end;
    unsigned long long bytes = std::strtoull(text, &end, 10);
    if (*text == 0 || *end != 0) fail("SWEEP_EMULATOR_MEMORY is `%s`; it must be a number of bytes", text);
    return bytes;
}

}  // namespace

size_t device_memory_total() {
    static const size_t total = configured_total();
    return total;
}

size_t device_memory_used(int device) {
    std::lock_guard<std::mutex> lock(state().mutex);
    return state().use[device].used;
}

size_t device_memory_peak(int device) {
    std::lock_guard<std::mutex> lock(state().mutex);
    return state().use[device].peak;
}

void* allocate_device(int device, size_t bytes) {
    State& all = state();
    std::lock_guard<std::mutex> lock(all.mutex);
    Use& use = all.use[device];
    if (bytes > device_memory_total() - use.used) return nullptr;
    char* start;
    Allocation allocation;
    if (!map(bytes, device, &start, &allocation)) return nullptr;
    use.used += bytes;
    use.peak = use.used > use.peak ? use.used : use.peak;
    all.device.emplace(start, allocation);
    return start;
}

bool free_device(void* address) {
    State& all = state();
    std::lock_guard<std::mutex> lock(all.mutex);
    auto found = all.device.find(static_cast<const char*>(address));
    if (found == all.device.end()) return false;
    check_slack(found->first, found->second);
    all.use[found->second.device].used -= found->second.bytes;
    retire(all, found->second);
    all.device.erase(found);
    return true;
}

bool is_on_device(const void* address, size_t bytes) {
    std::lock_guard<std::mutex> lock(state().mutex);
    return contains(state().device, address, bytes);
}

bool allocation_of(const void* address, void** start, size_t* bytes) {
    std::lock_guard<std::mutex> lock(state().mutex);
    if (!contains(state().device, address, 0)) return false;
    auto found = at_or_before(state().device, address);
    *start = const_cast<char*>(found->first);
    *bytes = found->second.bytes;
    return true;
}

void* allocate_host(size_t bytes) {
    State& all = state();
    std::lock_guard<std::mutex> lock(all.mutex);
    char* start;
    Allocation allocation;
    if (!map(bytes, -1, &start, &allocation)) return nullptr;
    all.pinned.emplace(start, allocation);
    return start;
}

bool free_host(void* address) {
    State& all = state();
    std::lock_guard<std::mutex> lock(all.mutex);
    auto found = all.pinned.find(static_cast<const char*>(address));
    if (found == all.pinned.end()) return false;
    check_slack(found->first, found->second);
    retire(all, found->second);
    all.pinned.erase(found);
    return true;
}

bool is_pinned(const void* address, size_t bytes) {
    std::lock_guard<std::mutex> lock(state().mutex);
    return contains(state().pinned, address, bytes);
}

bool is_device_memory(const void* address, size_t bytes) { return is_on_device(address, bytes) || is_pinned(address, bytes); }

const char* describe_address(const void* address) {
    static char text[200];
    State& all = state();
    std::unique_lock<std::mutex> lock(all.mutex, std::try_to_lock);
    if (!lock.owns_lock()) return "";
    const auto* byte = static_cast<const char*>(address);
    for (const Range& range : all.quarantine) {
        if (byte >= range.mapping && byte < range.mapping + range.mapped) return " (freed device memory)";
    }
    auto found = at_or_before(all.device, address);
    if (found == all.device.end()) return "";
    const Allocation& allocation = found->second;
    if (byte >= allocation.mapping + allocation.mapped) return "";
    std::snprintf(text, sizeof text, ", byte %td of an allocation of %zu bytes", byte - found->first, allocation.bytes);
    return text;
}

}  // namespace emulated
