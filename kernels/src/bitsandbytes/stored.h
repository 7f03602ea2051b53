// Values as they are stored, at any address: sixteen of them as floats, and the largest magnitude of a run.
// Internal linkage, see lanes.h.
#pragma once

#include <bit>
#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "float16.h"
#include "lanes.h"

namespace quantmill {
namespace {

// IEEE binary32, beside Half and Bfloat.
struct Single {
    uint8_t bytes[4];
};

inline float to_float(Single single) { return std::bit_cast<float>(single); }

// ---- sixteen values ----

template <typename Stored>
inline Floats sixteen(const Stored* values) {
    float widened[lanes];
    for (int i = 0; i < lanes; ++i) widened[i] = to_float(values[i]);
    return load(widened);
}

#if defined(__AVX512F__)
inline Floats sixteen(const Single* values) { return _mm512_loadu_ps(values); }
inline Floats sixteen(const Half* values) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
}
inline Floats sixteen(const Bfloat* values) {
    const __m512i widened = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
    return std::bit_cast<Floats>(_mm512_slli_epi32(widened, 16));
}
#elif defined(__AVX2__)
inline Floats sixteen(const Single* values) {
    const float* const floats = reinterpret_cast<const float*>(values);
    return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
}
inline Floats sixteen(const Half* values) {
    const auto eight = [](const Half* halves) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
    };
    return {eight(values), eight(values + 8)};
}
inline Floats sixteen(const Bfloat* values) {
    const auto eight = [](const Bfloat* bfloats) {
        const __m256i widened = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bfloats)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(widened, 16));
    };
    return {eight(values), eight(values + 8)};
}
#endif

// ---- the largest magnitude ----

// Without the sign the bits of two values are ordered as their magnitudes are, and those of infinity and NaN stand
// above all others.
inline uint32_t magnitude_of(Single single) { return std::bit_cast<uint32_t>(single) & 0x7FFFFFFFu; }
inline uint16_t magnitude_of(Half half) { return bits_of(half) & 0x7FFFu; }
inline uint16_t magnitude_of(Bfloat bfloat) { return bits_of(bfloat) & 0x7FFFu; }

#if defined(__AVX2__)
inline __m256i larger_of(__m256i a, __m256i b, uint16_t) { return _mm256_max_epu16(a, b); }
inline __m256i larger_of(__m256i a, __m256i b, uint32_t) { return _mm256_max_epu32(a, b); }

inline uint16_t largest_part(__m256i a, uint16_t) {
    const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i complements = _mm_xor_si128(eight, _mm_set1_epi16(-1));
    return static_cast<uint16_t>(~_mm_cvtsi128_si32(_mm_minpos_epu16(complements)));
}
inline uint32_t largest_part(__m256i a, uint32_t) {
    const __m128i four = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0b01'00'11'10));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0b10'11'00'01))));
}
#endif

#if defined(__AVX512F__)
using Bits = __m512i;
inline Bits load_bits(const void* values) { return _mm512_loadu_si512(values); }
inline Bits without_sign(Bits bits, uint16_t) { return _mm512_and_si512(bits, _mm512_set1_epi16(0x7FFF)); }
inline Bits without_sign(Bits bits, uint32_t) { return _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF)); }
inline Bits larger_of(Bits a, Bits b, uint16_t) { return _mm512_max_epu16(a, b); }
inline Bits larger_of(Bits a, Bits b, uint32_t) { return _mm512_max_epu32(a, b); }
template <typename Part>
inline Part largest_part(Bits a, Part part) {
    return largest_part(larger_of(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1), part), part);
}
#elif defined(__AVX2__)
using Bits = __m256i;
inline Bits load_bits(const void* values) { return _mm256_loadu_si256(static_cast<const __m256i*>(values)); }
inline Bits without_sign(Bits bits, uint16_t) { return _mm256_and_si256(bits, _mm256_set1_epi16(0x7FFF)); }
inline Bits without_sign(Bits bits, uint32_t) { return _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF)); }
#endif

// Infinity or NaN if the values are not all finite.
template <typename Stored>
inline float largest_magnitude(const Stored* values, size_t n) {
    using Magnitude = decltype(magnitude_of(Stored{}));
    Magnitude largest = 0;
    size_t i = 0;
#if defined(__AVX2__)
    constexpr size_t step = sizeof(Bits) / sizeof(Stored);
    Bits running = {};
    for (; i + step <= n; i += step) {
        running = larger_of(running, without_sign(load_bits(values + i), largest), largest);
    }
    largest = largest_part(running, largest);
#endif
    for (; i < n; ++i) {
        const Magnitude magnitude = magnitude_of(values[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return to_float(std::bit_cast<Stored>(largest));
}

inline bool is_finite(float magnitude) { return magnitude <= FLT_MAX; }

}  // namespace
}  // namespace quantmill
