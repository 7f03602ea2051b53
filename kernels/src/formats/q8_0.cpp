#include "q8_0.h"

#include "../range_block.h"
#include "../unit.h"

namespace quantmill {

template <>
void encode_q8_0<unit>(const RowsOfBlocks& rows, BlockQ8_0* blocks) {
    for_batches<32>(rows, [&](const BlockBatch& batch) {
        const Floats scale = ranges_of<32>(batch).absmax() / 127.0f;
        const Rounding rounding(scale, 0.0f);
        Half scales[lanes];
        store_halves(scale, scales);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            BlockQ8_0& block = blocks[batch.first + lane];
            block.scale = scales[lane];
            for (int i = 0; i < 32; i += lanes) {
                const Floats scaled = load(batch.values[lane] + i) * rounding.inverses[lane];
                store_signed_bytes(half_away(scaled), block.codes + i);
            }
        }
    });
}

template <>
void decode_q8_0<unit>(const BlockQ8_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        for (int i = 0; i < 32; i += lanes) {
            const Bytes codes = load_bytes(reinterpret_cast<const uint8_t*>(blocks[b].codes + i));
            store(scale * floats_of_signed(codes), values + 32 * b + i);
        }
    }
}

}  // namespace quantmill
