// Double quantization of bitsandbytes (QLoRA, section 3): the absmax of 4-bit blocks, less their mean, as 8-bit codes
// of a dynamic data type; consecutive ones share a float32 of their own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace quantmill {

// The values of the 8-bit codes in increasing order: 64 linear steps in each sign's largest decade and half as many in
// each decade below, down to 1e-6; zero; and one, which has no negative twin.
const std::array<float, 256>& dynamic_map();

// The float32 mean: summed in the order of torch's one-threaded sum on x86, which bitsandbytes calls.
float mean_of(const float* values, size_t n);

// Codes of `absmax` - `offset` and the largest magnitude of each block. bitsandbytes on the CPU rounds to one of 65536
// steps between -1 and 1 and takes the code nearest to that step, so a code may be off the nearest one below 1.5e-5 of
// the block's largest. A block of equal values at `offset` has the code 0.
void encode_nested(const float* absmax, size_t n, size_t block_size, float offset, uint8_t* codes, float* nested);

void decode_nested(const uint8_t* codes, const float* nested, size_t n, size_t block_size, float offset, float* absmax);

}  // namespace quantmill
