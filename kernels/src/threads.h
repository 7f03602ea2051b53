// Rows as work, and the one pool of threads that the process has for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <vector>

namespace quantmill {

using RowWork = std::function<bool(size_t first, size_t last)>;

// Calls `work(first, last)` on the calling thread and up to `threads - 1` helpers until rows [0, rows) are done or a
// call returns false. Ranges of at most `grain` rows are handed out in increasing order, and those handed out are
// finished: when some call returned false, every row below its range has been worked on. An exception of `work` stops
// the others too and is thrown here again.
//
// Calls from several threads share the helpers in turn, a few ranges at a time. Callers and helpers together are never
// more than the CPUs of the process, unless the callers alone are: then no helper runs, and each caller does its own rows.
void for_rows(size_t rows, size_t grain, size_t threads, const RowWork& work);

// The rows of one call of for_rows.
class RowJob {
public:
    RowJob(size_t rows, size_t grain, size_t threads, const RowWork& work);

    // Takes the next range and works on it; false when there is no next one.
    bool work_on_next_range();
    bool wants_help() const;
    // Throws what `work` threw, if it did.
    void rethrow() const;

    size_t helpers = 0;            // at work on it; guarded by the pool's mutex, as are the waits for `left`
    std::condition_variable left;  // a helper has left

private:
    const size_t rows_, grain_, most_helpers_;
    const RowWork& work_;
    std::mutex guards_failure_;
    std::exception_ptr failure_;
    std::atomic<bool> stopped_{false};
    alignas(64) std::atomic<size_t> next_{0};  // alone in its cache line, as every thread writes it
};

// Helpers are started when they are first wanted and sleep when nothing is. They are not ended: a pool must live as
// long as the process.
class ThreadPool {
public:
    // 0 cpus: as many as the process has when a helper is first wanted.
    explicit ThreadPool(size_t cpus = 0) : cpus_(cpus) {}
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Returns when no thread works on the job any more.
    void run(RowJob& job);
    // Threads that were started.
    size_t helpers();

private:
    void enter(RowJob& job);
    void leave(RowJob& job);
    // The rest is called with the mutex held.
    void rouse_a_helper();
    void start_a_helper();
    void help();
    RowJob* next_in_turn();
    bool has_a_free_cpu();

    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<RowJob*> jobs_;  // of the callers at work
    size_t turn_ = 0;            // where in jobs_ the next helper looks first
    size_t started_ = 0, asleep_ = 0, helping_ = 0;
    size_t cpus_;
};

}  // namespace quantmill
