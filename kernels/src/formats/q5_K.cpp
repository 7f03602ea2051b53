#include "q5_K.h"

#include "../affine_super_block.h"

namespace quantmill {
namespace {

constexpr AffineSteps steps = {31.0f, -0.5f, 0.1f, 15};
constexpr AffineSteps weighted_steps = {31.0f, -0.9f, 0.05f, 36};

void pack_codes(const uint8_t (&codes)[256], BlockQ5_K& block) {
    for (int l = 0; l < 32; ++l) {
        int high = 0;
        for (int j = 0; j < 8; ++j) high |= (codes[32 * j + l] >> 4) << j;
        block.high_bits[l] = static_cast<uint8_t>(high);
    }
    for (int c = 0; c < 4; ++c) {
        for (int l = 0; l < 32; ++l) {
            const int first = codes[64 * c + l] & 15, second = codes[64 * c + l + 32] & 15;
            block.codes[32 * c + l] = static_cast<uint8_t>(first | second << 4);
        }
    }
}

void decode_block(const BlockQ5_K& block, float* x) {
    const AffineScales scales = affine_scales(block.d, block.dmin, block.scales);
    for (int j = 0; j < 8; ++j) {
        const uint8_t* const low = block.codes + 32 * (j / 2);
        const int shift = 4 * (j % 2);
        const float spacing = scales.spacing[j], offset = scales.offset[j];
        for (int l = 0; l < 32; ++l) {
            const int code = ((low[l] >> shift) & 15) | ((block.high_bits[l] >> j) & 1) << 4;
            x[32 * j + l] = spacing * static_cast<float>(code) - offset;
        }
    }
}

}  // namespace

template <>
void encode_q5_K<Isa::scalar>(const float* values, const float* imatrix, BlockQ5_K* blocks, size_t n_blocks) {
    AffineSuperBlock block;
    for (size_t b = 0; b < n_blocks; ++b) {
        quantize<Wide<Floats4>>(values + 256 * b, imatrix ? imatrix + 256 * b : nullptr, steps, weighted_steps, block);
        blocks[b].d = block.d;
        blocks[b].dmin = block.dmin;
        blocks[b].scales = block.scales;
        pack_codes(block.codes, blocks[b]);
    }
}

template <>
void decode_q5_K<Isa::scalar>(const BlockQ5_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
