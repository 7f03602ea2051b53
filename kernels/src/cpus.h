// How many threads can run at once.
#pragma once

#include <cstddef>
#include <string>

namespace quantmill {

// The CPUs that this process may run on, fewer when its control group has a quota of processor time; at least 1. The
// group is looked for where containers mount their own, /sys/fs/cgroup.
size_t usable_cpus();

// CPUs that a quota "<microseconds> <microseconds of a period>" amounts to, rounded up; 0 when it is none: "max 100000"
// (control groups version 2), "-1 100000" (version 1), "".
size_t cpus_of_quota(const std::string& quota);

}  // namespace quantmill
