#include "execute.h"

#include <dirent.h>
#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "block.h"

namespace emulated {

namespace {

std::atomic<const char*> operation{nullptr};

// Kernel, block and thread of the calling OS thread, for messages.
void write_position(char* text, size_t size) {
    const BlockRunner* runner = current_runner();
    if (runner == nullptr) {
        const char* name = operation.load();
        std::snprintf(text, size, "%s", name == nullptr ? "outside device code" : name);
        return;
    }
    const Coordinates& at = coordinates;
    std::snprintf(text, size, "kernel %s, block (%u, %u, %u) of (%u, %u, %u), thread (%u, %u, %u) of (%u, %u, %u)",
                  runner->kernel()->name, at.block.x, at.block.y, at.block.z, at.grid_size.x, at.grid_size.y, at.grid_size.z,
                  at.thread.x, at.thread.y, at.thread.z, at.block_size.x, at.block_size.y, at.block_size.z);
}

}  // namespace

void set_operation(const char* name) { operation.store(name); }

void fail(const char* format, ...) {
    char position[400], message[800];
    write_position(position, sizeof position);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "emulated device: %s: %s\n", position, message);
    std::abort();
}

// ---- OS threads ----

namespace {

// Threads that wait for numbered pieces of one job at a time. The caller of `run` takes part.
class Pool {
  public:
    explicit Pool(unsigned threads) {
        for (unsigned i = 1; i < threads; ++i) std::thread([this] { serve(); }).detach();
    }

    void run(size_t count, const std::function<void(size_t)>& body) {
        std::lock_guard<std::mutex> one_job(job_);
        {
            std::lock_guard<std::mutex> lock(state_);
            body_ = &body;
            next_ = 0;
            count_ = count;
            ++generation_;
        }
        start_.notify_all();
        inside_ = true;
        work(count, body);
        inside_ = false;
        std::unique_lock<std::mutex> lock(state_);
        finished_.wait(lock, [this] { return busy_ == 0; });
        body_ = nullptr;
    }

    static bool is_inside() { return inside_; }

  private:
    void work(size_t count, const std::function<void(size_t)>& body) {
        for (size_t i; (i = next_.fetch_add(1)) < count;) body(i);
    }

    void serve() {
        stack_t stack{};
        stack.ss_size = 64 * 1024;
        stack.ss_sp = std::malloc(stack.ss_size);
        sigaltstack(&stack, nullptr);
        inside_ = true;
        size_t seen = 0;
        for (;;) {
            std::unique_lock<std::mutex> lock(state_);
            start_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (body_ == nullptr) continue;
            const auto* body = body_;
            size_t count = count_;
            ++busy_;
            lock.unlock();
            work(count, *body);
            lock.lock();
            if (--busy_ == 0) finished_.notify_all();
        }
    }

    std::mutex job_, state_;
    std::condition_variable start_, finished_;
    const std::function<void(size_t)>* body_ = nullptr;
    std::atomic<size_t> next_{0};
    size_t count_ = 0, generation_ = 0, busy_ = 0;
    static thread_local bool inside_;
};
thread_local bool Pool::inside_ = false;

unsigned configured_threads() {
    const char* text = std::getenv("SWEEP_EMULATOR_THREADS");
    if (text == nullptr) return 2;
    char* end;
    long threads = std::strtol(text, &end, 10);
    if (*end != 0 || threads < 1 || threads > 256) fail("SWEEP_EMULATOR_THREADS is `%s`; it can be 1 to 256", text);
    return static_cast<unsigned>(threads);
}

unsigned thread_count() {
    static const unsigned threads = configured_threads();
    return threads;
}

}  // namespace

void parallel(size_t count, const std::function<void(size_t)>& body) {
    if (count <= 1 || thread_count() == 1 || Pool::is_inside()) {
        for (size_t i = 0; i < count; ++i) body(i);
        return;
    }
    // Never destroyed: its threads run until the process ends.
    static Pool* pool = new Pool(thread_count());
    pool->run(count, body);
}

