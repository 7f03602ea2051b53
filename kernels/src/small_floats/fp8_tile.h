// FP8: tiles of weights that share one scale. x = scale * E4M3; scale = absmax / 448.
#pragma once

#include "../isa.h"
#include "../weights.h"

namespace quantmill {

struct Fp8Kernels {
    // The largest magnitude; infinite or no number if one of the values is.
    float (*absmax)(const WeightTile& tile);
    // Codes of value / scale, the quotient rounded to `precision` first; `codes` has the stride of the tile.
    void (*encode)(const WeightTile& tile, float scale, Source precision, uint8_t* codes);
    void (*decode)(const uint8_t* codes, size_t n, float scale, float* values);
};

template <Isa> const Fp8Kernels& fp8_kernels();

}  // namespace quantmill
