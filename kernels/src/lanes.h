// Lanes: the same computation on sixteen blocks side by side, one block a lane. Sums run over the elements of a block in
// their order, so the width of the registers never changes a bit of the result. Compiled again for every instruction
// set, hence the unnamed namespace: a baseline unit must never be linked to a copy made for a newer machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "float16.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace quantmill {
namespace {

// Twice the lanes of `Part`: two registers whose sums do not wait for each other.
template <typename Part>
struct Wide {
    Part low, high;
};

constexpr int lanes = 16;
using Floats4 = float __attribute__((vector_size(16)));  // every 64-bit machine has these registers
#if defined(__AVX512F__)
using Floats = float __attribute__((vector_size(64)));
#elif defined(__AVX2__)
using Floats8 = float __attribute__((vector_size(32)));
using Floats = Wide<Floats8>;
#else
using Floats = Wide<Wide<Floats4>>;
#endif

#define QUANTMILL_WIDE_OPERATOR(op)                                                  \
    template <typename Part>                                                         \
    inline auto operator op(const Wide<Part>& a, const Wide<Part>& b) {              \
        return Wide<decltype(a.low op b.low)>{a.low op b.low, a.high op b.high};     \
    }                                                                                \
    template <typename Part>                                                         \
    inline auto operator op(const Wide<Part>& a, float b) {                          \
        return Wide<decltype(a.low op b)>{a.low op b, a.high op b};                  \
    }                                                                                \
    template <typename Part>                                                         \
    inline auto operator op(float a, const Wide<Part>& b) {                          \
        return Wide<decltype(a op b.low)>{a op b.low, a op b.high};                  \
    }
QUANTMILL_WIDE_OPERATOR(+)
QUANTMILL_WIDE_OPERATOR(-)
QUANTMILL_WIDE_OPERATOR(*)
QUANTMILL_WIDE_OPERATOR(/)
QUANTMILL_WIDE_OPERATOR(<)
QUANTMILL_WIDE_OPERATOR(>)
#undef QUANTMILL_WIDE_OPERATOR

template <typename Part>
inline Wide<Part> operator&(const Wide<Part>& a, const Wide<Part>& b) {
    return {a.low & b.low, a.high & b.high};
}
template <typename Part>
inline Wide<Part> operator-(const Wide<Part>& a) {
    return {-a.low, -a.high};
}
template <typename Part>
inline Wide<Part>& operator+=(Wide<Part>& a, const Wide<Part>& b) {
    return a = a + b;
}
template <typename Part>
inline Wide<Part>& operator*=(Wide<Part>& a, const Wide<Part>& b) {
    return a = a * b;
}

// What a comparison gives: integers, -1 in the lanes where it holds.
template <typename Register>
using MaskOf = decltype(Register{} < Register{});
using Mask = MaskOf<Floats>;

template <typename Register = Floats>
inline Register load(const float* values) {
    Register loaded;
    std::memcpy(&loaded, values, sizeof loaded);
    return loaded;
}

template <typename Register>
inline void store(const Register& stored, float* values) {
    std::memcpy(values, &stored, sizeof stored);
}

inline Floats all(float value) { return value - Floats{}; }

template <typename Register>
inline Register select(const MaskOf<Register>& where, const Register& yes, const Register& no) {
    return where ? yes : no;
}
template <typename Part>
inline Wide<Part> select(const Wide<MaskOf<Part>>& where, const Wide<Part>& yes, const Wide<Part>& no) {
    return {select(where.low, yes.low, no.low), select(where.high, yes.high, no.high)};
}

// a > b ? a : b and a < b ? a : b: where a is NaN they give b. The compiler does not find the one instruction.
#if defined(__x86_64__)
inline Floats4 larger(const Floats4& a, const Floats4& b) { return _mm_max_ps(a, b); }
inline Floats4 smaller(const Floats4& a, const Floats4& b) { return _mm_min_ps(a, b); }
inline Floats4 square_root(const Floats4& a) { return _mm_sqrt_ps(a); }
#elif defined(__aarch64__)
inline Floats4 larger(const Floats4& a, const Floats4& b) { return a > b ? a : b; }
inline Floats4 smaller(const Floats4& a, const Floats4& b) { return a < b ? a : b; }
inline Floats4 square_root(const Floats4& a) { return vsqrtq_f32(a); }
#endif
#if defined(__AVX512F__)
inline Floats larger(const Floats& a, const Floats& b) { return _mm512_max_ps(a, b); }
inline Floats smaller(const Floats& a, const Floats& b) { return _mm512_min_ps(a, b); }
inline Floats square_root(const Floats& a) { return _mm512_sqrt_ps(a); }
#elif defined(__AVX2__)
inline Floats8 larger(const Floats8& a, const Floats8& b) { return _mm256_max_ps(a, b); }
inline Floats8 smaller(const Floats8& a, const Floats8& b) { return _mm256_min_ps(a, b); }
inline Floats8 square_root(const Floats8& a) { return _mm256_sqrt_ps(a); }
#endif
template <typename Part>
inline Wide<Part> larger(const Wide<Part>& a, const Wide<Part>& b) {
    return {larger(a.low, b.low), larger(a.high, b.high)};
}
template <typename Part>
inline Wide<Part> smaller(const Wide<Part>& a, const Wide<Part>& b) {
    return {smaller(a.low, b.low), smaller(a.high, b.high)};
}
template <typename Part>
inline Wide<Part> square_root(const Wide<Part>& a) {
    return {square_root(a.low), square_root(a.high)};
}

inline Floats absolute(const Floats& a) { return larger(a, -a); }

// Adding 1.5 * 2^23 pushes the fraction out of the mantissa: half to even for |value| < 2^22.
constexpr float rounder = 12582912.0f;

template <typename Value>
inline Value nearest(const Value& value) {
    return (value + rounder) - rounder;
}

// The nearest code, NaN gives `lowest`.
inline Floats nearest_code(const Floats& value, float lowest, float highest) {
    return nearest(smaller(larger(value, all(lowest)), all(highest)));
}

// Rounded to float16, and back.
inline Floats as_half(const Floats& value) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
    return {_mm256_cvtph_ps(_mm256_cvtps_ph(value.low, _MM_FROUND_TO_NEAREST_INT)),
            _mm256_cvtph_ps(_mm256_cvtps_ph(value.high, _MM_FROUND_TO_NEAREST_INT))};
#else
    float each[lanes];
    std::memcpy(each, &value, sizeof each);
    for (float& one : each) one = to_float(to_half(one));
    Floats rounded;
    std::memcpy(&rounded, each, sizeof rounded);
    return rounded;
#endif
}

