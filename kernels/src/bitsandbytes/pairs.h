// Thirty-two values as sixteen pairs: the even ones side by side, and the odd ones, which is how two codes come to
// share a byte. A value becomes its place among the sorted bounds of a code book, two places become a byte.
// Internal linkage, see lanes.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "bitsandbytes/code_book.h"
#include "bitsandbytes/stored.h"
#include "lanes.h"

namespace quantmill {
namespace {

constexpr int pair_values = 2 * lanes;
using Places = Mask;  // sixteen integers

template <typename Register>
struct PairsOf {
    Register even, odd;
};
using Pairs = PairsOf<Floats>;

// ---- pairs of what is stored ----

inline PairsOf<Floats4> pairs_of(const Floats4& a, const Floats4& b) {
    return {__builtin_shufflevector(a, b, 0, 2, 4, 6), __builtin_shufflevector(a, b, 1, 3, 5, 7)};
}
#if defined(__AVX512F__)
inline Pairs pairs_of(const Floats& a, const Floats& b) {
    return {__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
            __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
}
#elif defined(__AVX2__)
inline PairsOf<Floats8> pairs_of(const Floats8& a, const Floats8& b) {
    const auto in_order = [](__m256 crossed) {  // a shuffle of two registers leaves their halves interleaved
        return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(crossed), 0b11'01'10'00));
    };
    return {in_order(_mm256_shuffle_ps(a, b, 0b10'00'10'00)), in_order(_mm256_shuffle_ps(a, b, 0b11'01'11'01))};
}
#endif

template <typename Part>
inline PairsOf<Wide<Part>> pairs_of(const Wide<Part>& a, const Wide<Part>& b) {
    const PairsOf<Part> low = pairs_of(a.low, a.high), high = pairs_of(b.low, b.high);
    return {{low.even, high.even}, {low.odd, high.odd}};
}

template <typename Stored>
inline Pairs pairs_of(const Stored* values) {
    return pairs_of(sixteen(values), sixteen(values + lanes));
}

// Two of them are one little-endian integer, whose lower half is the even one.
template <typename Register>
inline PairsOf<Register> split(const Bfloat* values, Register) {
    MaskOf<Register> twos;
    std::memcpy(&twos, values, sizeof twos);
    return {std::bit_cast<Register>(twos << 16), std::bit_cast<Register>(twos & -0x10000)};
}
template <typename Part>
inline PairsOf<Wide<Part>> split(const Bfloat* values, Wide<Part>) {
    const PairsOf<Part> low = split(values, Part{}), high = split(values + sizeof(Part) / sizeof(Bfloat), Part{});
    return {{low.even, high.even}, {low.odd, high.odd}};
}

inline Pairs pairs_of(const Bfloat* values) { return split(values, Floats{}); }

// ---- places among the bounds: how many bounds are below a value ----

template <const CodeBook& book>
inline MaskOf<Floats4> places(const Floats4& values) {
    MaskOf<Floats4> below = {};
    for (const float bound : book.bounds) below -= values > bound;
    return below;
}

#if defined(__AVX512F__)
template <const Buckets& buckets>
inline Places places_in_buckets(const Floats& values) {
    const __m512 rounded = _mm512_fmadd_ps(values, _mm512_set1_ps(Buckets::per_unit), _mm512_set1_ps(rounder));
    const __m512i bucket = _mm512_castps_si512(rounded);  // in its lowest five bits
    const __m512 bound = _mm512_permutex2var_ps(_mm512_loadu_ps(buckets.bound), bucket,
                                                _mm512_loadu_ps(buckets.bound + lanes));
    const __m512i place = _mm512_permutex2var_epi32(_mm512_loadu_si512(buckets.place), bucket,
                                                    _mm512_loadu_si512(buckets.place + lanes));
    const __mmask16 above = _mm512_cmp_ps_mask(values, bound, _CMP_GT_OQ);
    return std::bit_cast<Places>(_mm512_mask_add_epi32(place, above, place, _mm512_set1_epi32(1)));
}

template <const CodeBook& book>
inline Places places(const Floats& values) {
    static constexpr Buckets buckets = buckets_of(book);
    if constexpr (buckets.hold_one_each) return places_in_buckets<buckets>(values);
    constexpr auto& b = book.bounds;
    const __m512 second = _mm512_set1_ps(b[3]), second_above = _mm512_set1_ps(b[11]);
    const __m512 third = _mm512_setr_ps(b[1], 0, 0, 0, b[5], 0, 0, 0, b[9], 0, 0, 0, b[13], 0, 0, 0);
    const __m512 last = _mm512_setr_ps(b[0], 0, b[2], 0, b[4], 0, b[6], 0, b[8], 0, b[10], 0, b[12], 0, b[14], 0);
    const __mmask16 m1 = _mm512_cmp_ps_mask(values, _mm512_set1_ps(b[7]), _CMP_GT_OQ);
    const __mmask16 m2 = _mm512_cmp_ps_mask(values, _mm512_mask_blend_ps(m1, second, second_above), _CMP_GT_OQ);
    __m512i place = _mm512_maskz_set1_epi32(m1, 8);
    place = _mm512_mask_or_epi32(place, m2, place, _mm512_set1_epi32(4));
    const __mmask16 m3 = _mm512_cmp_ps_mask(values, _mm512_permutexvar_ps(place, third), _CMP_GT_OQ);
    place = _mm512_mask_or_epi32(place, m3, place, _mm512_set1_epi32(2));
    const __mmask16 m4 = _mm512_cmp_ps_mask(values, _mm512_permutexvar_ps(place, last), _CMP_GT_OQ);
    return std::bit_cast<Places>(_mm512_mask_or_epi32(place, m4, place, _mm512_set1_epi32(1)));
}
#elif defined(__AVX2__)
template <const CodeBook& book>
inline MaskOf<Floats8> places(const Floats8& values) {
    constexpr auto& b = book.bounds;
    const __m256 third = _mm256_setr_ps(b[1], b[5], b[9], b[13], b[1], b[5], b[9], b[13]);
    const __m256 last = _mm256_setr_ps(b[0], b[2], b[4], b[6], b[8], b[10], b[12], b[14]);
    const __m256 m1 = _mm256_cmp_ps(values, _mm256_set1_ps(b[7]), _CMP_GT_OQ);
    const __m256 second = _mm256_blendv_ps(_mm256_set1_ps(b[3]), _mm256_set1_ps(b[11]), m1);
    const __m256 m2 = _mm256_cmp_ps(values, second, _CMP_GT_OQ);
    const auto doubled = [](__m256i place, __m256 above) {
        return _mm256_sub_epi32(_mm256_add_epi32(place, place), _mm256_castps_si256(above));
    };
    __m256i place = doubled(_mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(m1)), m2);
    const __m256 m3 = _mm256_cmp_ps(values, _mm256_permutevar_ps(third, place), _CMP_GT_OQ);
    place = doubled(place, m3);
    const __m256 m4 = _mm256_cmp_ps(values, _mm256_permutevar8x32_ps(last, place), _CMP_GT_OQ);
    return std::bit_cast<MaskOf<Floats8>>(doubled(place, m4));
}
#endif
template <const CodeBook& book, typename Part>
inline Wide<MaskOf<Part>> places(const Wide<Part>& values) {
    return {places<book>(values.low), places<book>(values.high)};
}

// ---- bytes of two codes each ----

template <const CodeBook& book>
inline void store_codes(const Places& even, const Places& odd, uint8_t* bytes) {
#if defined(__AVX512F__)
    __m512i high = std::bit_cast<__m512i>(even), low = std::bit_cast<__m512i>(odd);
    if constexpr (!book.is_sorted()) {
        const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(book.codes)));
        high = _mm512_permutexvar_epi32(high, codes);
        low = _mm512_permutexvar_epi32(low, codes);
    }
    const __m512i pairs = _mm512_or_epi32(_mm512_slli_epi32(high, 4), low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(pairs));
#elif defined(__AVX2__)
    const auto narrow = [](const Places& wide) {
        __m128i quarters[4];
        std::memcpy(quarters, &wide, sizeof quarters);
        return _mm_packus_epi16(_mm_packs_epi32(quarters[0], quarters[1]), _mm_packs_epi32(quarters[2], quarters[3]));
    };
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(book.codes));
    const __m128i high = _mm_shuffle_epi8(codes, narrow(even)), low = _mm_shuffle_epi8(codes, narrow(odd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm_or_si128(_mm_slli_epi16(high, 4), low));
#else
    int32_t highs[lanes], lows[lanes];
    std::memcpy(highs, &even, sizeof highs);
    std::memcpy(lows, &odd, sizeof lows);
    for (int i = 0; i < lanes; ++i) bytes[i] = static_cast<uint8_t>(book.codes[highs[i]] << 4 | book.codes[lows[i]]);
#endif
}

