#include "q4_0.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../lanes.h"
#include "../rounding.h"
#include "../search.h"

namespace quantmill {
namespace {

using Floats = Wide<Floats4>;
constexpr int lanes = lanes_of<Floats>;

uint8_t code_of(float scaled) {
    const int8_t code = static_cast<int8_t>(truncate(scaled + 8.5f));  // wraps like the reference's cast
    return static_cast<uint8_t>(std::min<int>(15, code));
}

void encode_block(const float* x, BlockQ4_0& block) {
    float magnitude = 0.0f, largest = 0.0f;
    for (int i = 0; i < 32; ++i) {
        if (std::fabs(x[i]) > magnitude) {
            magnitude = std::fabs(x[i]);
            largest = x[i];
        }
    }
    const float scale = largest / -8.0f;
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    block.scale = to_half(scale);
    for (int j = 0; j < 16; ++j) {
        block.codes[j] = static_cast<uint8_t>(code_of(x[j] * inverse) | code_of(x[j + 16] * inverse) << 4);
    }
}

// Up to `lanes` blocks at once; unused lanes repeat the last block.
void encode_weighted(const float* values, const float* imatrix, float variance, BlockQ4_0* blocks, size_t n_blocks) {
    float padded_values[32 * lanes], padded_imatrix[32 * lanes];
    for (size_t lane = 0; lane < lanes; ++lane) {
        const size_t block = std::min(lane, n_blocks - 1);
        std::memcpy(padded_values + 32 * lane, values + 32 * block, 32 * sizeof(float));
        std::memcpy(padded_imatrix + 32 * lane, imatrix + 32 * block, 32 * sizeof(float));
    }
    Floats x[32], weights[32];
    turn(padded_values, x);
    turn(padded_imatrix, weights);
    for (int i = 0; i < 32; ++i) weights[i] *= square_root(variance + x[i] * x[i]);
    const SignedGrid<Floats> grid = search_signed(8.0f, x, weights);
    float scales[lanes];
    store(grid.scale, scales);
    for (size_t b = 0; b < n_blocks; ++b) blocks[b].scale = to_half(scales[b]);
    for (int j = 0; j < 16; ++j) {
        float low[lanes], high[lanes];
        store(codes_of(grid, x[j], 8.0f), low);
        store(codes_of(grid, x[j + 16], 8.0f), high);
        for (size_t b = 0; b < n_blocks; ++b) {
            blocks[b].codes[j] = static_cast<uint8_t>(static_cast<int>(low[b]) | static_cast<int>(high[b]) << 4);
        }
    }
}

}  // namespace

template <>
void encode_q4_0<Isa::scalar>(const float* values, const float* imatrix, BlockQ4_0* blocks, size_t n_blocks) {
    if (!imatrix) {
        for (size_t b = 0; b < n_blocks; ++b) encode_block(values + 32 * b, blocks[b]);
        return;
    }
    float sum = 0.0f;
    for (size_t i = 0; i < 32 * n_blocks; ++i) sum += values[i] * values[i];
    const float variance = sum / static_cast<float>(32 * n_blocks);
    for (size_t b = 0; b < n_blocks; b += lanes) {
        encode_weighted(values + 32 * b, imatrix + 32 * b, variance, blocks + b, std::min<size_t>(lanes, n_blocks - b));
    }
}

template <>
void decode_q4_0<Isa::scalar>(const BlockQ4_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        float* const x = values + 32 * b;
        for (int j = 0; j < 16; ++j) x[j] = scale * static_cast<float>((blocks[b].codes[j] & 15) - 8);
        for (int j = 0; j < 16; ++j) x[j + 16] = scale * static_cast<float>((blocks[b].codes[j] >> 4) - 8);
    }
}

}  // namespace quantmill
