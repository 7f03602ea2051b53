#include "q6_K.h"

#include <cstring>

#include "../signed_super_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = SignedSuperBlock<SignedIntegers<32>, 16>;
constexpr SignedLimits limits = {128.0f, {{-1.0f, 0.4f, 5, 1}, 1}, {{-1.0f, 0.4f, 5, 1}, 1}};

void pack_codes(const uint8_t (&codes)[256], BlockQ6_K& block) {
    for (int first = 0; first < 64; first += lanes) {
        const uint8_t* const c = codes + first / 32 * 128 + first % 32;
        const auto high = [&](int quarter) { return load_bytes(c + 32 * quarter) >> 4 << 2 * quarter; };
        store(high(0) | high(1) | high(2) | high(3), block.high_bits + first);
        for (int quarter = 0; quarter < 2; ++quarter) {
            uint8_t* const low = block.low_bits + first / 32 * 64 + 32 * quarter + first % 32;
            store((load_bytes(c + 32 * quarter) & 15) | load_bytes(c + 32 * quarter + 64) << 4, low);
        }
    }
}

void decode_block(const BlockQ6_K& block, float* x) {
    float spacing[16];
    store(to_float(block.d) * floats_of_signed(load_bytes(reinterpret_cast<const uint8_t*>(block.scales))), spacing);
    unrolled<16>([&](auto j) {
        const int half = j / 8, quarter = j % 8 / 2, part = j % 2 * lanes;
        const Bytes low = load_bytes(block.low_bits + 64 * half + quarter % 2 * 32 + part) >> quarter / 2 * 4 & 15;
        const Bytes high = load_bytes(block.high_bits + 32 * half + part) >> 2 * quarter & 3;
        store(spacing[j] * (floats_of(low | high << 4) - 32.0f), x + 16 * j);
    });
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