// ---- and back ----

#if defined(__AVX2__)
// Each byte becomes two integers whose lowest four bits are its codes; the bits above are not cleared.
inline __m256i codes_of(uint32_t four_bytes) {
    const __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(static_cast<int>(four_bytes)));
    return _mm256_or_si256(_mm256_srli_epi64(bytes, 4), _mm256_slli_epi64(bytes, 32));
}
#endif

// Sixteen values of the book, from eight bytes.
inline Floats decode_pairs(const CodeBook& book, const uint8_t* bytes) {
#if defined(__AVX512F__)
    const __m512i wide = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
    const __m512i codes = _mm512_or_epi64(_mm512_srli_epi64(wide, 4), _mm512_slli_epi64(wide, 32));
    return _mm512_permutexvar_ps(codes, _mm512_loadu_ps(book.values));
#elif defined(__AVX2__)
    const __m256 low = _mm256_loadu_ps(book.values), high = _mm256_loadu_ps(book.values + 8);
    const auto eight = [&](const uint8_t* four) {
        uint32_t four_bytes;
        std::memcpy(&four_bytes, four, sizeof four_bytes);
        const __m256i codes = codes_of(four_bytes);
        const __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes), is_high);
    };
    return {eight(bytes), eight(bytes + 4)};
#else
    float values[lanes];
    for (int i = 0; i < lanes; i += 2) {
        values[i] = book.values[bytes[i / 2] >> 4];
        values[i + 1] = book.values[bytes[i / 2] & 15];
    }
    return load(values);
#endif
}

}  // namespace
}  // namespace quantmill
