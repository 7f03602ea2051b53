// NF4 and FP4 of bitsandbytes: blocks of consecutive values of the flattened matrix share one float32 absmax, a value
// is table[code] * absmax. Two codes a byte, the first value in the high half. 4 + 32 / block_size bits per weight, or
// 4 + 8.125 / block_size when the absmax are quantized too (nested_absmax.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/source.h"
#include "isa.h"

namespace quantmill {

enum class QuantType { nf4, fp4 };

// Blocks are 32 values or a multiple of that; the last one may be shorter. All arithmetic is float32, whatever the
// source. A whole block multiplies by the inverse of its absmax, a shorter one divides; an absmax below 1e-38 counts as
// that, and that is also what a shorter block stores.
struct FourBits {
    // `n` values, beginning with a block. Returns the number of blocks done: all, or those before the first that has a
    // value which is not finite.
    size_t (*encode)(QuantType type, Source source, const void* values, size_t n, size_t block_size, uint8_t* packed,
                     float* absmax);
    void (*decode)(QuantType type, const uint8_t* packed, const float* absmax, size_t n, size_t block_size,
                   float* values);
};

template <Isa> const FourBits& four_bits();

}  // namespace quantmill
