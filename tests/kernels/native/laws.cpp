// Exits with 1 if a law is broken.
#include "laws.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "threads.h"

namespace quantmill {
namespace {

int broken = 0;

void test_an_exception_in_a_thread_comes_back() {
    bool caught = false;
    try {
        for_rows(1000, 1, 4, [](size_t first, size_t) { return first == 500 ? throw 1 : true; });
    } catch (int) {
        caught = true;
    }
    expect(caught, "an exception in a thread comes back");
}

}  // namespace

void expect(bool holds, const std::string& law) {
    if (holds) return;
    std::printf("broken: %s\n", law.c_str());
    ++broken;
}

std::vector<float> noise(std::mt19937& random, size_t n, float magnitude) {
    std::student_t_distribution<float> values(3.0f);
    std::vector<float> row(n);
    for (float& value : row) value = values(random) * magnitude;
    return row;
}

std::vector<Isa> runnable_isas() {
    std::vector<Isa> isas;
    std::ranges::copy_if(built_isas(), std::back_inserter(isas), machine_has);
    return isas;
}

int broken_laws() {
    codec_laws();
    words_laws();
    test_an_exception_in_a_thread_comes_back();
    return broken;
}

}  // namespace quantmill

int main() {
    const int broken = quantmill::broken_laws();
    std::printf("%d laws broken\n", broken);
    return broken == 0 ? 0 : 1;
}
