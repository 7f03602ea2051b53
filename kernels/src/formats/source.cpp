#include "formats/source.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "float16.h"
#include "unit.h"

namespace quantmill {
namespace {

template <typename Stored>
void widen_as(const void* values, size_t n, float* widened) {
    const Stored* const stored = static_cast<const Stored*>(values);
    for (size_t i = 0; i < n; ++i) widened[i] = to_float(stored[i]);
}

void widen(Source source, const void* values, size_t n, float* widened) {
    switch (source) {
        case Source::float32: std::memcpy(widened, values, n * sizeof(float)); break;
        case Source::float16: widen_as<Half>(values, n, widened); break;
        case Source::bfloat16: widen_as<Bfloat>(values, n, widened); break;
    }
}

size_t first_unstorable(const float* values, size_t n, float largest) {
    constexpr size_t stride = 64;  // a branch per stride, not per value, lets the compiler vectorize the comparison
    for (size_t first = 0; first < n; first += stride) {
        const size_t last = n - first < stride ? n : first + stride;
        int bad = 0;
        for (size_t i = first; i < last; ++i) bad |= !(std::fabs(values[i]) <= largest);  // NaN compares false
        if (bad == 0) continue;
        for (size_t i = first; i < last; ++i) {
            if (!(std::fabs(values[i]) <= largest)) return i;
        }
    }
    return n;
}

constexpr SourceReader reader = {widen, first_unstorable};

}  // namespace

template <>
const SourceReader& source_reader<unit>() {
    return reader;
}

}  // namespace quantmill
