// Lanes: the same computation on sixteen blocks side by side, one block a lane. Sums run over the elements of a block in
// their order, so the width of the registers never changes a bit of the result. Compiled again for every instruction
// set, hence the unnamed namespace: a baseline unit must never be linked to a copy made for a newer machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

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
QUANTMILL_WIDE_OPERATOR(>=)
QUANTMILL_WIDE_OPERATOR(==)
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

// Register by register: a copy of the whole goes through memory, in pieces that the next load has to wait for.
template <typename Register>
struct Memory {
    static Register load(const float* values) {
        Register loaded;
        std::memcpy(&loaded, values, sizeof loaded);
        return loaded;
    }
    static void store(const Register& stored, float* values) { std::memcpy(values, &stored, sizeof stored); }
};
template <typename Part>
struct Memory<Wide<Part>> {
    static constexpr int lanes_of_part = sizeof(Part) / sizeof(float);

    static Wide<Part> load(const float* values) {
        return {Memory<Part>::load(values), Memory<Part>::load(values + lanes_of_part)};
    }
    static void store(const Wide<Part>& stored, float* values) {
        Memory<Part>::store(stored.low, values);
        Memory<Part>::store(stored.high, values + lanes_of_part);
    }
};

template <typename Register = Floats>
inline Register load(const float* values) {
    return Memory<Register>::load(values);
}
template <typename Register>
inline void store(const Register& stored, float* values) {
    Memory<Register>::store(stored, values);
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

template <typename Body, int... j>
inline void unrolled(const Body& body, std::integer_sequence<int, j...>) {
    (body(std::integral_constant<int, j>()), ...);
}

// body(0) .. body(n - 1), each a constant: a shift of bytes by a constant is two instructions.
template <int n, typename Body>
inline void unrolled(const Body& body) {
    unrolled(body, std::make_integer_sequence<int, n>());
}

// Sixteen codes of a byte each, in the registers that every 64-bit machine has.
using Bytes = uint8_t __attribute__((vector_size(16)));

inline Bytes load_bytes(const uint8_t* bytes) {
    Bytes loaded;
    std::memcpy(&loaded, bytes, sizeof loaded);
    return loaded;
}

inline void store(const Bytes& stored, uint8_t* bytes) { std::memcpy(bytes, &stored, sizeof stored); }

inline Bytes bytes_of_eights(uint64_t first, uint64_t last) {
    using Eights = uint64_t __attribute__((vector_size(16)));
    return reinterpret_cast<Bytes>(Eights{first, last});
}

#if defined(__x86_64__) && !defined(__AVX512F__)
// Sixteen integers as eight pairs of bytes would be out of order: the packs work within 128 bits.
struct Shorts {
    __m128i low, high;
};

inline Shorts truncated(const Floats& codes) {
#if defined(__AVX2__)
    const __m256i packed = _mm256_packs_epi32(_mm256_cvttps_epi32(codes.low), _mm256_cvttps_epi32(codes.high));
    const __m256i ordered = _mm256_permute4x64_epi64(packed, 0b11011000);
    return {_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)};
#else
    return {_mm_packs_epi32(_mm_cvttps_epi32(codes.low.low), _mm_cvttps_epi32(codes.low.high)),
            _mm_packs_epi32(_mm_cvttps_epi32(codes.high.low), _mm_cvttps_epi32(codes.high.high))};
#endif
}
#endif

// Whole numbers 0 .. 255 after truncation.
inline Bytes bytes_of(const Floats& codes) {
#if defined(__AVX512F__)
    return reinterpret_cast<Bytes>(_mm512_cvtepi32_epi8(_mm512_cvttps_epi32(codes)));
#elif defined(__x86_64__)
    const Shorts shorts = truncated(codes);
    return reinterpret_cast<Bytes>(_mm_packus_epi16(shorts.low, shorts.high));
#else
    float each[lanes];
    std::memcpy(each, &codes, sizeof each);
    Bytes bytes;
    for (int lane = 0; lane < lanes; ++lane) bytes[lane] = static_cast<uint8_t>(each[lane]);
    return bytes;
#endif
}

