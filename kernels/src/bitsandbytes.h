// Whole matrices in the formats of bitsandbytes: blocks or rows spread over threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "bitsandbytes/four_bits.h"
#include "formats/source.h"

namespace quantmill {

// The sixteen values of a data type in the order of its codes.
std::span<const float, 16> quant_map(QuantType type);

// The first value that is not finite, in the order of the flattened matrix.
struct NotFinite {
    size_t index;
    float value;
};

// `n` values to (n + 1) / 2 bytes and ceil(n / block_size) absmax; block_size is a multiple of 32.
std::optional<NotFinite> encode_4bit_matrix(QuantType type, Source source, const void* values, size_t n,
                                            size_t block_size, uint8_t* packed, float* absmax, size_t threads);
void decode_4bit_matrix(QuantType type, const uint8_t* packed, const float* absmax, size_t n, size_t block_size,
                        float* values, size_t threads);

// Row-major codes and an absmax per row.
std::optional<NotFinite> encode_int8_matrix(Source source, const void* values, size_t rows, size_t cols, int8_t* codes,
                                            float* absmax, size_t threads);
void decode_int8_matrix(const int8_t* codes, const float* absmax, size_t rows, size_t cols, float* values,
                        size_t threads);

}  // namespace quantmill
