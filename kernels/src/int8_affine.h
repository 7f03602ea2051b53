// INT8 affine: whole matrices with a scale and a zero point for the tensor, each row or each column, by ONNX Runtime's
// rules (onnxruntime.quantization.quant_utils: compute_scale_zp, quantize_nparray).
#pragma once

#include <cstdint>
#include <optional>

#include "affine/int8_span.h"
#include "weights.h"

namespace quantmill {

enum class AffineAxis { tensor, rows, columns };

size_t affine_scales(AffineAxis axis, size_t rows, size_t cols);

struct Int8Rule {
    bool symmetric;
    bool is_signed;
    bool reduce_range;  // scales for 7 bits; codes are clamped to 8
};

// Writes codes, of the shape of the weights, and affine_scales() scales. Refuses the first value that is not finite.
std::optional<RefusedWeight> encode_int8_affine(const Weights& weights, AffineAxis axis, const Int8Rule& rule,
                                                uint8_t* codes, AffineScale* scales, size_t threads);

void decode_int8_affine(const uint8_t* codes, const AffineScale* scales, AffineAxis axis, bool is_signed, size_t rows,
                        size_t cols, float* values, size_t threads);

}  // namespace quantmill
