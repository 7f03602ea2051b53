// NVFP4, MXFP4 and MXFP8: whole matrices, their rows in groups of values under small scales (small_floats/microscaled.h).
#pragma once

#include <cstdint>
#include <optional>

#include "small_floats/microscaled.h"
#include "weights.h"

namespace quantmill {

// (1 / absmax) * (448 * 6), so that the scales of the groups use E4M3's range; inverse and product each rounded to
// `dtype`, as torch divides a number by a tensor. 1 where it is infinite in float32; the float32 value where it is in
// float16 alone.
float nvfp4_global_scale(float absmax, Source dtype);

// Columns are a multiple of the group. Each refuses the first value that is not finite.
std::optional<RefusedWeight> encode_nvfp4(const Weights& weights, float global_scale, uint8_t* packed, uint8_t* scales,
                                          size_t threads);
std::optional<RefusedWeight> encode_mxfp4(const Weights& weights, uint8_t* packed, uint8_t* exponents, size_t threads);
std::optional<RefusedWeight> encode_mxfp8(const Weights& weights, uint8_t* codes, uint8_t* exponents, size_t threads);

void decode_nvfp4(const uint8_t* packed, const uint8_t* scales, float global_scale, size_t rows, size_t cols,
                  float* values, size_t threads);
void decode_mxfp4(const uint8_t* packed, const uint8_t* exponents, size_t rows, size_t cols, float* values,
                  size_t threads);
void decode_mxfp8(const uint8_t* codes, const uint8_t* exponents, size_t rows, size_t cols, float* values,
                  size_t threads);

}  // namespace quantmill
