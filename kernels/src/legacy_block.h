// What the formats with one scale per 32 values share when they search for it: sixteen blocks at once, one a lane,
// weights as in the importance matrix. Internal linkage, see lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block_batch.h"
#include "code_books.h"
#include "float16.h"
#include "range_block.h"
#include "rows_of_blocks.h"
#include "search.h"

namespace quantmill {
namespace {

inline void turn_weights(const RowsOfBlocks&, const BlockBatch&, EqualWeights&) {}

inline void turn_weights(const RowsOfBlocks& rows, const BlockBatch& batch, Importance<32>& weights) {
    const float* imatrix[lanes];
    for (size_t lane = 0; lane < lanes; ++lane) {
        const size_t b = batch.first + (lane < batch.count ? lane : batch.count - 1);
        imatrix[lane] = imatrix_of(rows, b, 32);
    }
    turn(imatrix, weights.of_lanes);
}

// x = scale * value of the code; calls `pack(b, scale, codes)`. Codes are rounded for the scale as stored.
template <typename Book, typename Weights, typename Pack>
inline void encode_scaled(const RowsOfBlocks& rows, const Steps& steps, const Pack& pack) {
    for_batches<32>(rows, [&](const BlockBatch& batch) {
        Floats turned[32];
        Weights weights;
        turn(batch.values, turned);
        turn_weights(rows, batch, weights);
        const Floats scale = search_signed<Book>(steps, turned, weights);
        Half scales[lanes];
        float inverses[lanes];
        store_halves(scale, scales);
        store(inverse_of(as_half(scale)), inverses);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            const auto code = [&](const float* x) { return bytes_of(Book::code(load(x) * inverses[lane])); };
            const float* const x = batch.values[lane];
            pack(batch.first + lane, scales[lane], Codes32{code(x), code(x + lanes)});
        }
    });
}

// x = scale * code + minimum; calls `pack(b, scale, minimum, codes)`. Codes are rounded for both as stored.
template <typename Pack>
inline void encode_scaled_and_shifted(const RowsOfBlocks& rows, float top, const Steps& steps, const Pack& pack) {
    for_batches<32>(rows, [&](const BlockBatch& batch) {
        Floats turned[32];
        Importance<32> weights;
        turn(batch.values, turned);
        turn_weights(rows, batch, weights);
        const AffineFit fit = search_affine<Offset::free>(top, steps, turned, weights);
        Half scales[lanes], minima[lanes];
        float inverses[lanes], offsets[lanes];
        store_halves(fit.scale, scales);
        store_halves(fit.offset, minima);
        store(inverse_of(as_half(fit.scale)), inverses);
        store(as_half(fit.offset), offsets);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            const auto code = [&](const float* x) {
                return bytes_of(nearest_code((load(x) - offsets[lane]) * inverses[lane], 0.0f, top));
            };
            const float* const x = batch.values[lane];
            pack(batch.first + lane, scales[lane], minima[lane], Codes32{code(x), code(x + lanes)});
        }
    });
}

}  // namespace
}  // namespace quantmill
