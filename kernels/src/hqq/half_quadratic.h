// Half-quadratic quantization of groups: x ~ (code - zero) * scale, scale and zero searched for each group alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/source.h"
#include "isa.h"

namespace quantmill {

// A matrix as hqq groups it: reshaped to (count, size) for axis 1, to (size, count) for axis 0.
struct HqqGroups {
    Source source;
    const void* values;  // row-major, at any address
    size_t count;        // of groups
    size_t size;         // values in a group
    int axis;            // 1: a group stands in one piece; 0: its values are `count` apart
};

struct HqqSettings {
    int nbits;
    float lp_norm;         // p of the error sum |x - x'|^p, above 0, at most 1
    float beta, kappa;     // of the shrinking, and its growth in each round
    int iters;             // the most rounds
    bool integer_zero;     // zeros are codes: whole numbers in 0 .. 2^nbits - 1
    Source compute_dtype;  // what scales and zeros are rounded to
};

struct HqqResult {
    uint8_t* codes;  // in the shape of the groups
    float* scale;    // one per group
    float* zero;
};

struct HqqStored {
    const uint8_t* codes;
    const float* scale;
    const float* zero;
};

// Value i of sixteen groups, one a lane.
struct alignas(64) HqqLine {
    float values[16];
};

// What a thread works in: `size` lines, and the 16 * size values before they are turned.
struct HqqScratch {
    HqqLine* lines;
    float* widened;
};

struct HalfQuadratic {
    // Groups [first, last). False if one of them holds a value that is not finite or above largest_hqq_value().
    bool (*solve)(const HqqGroups& groups, const HqqSettings& settings, size_t first, size_t last,
                  const HqqScratch& scratch, const HqqResult& result);
    // Lines [first, last) of the grouped matrix, `length` codes each: (code - zero) * scale in float32. One scale and
    // zero per line for axis 1, one per column for axis 0.
    void (*reconstruct)(const HqqStored& stored, int axis, size_t length, size_t first, size_t last, float* values);
};

template <Isa> const HalfQuadratic& half_quadratic();

// Magnitudes above that are refused: their scales would not be finite in the compute dtype.
constexpr float largest_hqq_value(Source compute_dtype) {
    return compute_dtype == Source::float16 ? 32752.0f : 0x1p+100f;
}

}  // namespace quantmill
