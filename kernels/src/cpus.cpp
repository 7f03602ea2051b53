#include "cpus.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace quantmill {
namespace {

size_t cpus_of_affinity() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<size_t>(CPU_COUNT(&set));
#endif
    return std::thread::hardware_concurrency();  // also on a machine of more CPUs than the set has room for
}

std::string first_line(const char* file) {
    std::string line;
    std::ifstream stream(file);
    std::getline(stream, line);
    return line;
}

size_t cpus_of_control_group() {
    const size_t cpus = cpus_of_quota(first_line("/sys/fs/cgroup/cpu.max"));
    if (cpus > 0) return cpus;
    return cpus_of_quota(first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") + ' ' +
                         first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
}

}  // namespace

size_t cpus_of_quota(const std::string& quota) {
    long long microseconds = 0, period = 0;
    std::istringstream(quota) >> microseconds >> period;
    if (microseconds <= 0 || period <= 0) return 0;
    return static_cast<size_t>((microseconds + period - 1) / period);
}

size_t usable_cpus() {
    const size_t cpus = std::max<size_t>(1, cpus_of_affinity()), quota = cpus_of_control_group();
    return quota == 0 ? cpus : std::min(cpus, quota);
}

}  // namespace quantmill
