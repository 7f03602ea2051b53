#include <atomic>
#include <cstdio>

#include "laws.h"

namespace quantmill {
namespace {

std::atomic<int> broken = 0;

}  // namespace

void expect(bool holds, const std::string& law) {
    if (holds) return;
    std::printf("broken: %s\n", law.c_str());
    ++broken;
}

int report() {
    std::printf("%d laws broken\n", broken.load());
    return broken == 0 ? 0 : 1;
}

}  // namespace quantmill
