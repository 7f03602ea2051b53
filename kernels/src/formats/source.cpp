#include "formats/source.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "unit.h"
#include "widen.h"

namespace quantmill {
namespace {

void widen(Source source, const void* values, size_t n, float* widened) {
    switch (source) {
        case Source::float32: std::memcpy(widened, values, n * sizeof(float)); break;
        case Source::float16: widen(static_cast<const Half*>(values), n, widened); break;
        case Source::bfloat16: widen(static_cast<const Bfloat*>(values), n, widened); break;
    }
}

// Magnitudes are compared as integers, of which NaN and infinity are the largest.
size_t first_unstorable(const float* values, size_t n, float largest) {
    constexpr size_t stride = 512;  // a branch per stride, not per value, lets the compiler vectorize the comparison
    const auto magnitude = [](float value) { return std::bit_cast<int32_t>(value) & 0x7FFFFFFF; };
    const int32_t most = magnitude(largest);
    for (size_t first = 0; first < n; first += stride) {
        const size_t last = n - first < stride ? n : first + stride;
        int32_t worst = 0;
        for (size_t i = first; i < last; ++i) worst = worst > magnitude(values[i]) ? worst : magnitude(values[i]);
        if (worst <= most) continue;
        for (size_t i = first; i < last; ++i) {
            if (magnitude(values[i]) > most) return i;
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
