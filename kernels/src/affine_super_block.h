// What Q4_K and Q5_K share: 256 values in 8 sub-blocks of 32, x = d * scale * code - dmin * minimum, with 6-bit scales
// and minima. They differ in the number of codes and in how the codes are packed. Internal linkage, see float16.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "float16.h"
#include "lanes.h"
#include "rounding.h"
#include "search.h"
#include "six_bit_scales.h"

namespace quantmill {

struct AffineSuperBlock {
    Half d;     // of the scales
    Half dmin;  // of the minima
    SixBitScales scales;
    uint8_t codes[256];  // 0 .. top, one a byte
};

// Value = spacing[j] * code - offset[j] for sub-block j.
struct AffineScales {
    float spacing[8], offset[8];
};

static inline AffineScales affine_scales(Half d, Half dmin, const SixBitScales& packed) {
    uint8_t scales[8], minima[8];
    unpack(packed, scales, minima);
    AffineScales unpacked;
    for (int j = 0; j < 8; ++j) {
        unpacked.spacing[j] = to_float(d) * static_cast<float>(scales[j]);
        unpacked.offset[j] = to_float(dmin) * static_cast<float>(minima[j]);
    }
    return unpacked;
}

template <typename Floats>
struct SubBlocks {
    static_assert(lanes_of<Floats> == 8, "a super-block has eight sub-blocks, one a lane");
    Floats x[32];
    Floats weights[32];
};

// Without an importance matrix large values count more: w = sqrt(mean of x^2 of the sub-block) + |x|.
template <typename Floats>
static inline void weigh_by_magnitude(SubBlocks<Floats>& blocks) {
    Floats sum{};
    for (int i = 0; i < 32; ++i) sum += blocks.x[i] * blocks.x[i];
    const Floats rms = square_root(sum / 32.0f);
    for (int i = 0; i < 32; ++i) blocks.weights[i] = rms + absolute(blocks.x[i]);
}

// With one: w = importance * sqrt(2 * mean of x^2 of the super-block + x^2).
template <typename Floats>
static inline void weigh_by_importance(const float* values, const float* imatrix, SubBlocks<Floats>& blocks) {
    float sum = 0.0f;
    for (int i = 0; i < 256; ++i) sum += values[i] * values[i];
    const float variance = 2.0f * sum / 256.0f;
    turn(imatrix, blocks.weights);
    for (int i = 0; i < 32; ++i) blocks.weights[i] *= square_root(variance + blocks.x[i] * blocks.x[i]);
}

static inline uint8_t six_bit_code(float value) {
    return std::min<uint8_t>(63, static_cast<uint8_t>(nearest_int(value)));
}

// The largest scale gets the code 63, the others are rounded.
static inline float round_to_largest(const float (&x)[8], uint8_t (&codes)[8]) {
    const float largest = std::max(0.0f, *std::max_element(x, x + 8));
    const float inverse = largest > 0.0f ? 63.0f / largest : 0.0f;
    for (int j = 0; j < 8; ++j) codes[j] = six_bit_code(inverse * x[j]);
    return largest / 63.0f;
}

// `steps` and `weighted_steps`: what is tried without and with an importance matrix.
template <typename Floats>
static inline void quantize(const float* values, const float* imatrix, const AffineSteps& steps,
                            const AffineSteps& weighted_steps, AffineSuperBlock& block) {
    SubBlocks<Floats> blocks;
    turn(values, blocks.x);
    if (imatrix) {
        weigh_by_importance(values, imatrix, blocks);
    } else {
        weigh_by_magnitude(blocks);
    }
    const AffineGrid<Floats> grid = search_affine(imatrix ? weighted_steps : steps, blocks.x, blocks.weights);

    float scales[8], minima[8];
    uint8_t scale_codes[8], minimum_codes[8];
    store(grid.scale, scales);
    store(grid.minimum, minima);
    if (imatrix) {
        Floats sum{};
        for (int i = 0; i < 32; ++i) sum += blocks.weights[i];
        float sum_of_weights[8];
        store(sum, sum_of_weights);
        block.d = to_half(search_positive(63, scales, sum_of_weights, scale_codes));
        block.dmin = to_half(search_positive(63, minima, sum_of_weights, minimum_codes));
    } else {
        block.d = to_half(round_to_largest(scales, scale_codes));
        block.dmin = to_half(round_to_largest(minima, minimum_codes));
    }
    block.scales = pack(scale_codes, minimum_codes);

    const AffineScales stored = affine_scales(block.d, block.dmin, block.scales);
    const Floats spacing = load<Floats>(stored.spacing), offset = load<Floats>(stored.offset);
    // Codes are rounded again for the scales as stored. A sub-block whose scale is stored as zero keeps those of the
    // search.
    const auto keeps = spacing == 0.0f;
    for (int i = 0; i < 32; ++i) {
        const Floats again = nearest_code((blocks.x[i] + offset) / spacing, 0.0f, steps.top);
        float codes[8];
        store(select(keeps, codes_of(grid, blocks.x[i], steps.top), again), codes);
        for (int lane = 0; lane < 8; ++lane) block.codes[32 * lane + i] = static_cast<uint8_t>(codes[lane]);
    }
}

}  // namespace quantmill