// Whole numbers -128 .. 127 after truncation, in two's complement.
inline Bytes signed_bytes_of(const Floats& codes) {
#if defined(__AVX512F__)
    return reinterpret_cast<Bytes>(_mm512_cvtepi32_epi8(_mm512_cvttps_epi32(codes)));
#elif defined(__x86_64__)
    const Shorts shorts = truncated(codes);
    return reinterpret_cast<Bytes>(_mm_packs_epi16(shorts.low, shorts.high));
#else
    float each[lanes];
    std::memcpy(each, &codes, sizeof each);
    Bytes bytes;
    for (int lane = 0; lane < lanes; ++lane) bytes[lane] = static_cast<uint8_t>(static_cast<int8_t>(each[lane]));
    return bytes;
#endif
}

inline void store_signed_bytes(const Floats& codes, int8_t* bytes) {
    const Bytes stored = signed_bytes_of(codes);
    std::memcpy(bytes, &stored, sizeof stored);
}

inline Floats floats_of(const Bytes& codes) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(reinterpret_cast<__m128i>(codes)));
#elif defined(__AVX2__)
    const __m128i low = reinterpret_cast<__m128i>(codes), high = _mm_unpackhi_epi64(low, low);
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high))};
#else
    float each[lanes];
    for (int lane = 0; lane < lanes; ++lane) each[lane] = codes[lane];
    return load(each);
#endif
}

inline Floats floats_of_signed(const Bytes& codes) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(codes)));
#elif defined(__AVX2__)
    const __m128i low = reinterpret_cast<__m128i>(codes), high = _mm_unpackhi_epi64(low, low);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))};
#else
    float each[lanes];
    for (int lane = 0; lane < lanes; ++lane) each[lane] = static_cast<int8_t>(codes[lane]);
    return load(each);
#endif
}

// Entry 0 .. 15 of the table for each code.
inline Bytes entries_of(const Bytes& table, const Bytes& codes) {
#if defined(__SSSE3__)
    return reinterpret_cast<Bytes>(
        _mm_shuffle_epi8(reinterpret_cast<__m128i>(table), reinterpret_cast<__m128i>(codes)));
#elif defined(__aarch64__)
    return vqtbl1q_u8(table, codes);
#else
    Bytes entries;
    for (int lane = 0; lane < lanes; ++lane) entries[lane] = table[codes[lane]];
    return entries;
#endif
}

// Bit j of the result is bit `bit` of byte j.
template <int bit>
inline uint16_t gather_bits(const Bytes& bytes) {
#if defined(__x86_64__)
    return static_cast<uint16_t>(_mm_movemask_epi8(reinterpret_cast<__m128i>(bytes << (7 - bit))));
#else
    uint64_t eight[2];
    std::memcpy(eight, &bytes, sizeof eight);
    // The product moves the bit of byte k to bit 56 + k.
    for (uint64_t& part : eight) part = (part >> bit & 0x0101010101010101u) * 0x0102040810204080u >> 56;
    return static_cast<uint16_t>(eight[0] | eight[1] << 8);
#endif
}

// 1 << `bit` in byte j where bit j is set, else 0.
template <int bit>
inline Bytes spread_bits(const uint8_t* two_bytes) {
    const Bytes spread = bytes_of_eights(two_bytes[0] * 0x0101010101010101u, two_bytes[1] * 0x0101010101010101u);
    constexpr Bytes each = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return reinterpret_cast<Bytes>((spread & each) == each) & static_cast<uint8_t>(1 << bit);
}

// What truncation makes the nearest whole number, halves away from zero: with 0.5 the value before a half would reach it.
inline Floats half_away(const Floats& value) {
    constexpr float half = 0.49999997f;
    return value + select(value < Floats{}, all(-half), all(half));
}

