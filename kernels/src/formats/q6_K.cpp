#include "q6_K.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../lanes.h"
#include "../rounding.h"
#include "../search.h"

namespace quantmill {
namespace {

using Floats = Wide<Floats4>;
constexpr int lanes = lanes_of<Floats>;
constexpr int groups = 16 / lanes;

struct SubBlocks {
    Floats x[16];
    SignedGrid<Floats> grid;
};

void search(const float* values, const float* imatrix, SubBlocks& blocks) {
    Floats weights[16];
    turn(values, blocks.x);
    if (imatrix) {
        turn(imatrix, weights);
    } else {
        for (int i = 0; i < 16; ++i) weights[i] = blocks.x[i] * blocks.x[i];
    }
    blocks.grid = search_signed(32.0f, blocks.x, weights);
}

// The first scale of largest magnitude; not finite if one of them is not.
float largest_of(const float (&scales)[16]) {
    float largest = 0.0f;
    for (const float scale : scales) {
        if (!std::isfinite(scale)) return scale;
        if (std::fabs(scale) > std::fabs(largest)) largest = scale;
    }
    return largest;
}

// Codes are rounded again for the scale as stored. A sub-block whose scale is stored as zero keeps those of the search.
void round_codes(const SubBlocks& blocks, const Floats& spacing, uint8_t* codes) {
    const auto keeps = spacing == 0.0f;
    for (int i = 0; i < 16; ++i) {
        const Floats again = nearest_code(blocks.x[i] / spacing, -32.0f, 31.0f) + 32.0f;
        float chosen[lanes];
        store(select(keeps, codes_of(blocks.grid, blocks.x[i], 32.0f), again), chosen);
        for (int lane = 0; lane < lanes; ++lane) codes[16 * lane + i] = static_cast<uint8_t>(chosen[lane]);
    }
}

void pack_codes(const uint8_t (&codes)[256], BlockQ6_K& block) {
    for (int h = 0; h < 2; ++h) {
        const uint8_t* const c = codes + 128 * h;
        for (int l = 0; l < 32; ++l) {
            block.low_bits[64 * h + l] = static_cast<uint8_t>((c[l] & 15) | (c[l + 64] & 15) << 4);
            block.low_bits[64 * h + l + 32] = static_cast<uint8_t>((c[l + 32] & 15) | (c[l + 96] & 15) << 4);
            block.high_bits[32 * h + l] =
                static_cast<uint8_t>(c[l] >> 4 | c[l + 32] >> 4 << 2 | c[l + 64] >> 4 << 4 | c[l + 96] >> 4 << 6);
        }
    }
}

void encode_block(const float* values, const float* imatrix, BlockQ6_K& block) {
    SubBlocks blocks[groups];
    float scales[16];
    for (int g = 0; g < groups; ++g) {
        const int first = 16 * lanes * g;
        search(values + first, imatrix ? imatrix + first : nullptr, blocks[g]);
        store(blocks[g].grid.scale, scales + lanes * g);
    }
    const float largest = largest_of(scales);
    if (std::fabs(largest) < negligible) {
        std::memset(&block, 0, sizeof block);
        return;
    }
    const float inverse = -128.0f / largest;
    block.d = to_half(std::isfinite(largest) ? 1.0f / inverse : std::numeric_limits<float>::infinity());
    for (int j = 0; j < 16; ++j) block.scales[j] = static_cast<int8_t>(std::min(127, nearest_int(inverse * scales[j])));

    uint8_t codes[256];
    for (int g = 0; g < groups; ++g) {
        float spacing[lanes];
        for (int lane = 0; lane < lanes; ++lane) {
            spacing[lane] = to_float(block.d) * static_cast<float>(block.scales[lanes * g + lane]);
        }
        round_codes(blocks[g], load<Floats>(spacing), codes + 16 * lanes * g);
    }
    pack_codes(codes, block);
}

void decode_block(const BlockQ6_K& block, float* x) {
    const float d = to_float(block.d);
    for (int h = 0; h < 2; ++h) {
        for (int quarter = 0; quarter < 4; ++quarter) {
            const uint8_t* const low = block.low_bits + 64 * h + 32 * (quarter % 2);
            const uint8_t* const high = block.high_bits + 32 * h;
            const int low_shift = 4 * (quarter / 2), high_shift = 2 * quarter;
            for (int part = 0; part < 2; ++part) {
                const float spacing = d * static_cast<float>(block.scales[8 * h + 2 * quarter + part]);
                for (int l = 16 * part; l < 16 * part + 16; ++l) {
                    const int code = ((low[l] >> low_shift) & 15) | ((high[l] >> high_shift) & 3) << 4;
                    x[128 * h + 32 * quarter + l] = spacing * static_cast<float>(code - 32);
                }
            }
        }
    }
}

}  // namespace

template <>
void encode_q6_K<Isa::scalar>(const float* values, const float* imatrix, BlockQ6_K* blocks, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        encode_block(values + 256 * b, imatrix ? imatrix + 256 * b : nullptr, blocks[b]);
    }
}

template <>
void decode_q6_K<Isa::scalar>(const BlockQ6_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