// ---- Launches ----

namespace {

std::map<std::string, Kernel>& kernels() {
    static auto* all = new std::map<std::string, Kernel>;
    return *all;
}

// Below this many thread executions a launch stays on the calling OS thread: waking another costs as much.
constexpr unsigned long long THREADS_WORTH_SHARING = 8192;

Index3 block_of(unsigned long long index, Index3 grid) {
    return {static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
            static_cast<unsigned>(index / grid.x / grid.y)};
}

// Runners that no launch uses.
class Runners {
  public:
    std::unique_ptr<BlockRunner> take() {
        std::lock_guard<std::mutex> lock(mutex_);
        if (free_.empty()) return std::make_unique<BlockRunner>();
        auto runner = std::move(free_.back());
        free_.pop_back();
        return runner;
    }
    void give_back(std::unique_ptr<BlockRunner> runner) {
        std::lock_guard<std::mutex> lock(mutex_);
        free_.push_back(std::move(runner));
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<BlockRunner>> free_;
};

Runners& runners() {
    static auto* all = new Runners;
    return *all;
}

std::string kernel_folder() {
    if (const char* folder = std::getenv("SWEEP_EMULATOR_KERNELS")) return folder;
    Dl_info here;
    if (dladdr(reinterpret_cast<void*>(&kernel_folder), &here) == 0) fail("cannot find the folder of libcuda.so.1");
    std::string path = here.dli_fname;
    size_t slash = path.rfind('/');
    return (slash == std::string::npos ? std::string(".") : path.substr(0, slash)) + "/kernels";
}

void load_kernels() {
    std::string folder = kernel_folder();
    std::vector<std::string> files;
    if (DIR* open = opendir(folder.c_str())) {
        while (const dirent* entry = readdir(open)) {
            std::string name = entry->d_name;
            if (name.size() > 3 && name.compare(name.size() - 3, 3, ".so") == 0) files.push_back(folder + "/" + name);
        }
        closedir(open);
    }
    for (const std::string& file : files) {
        if (dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) fail("cannot load compiled kernels: %s", dlerror());
    }
}

}  // namespace

void register_kernel(const Kernel& kernel) {
    if (!kernels().emplace(kernel.name, kernel).second) fail("two kernels are called `%s`", kernel.name);
}

const Kernel* find_kernel(const char* name) {
    static std::once_flag once;
    std::call_once(once, load_kernels);
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

void run_kernel(const Kernel& kernel, Index3 grid, Index3 block, size_t shared_bytes, void* const* parameters) {
    unsigned long long blocks = grid.volume();
    bool share = blocks > 1 && blocks * block.volume() >= THREADS_WORTH_SHARING;
    std::atomic<unsigned long long> next{0};
    parallel(share ? std::min<unsigned long long>(blocks, thread_count()) : 1, [&](size_t) {
        auto runner = runners().take();
        runner->begin_launch(kernel, grid, block, shared_bytes, parameters);
        for (unsigned long long i; (i = next.fetch_add(1)) < blocks;) {
            runner->run(block_of(configured_order() == Order::reverse ? blocks - 1 - i : i, grid));
        }
        runner->end_launch();
        runners().give_back(std::move(runner));
    });
}

// ---- Faults ----

namespace {

struct sigaction previous_segv, previous_bus;

void on_fault(int signal, siginfo_t* info, void*) {
    bool inside = current_runner() != nullptr || operation.load() != nullptr;
    if (inside) {
        char position[400], text[900];
        write_position(position, sizeof position);
        int length = std::snprintf(text, sizeof text, "emulated device: %s: illegal access at %p%s\n", position, info->si_addr,
                                   describe_address(info->si_addr));
        ssize_t written = write(STDERR_FILENO, text, static_cast<size_t>(length));
        static_cast<void>(written);
    }
    // With the handler before ours in place again, the instruction faults once more and ends the process as usual.
    sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
}

}  // namespace

void install_fault_handler() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action{};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    });
}

}  // namespace emulated
