// Values on their way into blocks: whole rows of a matrix, one after the other.
#pragma once

#include <cstddef>

namespace quantmill {

struct RowsOfBlocks {
    const float* values;     // row-major, finite
    const float* imatrix;    // one weight per column, or nullptr; formats that know none ignore it
    size_t rows;
    size_t blocks_per_row;
};

static inline size_t blocks_of(const RowsOfBlocks& rows) { return rows.rows * rows.blocks_per_row; }

// The part of the importance matrix that belongs to block `b` of `block_values` values; nullptr without one.
static inline const float* imatrix_of(const RowsOfBlocks& rows, size_t b, size_t block_values) {
    return rows.imatrix ? rows.imatrix + b % rows.blocks_per_row * block_values : nullptr;
}

}  // namespace quantmill
