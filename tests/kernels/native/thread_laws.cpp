#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpus.h"
#include "laws.h"
#include "threads.h"

namespace quantmill {
namespace {

using namespace std::chrono_literals;

// Pools live as long as the process: their helpers sleep until it ends.
ThreadPool& pool_of(size_t cpus) {
    static auto* const pools = new std::list<ThreadPool>;
    return pools->emplace_back(cpus);
}

void run(ThreadPool& pool, size_t rows, size_t grain, size_t threads, const RowWork& work) {
    RowJob job(rows, grain, threads, work);
    pool.run(job);
    job.rethrow();
}

// Opens after `n` arrivals; who waits ten seconds gets false.
class Gate {
public:
    explicit Gate(size_t n) : missing_(n) {}

    void arrive() {
        const std::lock_guard lock(mutex_);
        if (missing_ > 0 && --missing_ == 0) opened_.notify_all();
    }
    bool wait() {
        std::unique_lock lock(mutex_);
        return opened_.wait_for(lock, 10s, [this] { return missing_ == 0; });
    }
    bool open() {
        const std::lock_guard lock(mutex_);
        return missing_ == 0;
    }
    bool pass() {
        arrive();
        return wait();
    }

private:
    std::mutex mutex_;
    std::condition_variable opened_;
    size_t missing_;
};

template <typename Body>
void at_the_same_time(size_t n, const Body& body) {
    std::vector<std::thread> callers;
    for (size_t caller = 0; caller < n; ++caller) callers.emplace_back(body, caller);
    for (std::thread& caller : callers) caller.join();
}

struct Shape {
    size_t rows, grain, threads;
};

void test_every_row_is_worked_on_once() {
    ThreadPool& pool = pool_of(5);
    for (const Shape shape : {Shape{0, 1, 4}, {1, 1, 4}, {7, 100, 4}, {1000, 1, 1}, {1000, 1, 2}, {1000, 7, 3},
                              {1001, 10, 64}}) {
        std::vector<int> visits(shape.rows);
        std::atomic<bool> in_grain = true;
        run(pool, shape.rows, shape.grain, shape.threads, [&](size_t first, size_t last) {
            for (size_t row = first; row < last; ++row) ++visits[row];
            if (first % shape.grain != 0 || last - first > shape.grain) in_grain = false;
            return true;
        });
        const bool once = visits == std::vector<int>(shape.rows, 1);
        expect(once && in_grain, "every row is worked on once, in ranges of the grain");
    }
}

void test_rows_below_a_refused_one_are_worked_on() {
    ThreadPool& pool = pool_of(4);
    for (int round = 0; round < 50; ++round) {
        std::vector<int> visits(1000);
        std::mutex guards_first;
        size_t first_refused = 1000;
        run(pool, 1000, 1, 4, [&](size_t row, size_t) {
            ++visits[row];
            if (row != 500 && row != 501 && row != 900) return true;
            const std::lock_guard lock(guards_first);
            first_refused = std::min(first_refused, row);
            return false;
        });
        expect(first_refused == 500, "the first refused row does not depend on threads");
        expect(std::accumulate(visits.begin(), visits.begin() + 501, 0) == 501, "rows below a refused one are done");
    }
}

void test_an_exception_comes_back_to_its_caller() {
    ThreadPool& pool = pool_of(6);
    at_the_same_time(4, [&](size_t caller) {
        for (int round = 0; round < 50; ++round) {
            size_t caught = 99;
            try {
                run(pool, 100, 1, 4, [&](size_t row, size_t) { return row == 50 ? throw caller : true; });
            } catch (size_t thrown) {
                caught = thrown;
            }
            expect(caught == caller, "an exception comes back to its caller");
        }
    });
}

void test_callers_at_the_same_time_get_their_own_rows() {
    ThreadPool& pool = pool_of(6);
    at_the_same_time(4, [&](size_t caller) {
        for (int round = 0; round < 200; ++round) {
            std::vector<size_t> rows(64);
            run(pool, rows.size(), 3, 1 + caller, [&](size_t first, size_t last) {
                for (size_t row = first; row < last; ++row) rows[row] = 100 * caller + row;
                return true;
            });
            for (size_t row = 0; row < rows.size(); ++row) {
                expect(rows[row] == 100 * caller + row, "callers at the same time get their own rows");
            }
        }
    });
}

void test_as_many_threads_help_as_are_asked_for() {
    ThreadPool& pool = pool_of(8);
    Gate four(4);
    std::atomic<bool> met = true;
    run(pool, 4, 1, 4, [&](size_t, size_t) {
        if (!four.pass()) met = false;
        return true;
    });
    expect(met && pool.helpers() == 3, "as many threads help as are asked for");
}

void test_no_helper_starts_for_one_thread_or_one_range() {
    ThreadPool& pool = pool_of(8);
    const RowWork nothing = [](size_t, size_t) { return true; };
    run(pool, 1000, 1, 1, nothing);
    run(pool, 1000, 1000, 8, nothing);
    run(pool, 0, 1, 8, nothing);
    expect(pool.helpers() == 0, "no helper starts for one thread or one range");
}

void test_helpers_are_fewer_than_the_cpus() {
    ThreadPool& pool = pool_of(3);
    at_the_same_time(5, [&](size_t) {
        for (int round = 0; round < 50; ++round) run(pool, 50, 1, 64, [](size_t, size_t) { return true; });
    });
    expect(pool.helpers() <= 2, "helpers are fewer than the CPUs");
}

void test_no_helper_joins_when_the_callers_fill_the_cpus() {
    ThreadPool& pool = pool_of(2);
    run(pool, 100, 1, 2, [](size_t, size_t) { return true; });  // the one helper is there
    Gate two_at_work(2), done(2);
    std::thread other([&] {
        run(pool, 1, 1, 1, [&](size_t, size_t) { return two_at_work.pass() && done.pass(); });
    });
    two_at_work.pass();
    std::atomic<size_t> by_helpers = 0;
    run(pool, 1000, 1, 2, [&, caller = std::this_thread::get_id()](size_t, size_t) {
        by_helpers += std::this_thread::get_id() != caller;
        return true;
    });
    done.pass();
    other.join();
    expect(by_helpers == 0, "no helper joins when the callers fill the CPUs");
}

void test_callers_share_a_helper_in_turn() {
    ThreadPool& pool = pool_of(3);  // two callers, so one helper
    Gate both_at_work(2), helped(1000);
    std::atomic<bool> met = true;
    std::atomic<size_t> ranges_of[2] = {};
    at_the_same_time(2, [&](size_t caller) {
        bool begun = false;
        run(pool, 2000, 1, 2, [&, thread = std::this_thread::get_id()](size_t, size_t) {
            if (std::this_thread::get_id() != thread) {
                if (!both_at_work.wait()) met = false;
                if (!helped.open()) ++ranges_of[caller];
                helped.arrive();
            } else if (!std::exchange(begun, true)) {
                both_at_work.arrive();
                if (!helped.wait()) met = false;
            }
            return true;
        });
    });
    const bool alike = ranges_of[0] > 400 && ranges_of[1] > 400;
    expect(met && alike, "callers share a helper in turn");
}

void test_a_job_inside_a_job_is_done() {
    ThreadPool& pool = pool_of(3);
    std::atomic<size_t> rows = 0;
    run(pool, 10, 1, 3, [&](size_t, size_t) {
        run(pool, 10, 1, 3, [&](size_t, size_t) { return ++rows > 0; });
        return true;
    });
    expect(rows == 100, "a job inside a job is done");
}

void test_a_quota_of_processor_time_counts_as_cpus() {
    for (const auto& [quota, cpus] : std::map<std::string, size_t>{{"400000 100000", 4}, {"250000 100000", 3},
                                                                   {"1000 100000", 1}, {"max 100000", 0},
                                                                   {"-1 100000", 0}, {"-1", 0}, {" ", 0}, {"", 0}}) {
        expect(cpus_of_quota(quota) == cpus, "the quota '" + quota + "' is " + std::to_string(cpus) + " CPUs");
    }
    expect(usable_cpus() >= 1, "a process has a CPU");
}

}  // namespace

void thread_laws() {
    test_every_row_is_worked_on_once();
    test_rows_below_a_refused_one_are_worked_on();
    test_an_exception_comes_back_to_its_caller();
    test_callers_at_the_same_time_get_their_own_rows();
    test_as_many_threads_help_as_are_asked_for();
    test_no_helper_starts_for_one_thread_or_one_range();
    test_helpers_are_fewer_than_the_cpus();
    test_no_helper_joins_when_the_callers_fill_the_cpus();
    test_callers_share_a_helper_in_turn();
    test_a_job_inside_a_job_is_done();
    test_a_quota_of_processor_time_counts_as_cpus();
}

}  // namespace quantmill
