// What the formats with one scale per block share when nothing is searched: the range of a block gives the scale.
// Internal linkage, see lanes.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "block_batch.h"
#include "float16.h"
#include "lanes.h"
#include "rows_of_blocks.h"

namespace quantmill {
namespace {

struct Ranges {
    Floats low, high;

    Floats absmax() const { return larger(high, -low) + 0.0f; }  // zero is positive
};

template <size_t n>
inline Ranges ranges_of(const BlockBatch& batch) {
    const auto smaller_of = [](const auto& a, const auto& b) { return smaller(a, b); };
    const auto larger_of = [](const auto& a, const auto& b) { return larger(a, b); };
    Narrow lows[lanes], highs[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        const float* const x = batch.values[lane];
        Floats low = load(x), high = low;
        for (size_t i = lanes; i < n; i += lanes) {
            low = smaller(load(x + i), low);
            high = larger(load(x + i), high);
        }
        lows[lane] = narrowed(low, smaller_of);
        highs[lane] = narrowed(high, larger_of);
    }
    return {fold_each(lows, smaller_of), fold_each(highs, larger_of)};
}

// In the lanes where `doubtful` holds, the first value of the block whose magnitude is that of `values`.
template <size_t n>
inline Floats first_of_magnitude(const Floats& values, const Mask& doubtful, const BlockBatch& batch) {
    float holds[lanes], each[lanes];
    const Floats marks = select(doubtful, all(1.0f), Floats{});
    if (largest_lane(marks) == 0.0f) return values;
    store(marks, holds);
    store(values, each);
    for (int lane = 0; lane < lanes; ++lane) {
        for (size_t i = 0; holds[lane] > 0.0f && i < n; ++i) {
            if (std::fabs(batch.values[lane][i]) != std::fabs(each[lane])) continue;
            each[lane] = batch.values[lane][i];
            break;
        }
    }
    return load(each);
}

// The value of largest magnitude of each block with its sign; of two opposite ones the first.
template <size_t n>
inline Floats largest_of(const BlockBatch& batch) {
    const Ranges ranges = ranges_of<n>(batch);
    const Floats largest = select(ranges.high > -ranges.low, ranges.high, ranges.low);
    return first_of_magnitude<n>(largest, ranges.high + ranges.low == Floats{}, batch);
}

// The inverses of the scales by which codes are rounded. A block so small that its inverse overflows gets the code 0
// everywhere.
struct Rounding {
    float inverses[lanes], biases[lanes];

    Rounding(const Floats& scales, float half_up) {
        const Floats inverse = inverse_of(scales);
        const Mask is_finite = absolute(inverse) < all(std::numeric_limits<float>::infinity());
        store(select(is_finite, inverse, Floats{}), inverses);
        store(select(is_finite, all(half_up), Floats{}), biases);
    }
};

// The codes of the 32 values of a block.
struct Codes32 {
    Bytes first, second;
};

// x = scale * (code - levels), code 0 .. 2 levels - 1; calls `pack(b, scale, codes)`.
template <typename Pack>
inline void encode_range_signed(const RowsOfBlocks& rows, float levels, const Pack& pack) {
    for_batches<32>(rows, [&](const BlockBatch& batch) {
        const Floats largest = largest_of<32>(batch), top = all(2.0f * levels - 1.0f);
        const Floats scale = select(absolute(largest) > Floats{}, largest / -levels, all(-0.0f));
        const Rounding rounding(scale, levels + 0.5f);
        Half scales[lanes];
        store_halves(scale, scales);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            const float inverse = rounding.inverses[lane], bias = rounding.biases[lane];
            const auto code = [&](const float* x) { return bytes_of(smaller(load(x) * inverse + bias, top)); };
            const float* const x = batch.values[lane];
            pack(batch.first + lane, scales[lane], Codes32{code(x), code(x + lanes)});
        }
    });
}

// x = scale * code + minimum, code 0 .. highest; calls `pack(b, scale, minimum, codes)`.
template <typename Pack>
inline void encode_range_shifted(const RowsOfBlocks& rows, float highest, const Pack& pack) {
    for_batches<32>(rows, [&](const BlockBatch& batch) {
        const Ranges ranges = ranges_of<32>(batch);
        // Zero keeps the sign of the first one.
        const Floats low = first_of_magnitude<32>(ranges.low, ranges.low == Floats{}, batch), top = all(highest);
        const Floats scale = (ranges.high - low + 0.0f) / highest;  // never -0
        const Rounding rounding(scale, 0.5f);
        Half scales[lanes], minima[lanes];
        float lows[lanes];
        store_halves(scale, scales);
        store_halves(low, minima);
        store(low, lows);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            const float inverse = rounding.inverses[lane], bias = rounding.biases[lane], shift = lows[lane];
            const auto code = [&](const float* x) { return bytes_of(smaller((load(x) - shift) * inverse + bias, top)); };
            const float* const x = batch.values[lane];
            pack(batch.first + lane, scales[lane], minima[lane], Codes32{code(x), code(x + lanes)});
        }
    });
}

// Value j in the low half of byte j, value j + 16 in the high half.
inline void pack_halves(const Codes32& codes, uint8_t (&packed)[16]) {
    store((codes.first & 15) | codes.second << 4, packed);
}

inline Codes32 unpack_halves(const uint8_t (&packed)[16]) {
    const Bytes both = load_bytes(packed);
    return {both & 15, both >> 4};
}

// Bit j of the four bytes: the fifth bit of value j.
inline void pack_fifth_bits(const Codes32& codes, uint8_t (&packed)[4]) {
    const uint16_t bits[2] = {gather_bits<4>(codes.first), gather_bits<4>(codes.second)};
    std::memcpy(packed, bits, sizeof packed);
}

inline Codes32 with_fifth_bits(const Codes32& codes, const uint8_t (&packed)[4]) {
    return {codes.first | spread_bits<4>(packed), codes.second | spread_bits<4>(packed + 2)};
}

}  // namespace
}  // namespace quantmill
