// What Q3_K, Q6_K and IQ4_XS share: 256 values in sub-blocks, x = d * scale * value of the code, with small signed
// integers for the scales. They differ in the code book, in the sizes and in how the bits are packed. Internal linkage,
// see lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "code_books.h"
#include "float16.h"
#include "rows_of_blocks.h"
#include "search.h"

namespace quantmill {
namespace {

template <typename Book, int n_sub_blocks>
struct SignedSuperBlock {
    using CodeBook = Book;
    static constexpr int sub_blocks = n_sub_blocks;
    static constexpr int sub_values = 256 / n_sub_blocks;

    Half d;
    int8_t scales[n_sub_blocks];
    uint8_t codes[256];
};

struct SignedLimits {
    float scales;  // the scales are -scales .. scales - 1
    Effort effort, weighted_effort;  // without and with an importance matrix
};

// Sixteen sub-blocks: of one super-block, or of two.
template <typename Blocks, typename WeightsOfValues>
struct SignedBatch {
    using Super = Blocks;
    using Weights = WeightsOfValues;
    static constexpr int n = Super::sub_values;

    Floats x[n];
    Weights weights;
    float scales;  // as in SignedLimits
    // Per lane: d of its super-block, its own scale, the weighted squared error with both as stored.
    Floats d, scale, error;

    Floats error_of(const Floats& spacing) const {
        const Floats inverse = inverse_of(spacing);
        Floats sum{};
        for (int i = 0; i < n; ++i) {
            const Floats difference = spacing * Super::CodeBook::entry(x[i] * inverse) - x[i];
            sum += weights[i] * (difference * difference);
        }
        return sum;
    }
    Floats storable(const Floats& value) const { return nearest_code(value, -scales, scales - 1.0f); }
};

// The scale of largest magnitude in a super-block becomes its least integer.
template <typename Batch>
inline void store_scales(const Floats& scales, Batch& batch) {
    constexpr int group = Batch::Super::sub_blocks;
    const Floats high = largest_of_groups<group>(scales), low = -largest_of_groups<group>(-scales);
    batch.d = as_half(select(high > -low, high, low) / -batch.scales);
    batch.scale = batch.storable(scales * inverse_of(batch.d));
    batch.error = batch.error_of(batch.d * batch.scale);
}

template <typename Batch>
inline void try_neighbours(Batch& batch) {
    const Floats scale = batch.scale;
    for (const float step : {-1.0f, 1.0f}) {
        const Floats neighbour = batch.storable(scale + step);
        const Floats error = batch.error_of(batch.d * neighbour);
        const Mask better = error < batch.error;
        batch.scale = select(better, neighbour, batch.scale);
        batch.error = select(better, error, batch.error);
    }
}

// Fits each d to the codes by weighted least squares, and keeps it if the error of the super-block falls.
template <typename Batch>
inline void refit(Batch& batch) {
    constexpr int group = Batch::Super::sub_blocks;
    const Floats inverse = inverse_of(batch.d * batch.scale);
    Floats xq{}, qq{};
    for (int i = 0; i < Batch::n; ++i) {
        const Floats code = Batch::Super::CodeBook::entry(batch.x[i] * inverse), weighted = batch.weights[i] * code;
        xq += weighted * batch.x[i];
        qq += weighted * code;
    }
    const Floats numerator = sum_over_groups<group>(batch.scale * xq);
    const Floats denominator = sum_over_groups<group>(batch.scale * batch.scale * qq);
    const Floats d = as_half(numerator / denominator), error = batch.error_of(d * batch.scale);
    const Mask falls = sum_over_groups<group>(error) < sum_over_groups<group>(batch.error);
    batch.d = select(falls, d, batch.d);
    batch.error = select(falls, error, batch.error);
}

// Super-block `s` of the batch, from its values.
template <typename Batch, typename Super>
inline void take(const Batch& batch, int s, const float* values, Super& super) {
    constexpr int n = Super::sub_values;
    float d[lanes], scale[lanes], inverses[lanes];
    store(batch.d, d);
    store(batch.scale, scale);
    store(inverse_of(batch.d * batch.scale), inverses);
    super.d = to_half(d[s * Super::sub_blocks]);
    for (int j = 0; j < Super::sub_blocks; ++j) {
        const int lane = s * Super::sub_blocks + j;
        super.scales[j] = static_cast<int8_t>(scale[lane]);
        for (int i = n * j; i < n * (j + 1); i += lanes) {
            store(bytes_of(Super::CodeBook::code(load(values + i) * inverses[lane])), super.codes + i);
        }
    }
}

template <typename Super, typename Weights, typename Pack>
inline void encode_signed_weighted(const RowsOfBlocks& rows, const SignedLimits& limits, const Effort& effort,
                                   const Pack& pack) {
    constexpr size_t most = lanes / Super::sub_blocks;
    const size_t n_blocks = blocks_of(rows);
    SignedBatch<Super, Weights> batch;
    batch.scales = limits.scales;
    for (size_t b = 0; b < n_blocks; b += most) {
        const size_t count = n_blocks - b < most ? n_blocks - b : most;
        turn_sub_blocks<Super::sub_blocks>(rows, b, count, batch.x);
        turn_weights<Super::sub_blocks>(rows, b, count, batch.weights);
        store_scales(search_signed<typename Super::CodeBook>(effort.steps, batch.x, batch.weights), batch);
        for (int pass = 0; pass < effort.passes; ++pass) {
            try_neighbours(batch);
            refit(batch);
        }
        for (size_t s = 0; s < count; ++s) {
            Super super;
            take(batch, static_cast<int>(s), rows.values + 256 * (b + s), super);
            pack(b + s, super);
        }
    }
}

// Calls `pack(b, super_block)` for each block b of `rows`.
template <typename Super, typename Pack>
inline void encode_signed(const RowsOfBlocks& rows, const SignedLimits& limits, const Pack& pack) {
    if (rows.imatrix) {
        encode_signed_weighted<Super, Importance<Super::sub_values>>(rows, limits, limits.weighted_effort, pack);
    } else {
        encode_signed_weighted<Super, EqualWeights>(rows, limits, limits.effort, pack);
    }
}

}  // namespace
}  // namespace quantmill
