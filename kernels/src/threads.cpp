#include "threads.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace quantmill {

void for_rows(size_t rows, size_t grain, size_t threads, const std::function<bool(size_t, size_t)>& work) {
    std::atomic<size_t> next{0};
    std::atomic<bool> stopped{false};
    std::exception_ptr failure;
    std::mutex guards_failure;
    const auto take_ranges = [&] {
        while (!stopped.load(std::memory_order_relaxed)) {
            const size_t first = next.fetch_add(grain, std::memory_order_relaxed);
            if (first >= rows) return;
            try {
                if (work(first, std::min(rows, first + grain))) continue;
            } catch (...) {
                const std::lock_guard lock(guards_failure);
                failure = std::current_exception();
            }
            stopped.store(true, std::memory_order_relaxed);
        }
    };

    const size_t ranges = (rows + grain - 1) / grain;
    std::vector<std::thread> others;
    others.reserve(std::min(threads, ranges));
    try {
        while (others.size() + 1 < std::min(threads, ranges)) others.emplace_back(take_ranges);
    } catch (const std::system_error&) {
        // The system grants no more threads: those that started and this one do all the work.
    }
    take_ranges();
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace quantmill
