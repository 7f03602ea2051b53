#include "q6_K.h"

#include <cstring>

#include "../signed_super_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = SignedSuperBlock<SignedIntegers<32>, 16>;
constexpr SignedLimits limits = {128.0f, {{-1.0f, 0.4f, 5, 1}, 1}, {{-1.0f, 0.4f, 5, 1}, 1}};

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
void encode_q6_K<unit>(const RowsOfBlocks& rows, BlockQ6_K* blocks) {
    encode_signed<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        std::memcpy(blocks[b].scales, super.scales, sizeof super.scales);
        pack_codes(super.codes, blocks[b]);
    });
}

template <>
void decode_q6_K<unit>(const BlockQ6_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
