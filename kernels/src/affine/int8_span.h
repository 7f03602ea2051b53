// INT8 affine by ONNX Runtime's rules: x = scale * (code - zero_point). Codes are bytes, signed or not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../isa.h"
#include "../weights.h"

namespace quantmill {

// float32 as an integer that orders as the values do, -0 below 0, and NaN beyond infinity by its sign. Its own inverse.
constexpr int32_t ordered(int32_t bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); }

struct OrderedRange {
    int32_t low = INT32_MAX, high = INT32_MIN;
};

// The zero point is a whole number.
struct AffineScale {
    float scale = 1.0f, zero_point = 0.0f;
};

struct Int8Kernels {
    OrderedRange (*range)(Source source, const void* values, size_t n);
    // Folds the values of one row into the ranges of their columns.
    void (*fold_ranges)(Source source, const void* values, size_t n, OrderedRange* ranges);
    // Nearest to value / scale, half to even, plus the zero point, clamped to the codes of the type. One scale for all
    // values, or one for each.
    void (*encode)(Source source, const void* values, size_t n, AffineScale affine, bool is_signed, uint8_t* codes);
    void (*encode_each)(Source source, const void* values, size_t n, const AffineScale* affine, bool is_signed,
                        uint8_t* codes);
    void (*decode)(const uint8_t* codes, size_t n, AffineScale affine, bool is_signed, float* values);
    void (*decode_each)(const uint8_t* codes, size_t n, const AffineScale* affine, bool is_signed, float* values);
};

template <Isa> const Int8Kernels& int8_kernels();

}  // namespace quantmill
