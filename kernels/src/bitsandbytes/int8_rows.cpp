#include "bitsandbytes/int8_rows.h"

#include <cstring>

#include "bitsandbytes/stored.h"
#include "lanes.h"
#include "unit.h"

namespace quantmill {
namespace {

// The nearest whole numbers, half to even; all are within -127 .. 127.
void store_nearest(const Floats& values, int8_t* codes) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(values)));
#elif defined(__x86_64__)
    __m128 q[4];
    std::memcpy(q, &values, sizeof q);
    const __m128i low = _mm_packs_epi32(_mm_cvtps_epi32(q[0]), _mm_cvtps_epi32(q[1]));
    const __m128i high = _mm_packs_epi32(_mm_cvtps_epi32(q[2]), _mm_cvtps_epi32(q[3]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm_packs_epi16(low, high));
#else
    store_signed_bytes(nearest(values), codes);
#endif
}

template <typename Stored>
float encode_stored(const void* values, size_t cols, int8_t* codes) {
    const Stored* const stored = static_cast<const Stored*>(values);
    const float absmax = largest_magnitude(stored, cols);
    if (!is_finite(absmax)) return absmax;
    const float factor = 1.0f / absmax * 127.0f;
    if (!is_finite(factor)) {
        std::memset(codes, 0, cols);
        return absmax;
    }
    size_t i = 0;
    for (; i + lanes <= cols; i += lanes) store_nearest(sixteen(stored + i) * factor, codes + i);
    for (; i < cols; ++i) codes[i] = static_cast<int8_t>(nearest(to_float(stored[i]) * factor));
    return absmax;
}

float encode(Source source, const void* values, size_t cols, int8_t* codes) {
    switch (source) {
        case Source::float32: return encode_stored<Single>(values, cols, codes);
        case Source::float16: return encode_stored<Half>(values, cols, codes);
        case Source::bfloat16: return encode_stored<Bfloat>(values, cols, codes);
    }
    return 0.0f;
}

void decode(const int8_t* codes, float absmax, size_t cols, float* values) {
    for (size_t i = 0; i < cols; ++i) values[i] = static_cast<float>(codes[i]) * absmax * (1.0f / 127.0f);
}

constexpr Int8Row kernels = {encode, decode};

}  // namespace

template <>
const Int8Row& int8_row<unit>() {
    return kernels;
}

}  // namespace quantmill