// Rounded to float16.
inline void store_halves(const Floats& values, Half* halves) {
#if defined(__AVX512F__)
    const __m256i rounded = _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(halves, &rounded, sizeof rounded);
#elif defined(__AVX2__)
    const __m128i low = _mm256_cvtps_ph(values.low, _MM_FROUND_TO_NEAREST_INT);
    const __m128i high = _mm256_cvtps_ph(values.high, _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(halves, &low, sizeof low);
    std::memcpy(halves + lanes / 2, &high, sizeof high);
#else
    float each[lanes];
    store(values, each);
    for (int lane = 0; lane < lanes; ++lane) halves[lane] = to_half(each[lane]);
#endif
}

inline Floats load_halves(const Half* halves) {
#if defined(__AVX512F__)
    __m256i loaded;
    std::memcpy(&loaded, halves, sizeof loaded);
    return _mm512_cvtph_ps(loaded);
#elif defined(__AVX2__)
    __m128i low, high;
    std::memcpy(&low, halves, sizeof low);
    std::memcpy(&high, halves + lanes / 2, sizeof high);
    return {_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)};
#else
    float each[lanes];
    for (int lane = 0; lane < lanes; ++lane) each[lane] = to_float(halves[lane]);
    return load(each);
#endif
}

inline Floats load_bfloats(const Bfloat* bfloats) {
#if defined(__AVX512F__)
    __m256i loaded;
    std::memcpy(&loaded, bfloats, sizeof loaded);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(loaded), 16));
#elif defined(__x86_64__)
    __m128i low, high;
    std::memcpy(&low, bfloats, sizeof low);
    std::memcpy(&high, bfloats + lanes / 2, sizeof high);
#if defined(__AVX2__)
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(low), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(high), 16))};
#else
    const __m128i zero = _mm_setzero_si128();
    return {{_mm_castsi128_ps(_mm_unpacklo_epi16(zero, low)), _mm_castsi128_ps(_mm_unpackhi_epi16(zero, low))},
            {_mm_castsi128_ps(_mm_unpacklo_epi16(zero, high)), _mm_castsi128_ps(_mm_unpackhi_epi16(zero, high))}};
#endif
#else
    float each[lanes];
    for (int lane = 0; lane < lanes; ++lane) each[lane] = to_float(bfloats[lane]);
    return load(each);
#endif
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

// ---- one value for each of sixteen blocks, left of the lanes of each ----

// As wide as the registers of the unit.
#if defined(__AVX512F__)
using Narrow = Floats;
#elif defined(__AVX2__)
using Narrow = Floats8;
#else
using Narrow = Floats4;
#endif

template <typename Pick>
inline Narrow narrowed(const Narrow& value, const Pick&) {
    return value;
}
template <typename Part, typename Pick>
inline Narrow narrowed(const Wide<Part>& value, const Pick& pick) {
    return narrowed(pick(value.low, value.high), pick);
}

// The first or the second half of each group of `size` lanes, of a and b in turns.
template <int size, bool second, int... lane>
inline Narrow halves_of_groups(const Narrow& a, const Narrow& b, std::integer_sequence<int, lane...>) {
    constexpr int half = size / 2, width = sizeof...(lane);
    return __builtin_shufflevector(
        a, b, (lane / half % 2 * width + lane / size * size + lane % half + (second ? half : 0))...);
}

// In lane k what `pick` leaves of the lanes of parts[k * stride]; on the way down the group of lanes is `stride` wide.
template <int stride = 1, typename Pick>
inline Narrow fold(const Narrow* parts, const Pick& pick) {
    constexpr int width = sizeof(Narrow) / sizeof(float);
    if constexpr (stride == width) {
        return *parts;
    } else {
        constexpr std::make_integer_sequence<int, width> each_lane;
        const Narrow a = fold<2 * stride>(parts, pick), b = fold<2 * stride>(parts + stride, pick);
        return pick(halves_of_groups<2 * stride, false>(a, b, each_lane),
                    halves_of_groups<2 * stride, true>(a, b, each_lane));
    }
}

template <typename Pick>
inline Floats fold_each(const Narrow (&parts)[lanes], const Pick& pick) {
    constexpr int width = sizeof(Narrow) / sizeof(float);
    float each[lanes];
    for (int first = 0; first < lanes; first += width) store(fold(parts + first, pick), each + first);
    return load(each);
}

// ---- sixteen blocks side by side ----

