#include "iq4_xs.h"

#include <cstring>

#include "../range_block.h"
#include "../signed_super_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = SignedSuperBlock<NonLinear, 8>;
constexpr SignedLimits limits = {32.0f, {{-40.0f, 4.0f, 15, 1}, 1}, {{-40.0f, 4.0f, 15, 1}, 1}};

void pack_scales(const int8_t (&scales)[8], BlockIQ4_XS& block) {
    int high = 0;
    for (int j = 0; j < 8; ++j) high |= ((scales[j] + 32) >> 4) << 2 * j;
    block.high_scales[0] = static_cast<uint8_t>(high);
    block.high_scales[1] = static_cast<uint8_t>(high >> 8);
    for (int j = 0; j < 4; ++j) {
        const int even = (scales[2 * j] + 32) & 15, odd = (scales[2 * j + 1] + 32) & 15;
        block.low_scales[j] = static_cast<uint8_t>(even | odd << 4);
    }
}

int scale_of(const BlockIQ4_XS& block, int j) {
    const int low = block.low_scales[j / 2] >> 4 * (j % 2) & 15;
    return (low | (block.high_scales[j / 4] >> 2 * (j % 4) & 3) << 4) - 32;
}

void decode_block(const BlockIQ4_XS& block, float* x) {
    const float d = to_float(block.d);
    for (int j = 0; j < 8; ++j) {
        const float spacing = d * static_cast<float>(scale_of(block, j));
        const Bytes codes = load_bytes(block.codes + 16 * j);
        store(spacing * NonLinear::values(codes & 15), x + 32 * j);
        store(spacing * NonLinear::values(codes >> 4), x + 32 * j + lanes);
    }
}

}  // namespace

template <>
void encode_iq4_xs<unit>(const RowsOfBlocks& rows, BlockIQ4_XS* blocks) {
    encode_signed<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        pack_scales(super.scales, blocks[b]);
        for (int j = 0; j < 8; ++j) {
            const uint8_t* const codes = super.codes + 32 * j;
            store(load_bytes(codes) | load_bytes(codes + lanes) << 4, blocks[b].codes + 16 * j);
        }
    });
}

template <>
void decode_iq4_xs<unit>(const BlockIQ4_XS* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