// Whole numbers 0 .. 255 after truncation, one byte each.
inline void store_bytes(const Floats& codes, uint8_t* bytes) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(codes)));
#elif defined(__x86_64__)
    __m128 quarters[4];
    std::memcpy(quarters, &codes, sizeof quarters);
    const __m128i low = _mm_packs_epi32(_mm_cvttps_epi32(quarters[0]), _mm_cvttps_epi32(quarters[1]));
    const __m128i high = _mm_packs_epi32(_mm_cvttps_epi32(quarters[2]), _mm_cvttps_epi32(quarters[3]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm_packus_epi16(low, high));
#else
    float each[lanes];
    std::memcpy(each, &codes, sizeof each);
    for (int lane = 0; lane < lanes; ++lane) bytes[lane] = static_cast<uint8_t>(each[lane]);
#endif
}

// Whole numbers -127 .. 127, one byte each.
inline void store_signed_bytes(const Floats& codes, int8_t* bytes) {
    uint8_t shifted[lanes];
    store_bytes(codes + 128.0f, shifted);
    for (int lane = 0; lane < lanes; ++lane) bytes[lane] = static_cast<int8_t>(shifted[lane] - 128);
}

// 1 / value, and 0 where value is 0.
inline Floats inverse_of(const Floats& value) {
    return select(absolute(value) > Floats{}, 1.0f / value, Floats{});
}

inline float inverse_of(float value) { return std::fabs(value) > 0.0f ? 1.0f / value : 0.0f; }

#if defined(__AVX512F__)
inline float largest_lane(const Floats& a) { return _mm512_reduce_max_ps(a); }
#else
inline float largest_lane(const Floats4& a) {
    const Floats4 b = larger(a, __builtin_shufflevector(a, a, 2, 3, 0, 1));
    return larger(b, __builtin_shufflevector(b, b, 1, 0, 3, 2))[0];
}
#if defined(__AVX2__)
inline float largest_lane(const Floats8& a) {
    return largest_lane(larger(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)));
}
#endif
#endif
template <typename Part>
inline float largest_lane(const Wide<Part>& a) {
    return largest_lane(larger(a.low, a.high));
}
// Element i of each of the sixteen blocks, in turned[i].
template <int n>
inline void turn(const float* const (&blocks)[lanes], Floats (&turned)[n]) {
    static_assert(n % 4 == 0);
    float lines[n][lanes];
    for (int i = 0; i < n; i += 4) {
        for (int lane = 0; lane < lanes; lane += 4) {
            const auto a = load<Floats4>(blocks[lane] + i), b = load<Floats4>(blocks[lane + 1] + i);
            const auto c = load<Floats4>(blocks[lane + 2] + i), d = load<Floats4>(blocks[lane + 3] + i);
            const auto ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
            const auto ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            store(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), lines[i] + lane);
            store(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), lines[i + 1] + lane);
            store(__builtin_shufflevector(ef, gh, 0, 1, 4, 5), lines[i + 2] + lane);
            store(__builtin_shufflevector(ef, gh, 2, 3, 6, 7), lines[i + 3] + lane);
        }
    }
    for (int i = 0; i < n; ++i) turned[i] = load(lines[i]);
}

}  // namespace
}  // namespace quantmill
