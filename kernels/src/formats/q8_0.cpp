#include "q8_0.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "../rounding.h"

namespace quantmill {

template <>
void encode_q8_0<Isa::scalar>(const float* values, const float*, BlockQ8_0* blocks, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float* const x = values + 32 * b;
        uint32_t bits = 0;  // magnitudes order like their bits, and an integer maximum vectorizes
        for (int i = 0; i < 32; ++i) bits = std::max(bits, std::bit_cast<uint32_t>(std::fabs(x[i])));
        const float absmax = std::bit_cast<float>(bits);
        const float scale = absmax / 127.0f;
        const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
        blocks[b].scale = to_half(scale);
        for (int i = 0; i < 32; ++i) {
            blocks[b].codes[i] = static_cast<int8_t>(truncate(round_half_away(x[i] * inverse)));
        }
    }
}

template <>
void decode_q8_0<Isa::scalar>(const BlockQ8_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        for (int i = 0; i < 32; ++i) values[32 * b + i] = scale * static_cast<float>(blocks[b].codes[i]);
    }
}

}  // namespace quantmill
