// FP8: whole matrices in E4M3 under scales per tensor, per row, or per block of 128 x 128 values.
#pragma once

#include <cstdint>
#include <optional>

#include "weights.h"

namespace quantmill {

enum class Fp8Strategy { tensor, channel, block };

constexpr size_t fp8_block = 128;

// How the scales of a matrix stand: tiles of `tile_rows` x `tile_cols` values (fewer at the edges) have one each. With
// one scale for the tensor the tiles are rows that share it.
struct Fp8Grid {
    size_t tile_rows, tile_cols;
    size_t scale_rows, scale_cols;
};

Fp8Grid fp8_grid(Fp8Strategy strategy, size_t rows, size_t cols);

// absmax / 448 as `dtype` holds it; the dtype's machine epsilon where that is 0.
float fp8_scale(float absmax, Source dtype);

// Writes codes, of the shape of the weights, and scales, rounded to `scale_dtype`. With `given`, `scales` are read
// instead. The quotient value / scale is rounded to the dtype that torch divides in: that of both where they have the
// same, else float32. Refuses the first value that is not finite.
std::optional<RefusedWeight> encode_fp8(const Weights& weights, Fp8Strategy strategy, Source scale_dtype, bool given,
                                        float* scales, uint8_t* codes, size_t threads);

void decode_fp8(const uint8_t* codes, const float* scales, Fp8Strategy strategy, size_t rows, size_t cols,
                float* values, size_t threads);

// The largest magnitude of a matrix; infinite or no number if a value is.
float absmax(const Weights& weights, size_t threads);

}  // namespace quantmill
