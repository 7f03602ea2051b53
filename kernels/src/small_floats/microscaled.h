// Groups of consecutive values of a row under one small scale, in compressed-tensors' convention.
// NVFP4: 16 values, x = E2M1 * (E4M3 scale / global scale); 4.5 bits per weight.
// MXFP4: 32 values, x = E2M1 * 2^(exponent - 127); 4.25 bits per weight.
// MXFP8: 32 values, x = E4M3 * 2^(exponent - 127); 8.25 bits per weight.
// Two FP4 codes share a byte, the even column in its low half; codes round to nearest, ties to the even code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../formats/source.h"
#include "../isa.h"

namespace quantmill {

constexpr size_t nvfp4_group = 16;
constexpr size_t mx_group = 32;

struct MicroscaledKernels {
    // `n` finite values, a multiple of the group; one scale or exponent per group.
    void (*encode_nvfp4)(Source source, const void* values, size_t n, float global_scale, uint8_t* packed,
                         uint8_t* scales);
    void (*encode_mxfp4)(Source source, const void* values, size_t n, uint8_t* packed, uint8_t* exponents);
    void (*encode_mxfp8)(Source source, const void* values, size_t n, uint8_t* codes, uint8_t* exponents);
    void (*decode_nvfp4)(const uint8_t* packed, const uint8_t* scales, float global_scale, size_t n, float* values);
    void (*decode_mxfp4)(const uint8_t* packed, const uint8_t* exponents, size_t n, float* values);
    void (*decode_mxfp8)(const uint8_t* codes, const uint8_t* exponents, size_t n, float* values);
};

template <Isa> const MicroscaledKernels& microscaled_kernels();

}  // namespace quantmill
