// Every law. Exits with 1 if one is broken.
#include "laws.h"

#include <algorithm>
#include <iterator>

namespace quantmill {

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

}  // namespace quantmill

int main() {
    using namespace quantmill;
    codec_laws();
    bitsandbytes_laws();
    words_laws();
    small_float_laws();
    gptq_laws();
    hqq_laws();
    difference_laws();
    thread_laws();
    return report();
}
