#include "fp8_tile.h"

#include <cmath>

#include "../precision.h"
#include "../stored.h"
#include "../unit.h"
#include "small_float.h"

namespace quantmill {
namespace {

const uint8_t* row_of(const WeightTile& tile, size_t row) {
    return static_cast<const uint8_t*>(tile.values) + row * tile.stride * size_of(tile.source);
}

// A NaN is kept: the larger of two is not asked of it.
float absmax(const WeightTile& tile) {
    float largest = 0.0f;
    for (size_t row = 0; row < tile.rows; ++row) {
        const float of_row = largest_magnitude(tile.source, row_of(tile, row), tile.cols);
        if (!std::isfinite(of_row)) return of_row;
        largest = of_row > largest ? of_row : largest;
    }
    return largest;
}

// Its own function because compilers honour __restrict for parameters only.
template <Source source, Source precision>
void encode_span(const void* values, size_t n, float scale, uint8_t* __restrict codes) {
    for (size_t i = 0; i < n; ++i) codes[i] = to_e4m3(rounded<precision>(value_at<source>(values, i) / scale));
}

template <Source source>
void encode_from(const WeightTile& tile, float scale, Source precision, uint8_t* codes) {
    const auto span = precision == source ? encode_span<source, source> : encode_span<source, Source::float32>;
    for (size_t row = 0; row < tile.rows; ++row) span(row_of(tile, row), tile.cols, scale, codes + row * tile.stride);
}

void encode(const WeightTile& tile, float scale, Source precision, uint8_t* codes) {
    switch (tile.source) {
        case Source::float32: return encode_from<Source::float32>(tile, scale, precision, codes);
        case Source::float16: return encode_from<Source::float16>(tile, scale, precision, codes);
        case Source::bfloat16: return encode_from<Source::bfloat16>(tile, scale, precision, codes);
    }
}

void decode(const uint8_t* codes, size_t n, float scale, float* __restrict values) {
    for (size_t i = 0; i < n; ++i) values[i] = from_e4m3(codes[i]) * scale;
}

constexpr Fp8Kernels kernels = {absmax, encode, decode};

}  // namespace

template <>
const Fp8Kernels& fp8_kernels<unit>() {
    return kernels;
}

}  // namespace quantmill
