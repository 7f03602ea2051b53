// The 4-bit data types of bitsandbytes: which values their codes stand for, and between which bounds a code is chosen.
// Internal linkage, see lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bitsandbytes/four_bits.h"

namespace quantmill {
namespace {

// A data type with its values in increasing order: sorted place p has the code codes[p], and a scaled weight belongs to
// place p when bounds[p - 1] < weight <= bounds[p]. Each bound is the float32 mean of its neighbours; a tie takes the
// lower value.
struct CodeBook {
    float values[16];   // by code
    uint8_t codes[16];  // by place
    float bounds[15];

    constexpr bool is_sorted() const {
        for (uint8_t place = 0; place < 16; ++place) {
            if (codes[place] != place) return false;
        }
        return true;
    }
};

constexpr CodeBook book_of(const float (&values)[16], const uint8_t (&codes)[16]) {
    CodeBook book = {};
    for (size_t i = 0; i < 16; ++i) book.values[i] = values[i];
    for (size_t i = 0; i < 16; ++i) book.codes[i] = codes[i];
    for (size_t i = 0; i < 15; ++i) book.bounds[i] = (values[codes[i]] + values[codes[i + 1]]) / 2.0f;
    return book;
}

// NormalFloat: quantiles of the normal distribution (QLoRA, section 3).
constexpr CodeBook nf4_book = book_of(
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});

// One sign bit, two of exponent, one of mantissa, over 12. Codes 0 and 8 both stand for zero: what is at most 0 takes
// code 0, what is above takes code 8.
constexpr CodeBook fp4_book = book_of(
    {0.0f, 0.0625f / 12.0f, 8.0f / 12.0f, 1.0f, 4.0f / 12.0f, 6.0f / 12.0f, 2.0f / 12.0f, 3.0f / 12.0f,
     0.0f, -0.0625f / 12.0f, -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -6.0f / 12.0f, -2.0f / 12.0f, -3.0f / 12.0f},
    {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3});

// The interval from -1 to 1 in 29 buckets of 1/14, bucket 0 around zero. Bucket -1 is the last of the 32 entries. No
// bucket holds two bounds, so one comparison finds the place of a value in it.
struct Buckets {
    static constexpr float per_unit = 14.0f;

    float bound[32];    // above 1 where there is none
    int32_t place[32];  // of what is not above the bound
    bool hold_one_each;
};

constexpr Buckets buckets_of(const CodeBook& book) {
    constexpr float slack = 0x1p-20f;  // the bucket of a value is found by arithmetic that rounds
    Buckets buckets = {};
    buckets.hold_one_each = true;
    for (int32_t bucket = -14; bucket <= 14; ++bucket) {
        const float low = (static_cast<float>(bucket) - 0.5f) / Buckets::per_unit - slack;
        const float high = (static_cast<float>(bucket) + 0.5f) / Buckets::per_unit + slack;
        int32_t below = 0, within = 0;
        for (const float bound : book.bounds) below += bound < low;
        for (const float bound : book.bounds) within += low <= bound && bound <= high;
        buckets.bound[bucket & 31] = within > 0 ? book.bounds[below] : 2.0f;
        buckets.place[bucket & 31] = below;
        buckets.hold_one_each &= within <= 1;
    }
    return buckets;
}

}  // namespace
}  // namespace quantmill
