// What TQ1_0 and TQ2_0 share: 256 values to the codes 0, 1, 2. Internal linkage, see lanes.h.
#pragma once

#include <cstdint>

#include "range_block.h"

namespace quantmill {
namespace {

// x = scale * (code - 1); halves round away from zero. Calls `pack(b, scale, codes)`.
template <typename Pack>
inline void encode_ternary(const RowsOfBlocks& rows, const Pack& pack) {
    for_batches<256>(rows, [&](const BlockBatch& batch) {
        const Floats scale = ranges_of<256>(batch).absmax();
        const Rounding rounding(scale, 0.0f);
        Half scales[lanes];
        store_halves(scale, scales);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            uint8_t codes[256];
            for (int i = 0; i < 256; i += lanes) {
                const Floats scaled = load(batch.values[lane] + i) * rounding.inverses[lane];
                store(signed_bytes_of(half_away(scaled)) + 1, codes + i);
            }
            pack(batch.first + lane, scales[lane], codes);
        }
    });
}

}  // namespace
}  // namespace quantmill
