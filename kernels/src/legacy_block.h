// What the formats with one scale per 32 values share when they search for it: sixteen blocks at once, one a lane,
// weights as in the importance matrix. Internal linkage, see lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "code_books.h"
#include "float16.h"
#include "rows_of_blocks.h"
#include "search.h"

namespace quantmill {
namespace {

struct LegacyBatch {
    Floats x[32], weights[32];
    size_t first, count;  // the lanes above `count` repeat the last block
};

inline void fill(const RowsOfBlocks& rows, LegacyBatch& batch) {
    const float* values[lanes];
    const float* imatrix[lanes];
    for (size_t lane = 0; lane < lanes; ++lane) {
        const size_t b = batch.first + (lane < batch.count ? lane : batch.count - 1);
        values[lane] = rows.values + 32 * b;
        imatrix[lane] = imatrix_of(rows, b, 32);
    }
    turn(values, batch.x);
    if (rows.imatrix) {
        turn(imatrix, batch.weights);
    } else {
        for (Floats& weight : batch.weights) weight = all(1.0f);
    }
}

// Calls `encode(batch)` until all blocks were in one.
template <typename Encode>
inline void for_batches(const RowsOfBlocks& rows, const Encode& encode) {
    const size_t n_blocks = blocks_of(rows);
    LegacyBatch batch;
    for (batch.first = 0; batch.first < n_blocks; batch.first += lanes) {
        batch.count = n_blocks - batch.first < lanes ? n_blocks - batch.first : lanes;
        fill(rows, batch);
        encode(batch);
    }
}

// x = scale * value of the code; calls `pack(b, scale, codes)`. Codes are rounded for the scale as stored.
template <typename Book, typename Pack>
inline void encode_scaled(const RowsOfBlocks& rows, const Steps& steps, const Pack& pack) {
    for_batches(rows, [&](const LegacyBatch& batch) {
        float scales[lanes];
        store(search_signed<Book>(steps, batch.x, batch.weights), scales);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            const size_t b = batch.first + lane;
            const Half scale = to_half(scales[lane]);
            const float inverse = inverse_of(to_float(scale));
            uint8_t codes[32];
            for (int i = 0; i < 32; i += lanes) {
                store_bytes(Book::code(load(rows.values + 32 * b + i) * inverse), codes + i);
            }
            pack(b, scale, codes);
        }
    });
}

// x = scale * code + minimum; calls `pack(b, scale, minimum, codes)`. Codes are rounded for both as stored.
template <typename Pack>
inline void encode_scaled_and_shifted(const RowsOfBlocks& rows, float top, const Steps& steps, const Pack& pack) {
    for_batches(rows, [&](const LegacyBatch& batch) {
        const AffineFit fit = search_affine<Offset::free>(top, steps, batch.x, batch.weights);
        float scales[lanes], minima[lanes];
        store(fit.scale, scales);
        store(fit.offset, minima);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            const size_t b = batch.first + lane;
            const Half scale = to_half(scales[lane]), minimum = to_half(minima[lane]);
            const float inverse = inverse_of(to_float(scale)), offset = to_float(minimum);
            uint8_t codes[32];
            for (int i = 0; i < 32; i += lanes) {
                const Floats shifted = load(rows.values + 32 * b + i) - offset;
                store_bytes(nearest_code(shifted * inverse, 0.0f, top), codes + i);
            }
            pack(b, scale, minimum, codes);
        }
    });
}

}  // namespace
}  // namespace quantmill
