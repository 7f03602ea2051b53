// Sixteen blocks at once, one a lane. Internal linkage, see lanes.h.
#pragma once

#include <cstddef>

#include "lanes.h"
#include "rows_of_blocks.h"

namespace quantmill {
namespace {

struct BlockBatch {
    const float* values[lanes];
    size_t first, count;  // the lanes above `count` repeat the last block
};

// Calls `encode(batch)` until all blocks of `block_values` values were in one.
template <size_t block_values, typename Encode>
inline void for_batches(const RowsOfBlocks& rows, const Encode& encode) {
    const size_t n_blocks = blocks_of(rows);
    BlockBatch batch;
    for (batch.first = 0; batch.first < n_blocks; batch.first += lanes) {
        batch.count = n_blocks - batch.first < lanes ? n_blocks - batch.first : lanes;
        for (size_t lane = 0; lane < lanes; ++lane) {
            const size_t b = batch.first + (lane < batch.count ? lane : batch.count - 1);
            batch.values[lane] = rows.values + block_values * b;
        }
        encode(batch);
    }
}

}  // namespace
}  // namespace quantmill
