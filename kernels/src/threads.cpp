#include "threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <new>
#include <system_error>
#include <thread>

#include "cpus.h"

namespace quantmill {
namespace {

constexpr int ranges_per_turn = 8;  // that a helper works on before it looks which job is next

// A thread starts with the signal mask of the one that starts it. Signals are for the program's own threads, but for
// those that a thread's own instructions raise.
class SignalsBlocked {
public:
    SignalsBlocked() {
        sigset_t blocked;
        sigfillset(&blocked);
        for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&blocked, own);
        pthread_sigmask(SIG_SETMASK, &blocked, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

private:
    sigset_t before_;
};

// Never destroyed, because helpers may still run when the process ends. A child of fork has none of the helpers, and a
// copy of the mutex that nobody will ever unlock: it begins with a new pool in the same place.
alignas(ThreadPool) unsigned char storage[sizeof(ThreadPool)];

ThreadPool& new_process_pool() { return *new (storage) ThreadPool; }

ThreadPool& process_pool = []() -> ThreadPool& {
    pthread_atfork(nullptr, nullptr, [] { new_process_pool(); });
    return new_process_pool();
}();

}  // namespace

RowJob::RowJob(size_t rows, size_t grain, size_t threads, const RowWork& work)
    : rows_(rows),
      grain_(grain),
      most_helpers_(std::max<size_t>(1, std::min(threads, (rows + grain - 1) / grain)) - 1),
      work_(work) {}

bool RowJob::work_on_next_range() {
    if (stopped_.load(std::memory_order_relaxed)) return false;
    const size_t first = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (first >= rows_) return false;
    try {
        if (work_(first, std::min(rows_, first + grain_))) return true;
    } catch (...) {
        const std::lock_guard lock(guards_failure_);
        failure_ = std::current_exception();
    }
    stopped_.store(true, std::memory_order_relaxed);
    return false;
}

bool RowJob::wants_help() const {
    return helpers < most_helpers_ && next_.load(std::memory_order_relaxed) < rows_ &&
           !stopped_.load(std::memory_order_relaxed);
}

void RowJob::rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
}

void ThreadPool::run(RowJob& job) {
    enter(job);
    while (job.work_on_next_range()) {
    }
    leave(job);
}

size_t ThreadPool::helpers() {
    const std::lock_guard lock(mutex_);
    return started_;
}

void ThreadPool::enter(RowJob& job) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(&job);
    rouse_a_helper();
}

void ThreadPool::leave(RowJob& job) {
    std::unique_lock lock(mutex_);
    std::erase(jobs_, &job);
    rouse_a_helper();  // for another job, on the CPU that this caller leaves
    job.left.wait(lock, [&] { return job.helpers == 0; });
}

// One, which rouses the next when it has found a job: waking a thread costs the caller microseconds.
void ThreadPool::rouse_a_helper() {
    if (std::ranges::none_of(jobs_, &RowJob::wants_help) || !has_a_free_cpu()) return;
    if (asleep_ > 0) {
        wake_.notify_one();
    } else if (started_ + 1 < cpus_) {
        start_a_helper();
    }
}

void ThreadPool::start_a_helper() {
    const SignalsBlocked inherited;
    try {
        std::thread helper([this] { help(); });
#if defined(__linux__)
        pthread_setname_np(helper.native_handle(), "quantmill rows");  // as top -H and /proc show it
#endif
        helper.detach();
        ++started_;
    } catch (const std::system_error&) {
        // The system grants no more threads: those that run do all the work.
    }
}

void ThreadPool::help() {
    std::unique_lock lock(mutex_);
    for (;;) {
        RowJob* const job = next_in_turn();
        if (job == nullptr) {
            ++asleep_;
            wake_.wait(lock);
            --asleep_;
            continue;
        }
        ++helping_;
        ++job->helpers;
        rouse_a_helper();
        lock.unlock();
        for (int range = 0; range < ranges_per_turn && job->work_on_next_range(); ++range) {
        }
        lock.lock();
        --helping_;
        --job->helpers;
        job->left.notify_one();
    }
}

RowJob* ThreadPool::next_in_turn() {
    if (!has_a_free_cpu()) return nullptr;
    for (size_t seen = 0; seen < jobs_.size(); ++seen) {
        RowJob* const job = jobs_[turn_++ % jobs_.size()];
        if (job->wants_help()) return job;
    }
    return nullptr;
}

bool ThreadPool::has_a_free_cpu() {
    if (cpus_ == 0) cpus_ = usable_cpus();
    return jobs_.size() + helping_ < cpus_;  // a listed job has its caller at work
}

void for_rows(size_t rows, size_t grain, size_t threads, const RowWork& work) {
    RowJob job(rows, grain, threads, work);
    process_pool.run(job);
    job.rethrow();
}

}  // namespace quantmill