// Four lanes of a and b for each four lanes of the result: 0 .. 3 are those of a, 4 .. 7 those of b.
template <int first, int second, int third, int fourth, int... lane>
inline Narrow in_fours(const Narrow& a, const Narrow& b, std::integer_sequence<int, lane...>) {
    constexpr int from[4] = {first, second, third, fourth}, width = sizeof...(lane);
    return __builtin_shufflevector(
        a, b, (lane / 4 * 4 + from[lane % 4] % 4 + (from[lane % 4] < 4 ? 0 : width))...);
}

// Four values of every fourth block, as many blocks as fit.
inline Narrow fours_of(const float* const* blocks, int i) {
#if defined(__AVX512F__)
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(load<Floats4>(blocks[0] + i)),
                                            load<Floats4>(blocks[4] + i), 1);
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(load<Floats4>(blocks[8] + i)),
                                             load<Floats4>(blocks[12] + i), 1);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#elif defined(__AVX2__)
    return _mm256_insertf128_ps(_mm256_castps128_ps256(load<Floats4>(blocks[0] + i)), load<Floats4>(blocks[4] + i), 1);
#else
    return load<Floats4>(blocks[0] + i);
#endif
}

// Element i of each of the sixteen blocks, in turned[i].
template <int n>
inline void turn(const float* const (&blocks)[lanes], Floats (&turned)[n]) {
    static_assert(n % 4 == 0);
    constexpr int width = sizeof(Narrow) / sizeof(float);
    constexpr std::make_integer_sequence<int, width> each_lane;
    for (int i = 0; i < n; i += 4) {
        for (int lane = 0; lane < lanes; lane += width) {
            const Narrow a = fours_of(blocks + lane, i), b = fours_of(blocks + lane + 1, i);
            const Narrow c = fours_of(blocks + lane + 2, i), d = fours_of(blocks + lane + 3, i);
            const Narrow ab = in_fours<0, 4, 1, 5>(a, b, each_lane), cd = in_fours<0, 4, 1, 5>(c, d, each_lane);
            const Narrow ef = in_fours<2, 6, 3, 7>(a, b, each_lane), gh = in_fours<2, 6, 3, 7>(c, d, each_lane);
            const auto part = [&](int k) { return reinterpret_cast<float*>(&turned[i + k]) + lane; };
            store(in_fours<0, 1, 4, 5>(ab, cd, each_lane), part(0));
            store(in_fours<2, 3, 6, 7>(ab, cd, each_lane), part(1));
            store(in_fours<0, 1, 4, 5>(ef, gh, each_lane), part(2));
            store(in_fours<2, 3, 6, 7>(ef, gh, each_lane), part(3));
        }
    }
}

// ---- groups of lanes: the sub-blocks of one super-block ----

template <int distance, int... lane>
inline Narrow exchanged(const Narrow& value, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(value, value, (lane ^ distance)...);
}

// Lane k gets what lane k ^ distance has.
template <int distance>
inline Narrow exchanged(const Narrow& value) {
    return exchanged<distance>(value, std::make_integer_sequence<int, sizeof(Narrow) / sizeof(float)>());
}
template <int distance, typename Part>
inline Wide<Part> exchanged(const Wide<Part>& value) {
    if constexpr (distance * sizeof(float) == sizeof(Part)) {
        return {value.high, value.low};
    } else {
        return {exchanged<distance>(value.low), exchanged<distance>(value.high)};
    }
}

// What `pick` leaves of the lanes of each group, in all of them; it must not depend on the order of its arguments.
template <int group, typename Pick>
inline Floats over_groups(const Floats& value, const Pick& pick) {
    if constexpr (group == 1) {
        return value;
    } else {
        return over_groups<group / 2>(pick(value, exchanged<group / 2>(value)), pick);
    }
}

template <int group>
inline Floats sum_over_groups(const Floats& values) {
    return over_groups<group>(values, [](const Floats& a, const Floats& b) { return a + b; });
}

template <int group>
inline Floats largest_of_groups(const Floats& values) {
    return over_groups<group>(values, [](const Floats& a, const Floats& b) { return larger(a, b); });
}

}  // namespace
}  // namespace quantmill
