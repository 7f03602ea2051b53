// What Q2_K, Q4_K and Q5_K share: 256 values in sub-blocks, x = d * scale * code - dmin * minimum, with small integers
// for the scales and minima. They differ in the sizes and in how the bits are packed. Internal linkage, see lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "float16.h"
#include "rows_of_blocks.h"
#include "search.h"

namespace quantmill {
namespace {

template <int n_sub_blocks>
struct AffineSuperBlock {
    static constexpr int sub_blocks = n_sub_blocks;
    static constexpr int sub_values = 256 / n_sub_blocks;

    Half d;     // of the scales
    Half dmin;  // of the minima
    uint8_t scales[n_sub_blocks];
    uint8_t minima[n_sub_blocks];
    uint8_t codes[256];
};

struct AffineLimits {
    float codes;                     // the codes are 0 .. codes
    float scales;                    // the scales and minima are 0 .. scales
    Effort effort, weighted_effort;  // without and with an importance matrix
};

// Sixteen sub-blocks: of one super-block, or of two.
template <typename Blocks, typename WeightsOfValues>
struct AffineBatch {
    using Super = Blocks;
    using Weights = WeightsOfValues;
    static constexpr int n = Super::sub_values;

    Floats x[n];
    Weights weights;
    float codes, scales;  // as in AffineLimits
    // Per lane: d and dmin of its super-block, its own scale and minimum, the weighted squared error with them as stored.
    Floats d, dmin, scale, minimum, error;

    Floats error_of(const Floats& spacing, const Floats& offset) const {
        const Floats inverse = inverse_of(spacing);
        Floats sum{};
        for (int i = 0; i < n; ++i) {
            const Floats shifted = x[i] + offset;
            const Floats difference = spacing * nearest_code(shifted * inverse, 0.0f, codes) - shifted;
            sum += weights[i] * (difference * difference);
        }
        return sum;
    }
    Floats storable(const Floats& value) const { return nearest_code(value, 0.0f, scales); }
};

// The largest scale and the largest minimum of a super-block become the largest integer.
template <typename Batch>
inline void store_fit(const AffineFit& fit, Batch& batch) {
    constexpr int group = Batch::Super::sub_blocks;
    batch.d = as_half(largest_of_groups<group>(larger(fit.scale, Floats{})) / batch.scales);
    batch.dmin = as_half(largest_of_groups<group>(larger(-fit.offset, Floats{})) / batch.scales);
    batch.scale = batch.storable(fit.scale * inverse_of(batch.d));
    batch.minimum = batch.storable(-fit.offset * inverse_of(batch.dmin));
    batch.error = batch.error_of(batch.d * batch.scale, batch.dmin * batch.minimum);
}

// The neighbours of a pair (scale, minimum) that may fit better. A larger scale with a smaller minimum, or the reverse,
// moves both ends of the range the same way and hardly ever does.
struct Neighbour {
    float scale, minimum;
};
constexpr Neighbour neighbours[] = {{-1, -1}, {-1, 0}, {0, -1}, {0, 1}, {1, 0}, {1, 1}};

// Keeps the neighbour with the least error, if it is less.
template <typename Batch>
inline void try_neighbours(Batch& batch) {
    const Floats scale = batch.scale, minimum = batch.minimum;
    for (const Neighbour& step : neighbours) {
        const Floats near_scale = batch.storable(scale + step.scale);
        const Floats near_minimum = batch.storable(minimum + step.minimum);
        const Floats error = batch.error_of(batch.d * near_scale, batch.dmin * near_minimum);
        const Mask better = error < batch.error;
        batch.scale = select(better, near_scale, batch.scale);
        batch.minimum = select(better, near_minimum, batch.minimum);
        batch.error = select(better, error, batch.error);
    }
}

// Fits d and dmin of each super-block to its codes by weighted least squares, and keeps them if the error falls: the
// least of a d d - 2 b d m + c m m - 2 u d + 2 v m over d and m, where its gradient is zero.
template <typename Batch>
inline void refit(Batch& batch) {
    constexpr int group = Batch::Super::sub_blocks;
    const Floats spacing = batch.d * batch.scale, offset = batch.dmin * batch.minimum, inverse = inverse_of(spacing);
    Floats w{}, q{}, qq{}, x{}, xq{};
    for (int i = 0; i < Batch::n; ++i) {
        const Floats code = nearest_code((batch.x[i] + offset) * inverse, 0.0f, batch.codes);
        const Floats wq = batch.weights[i] * code;
        w += batch.weights[i];
        q += wq;
        qq += wq * code;
        x += batch.weights[i] * batch.x[i];
        xq += wq * batch.x[i];
    }
    const Floats a = sum_over_groups<group>(batch.scale * batch.scale * qq);
    const Floats b = sum_over_groups<group>(batch.scale * batch.minimum * q);
    const Floats c = sum_over_groups<group>(batch.minimum * batch.minimum * w);
    const Floats u = sum_over_groups<group>(batch.scale * xq), v = sum_over_groups<group>(batch.minimum * x);
    const Floats inverse_determinant = 1.0f / (a * c - b * b);
    const Floats d = as_half((u * c - v * b) * inverse_determinant);
    const Floats dmin = as_half((u * b - v * a) * inverse_determinant);
    const Floats error = batch.error_of(d * batch.scale, dmin * batch.minimum);
    const Mask falls = sum_over_groups<group>(error) < sum_over_groups<group>(batch.error);
    const Mask keeps = falls & (d > Floats{}) & (dmin >= Floats{});
    batch.d = select(keeps, d, batch.d);
    batch.dmin = select(keeps, dmin, batch.dmin);
    batch.error = select(keeps, error, batch.error);
}

// Super-block `s` of the batch, from its values.
template <typename Batch, typename Super>
inline void take(const Batch& batch, int s, const float* values, Super& super) {
    constexpr int n = Super::sub_values;
    float d[lanes], dmin[lanes], scale[lanes], minimum[lanes], inverses[lanes], offsets[lanes];
    store(batch.d, d);
    store(batch.dmin, dmin);
    store(batch.scale, scale);
    store(batch.minimum, minimum);
    store(inverse_of(batch.d * batch.scale), inverses);
    store(batch.dmin * batch.minimum, offsets);
    super.d = to_half(d[s * Super::sub_blocks]);
    super.dmin = to_half(dmin[s * Super::sub_blocks]);
    for (int j = 0; j < Super::sub_blocks; ++j) {
        const int lane = s * Super::sub_blocks + j;
        super.scales[j] = static_cast<uint8_t>(scale[lane]);
        super.minima[j] = static_cast<uint8_t>(minimum[lane]);
        for (int i = n * j; i < n * (j + 1); i += lanes) {
            const Floats code = nearest_code((load(values + i) + offsets[lane]) * inverses[lane], 0.0f, batch.codes);
            store(bytes_of(code), super.codes + i);
        }
    }
}

template <typename Super, typename Weights, typename Pack>
inline void encode_affine_weighted(const RowsOfBlocks& rows, const AffineLimits& limits, const Effort& effort,
                                   const Pack& pack) {
    constexpr size_t most = lanes / Super::sub_blocks;
    const size_t n_blocks = blocks_of(rows);
    AffineBatch<Super, Weights> batch;
    batch.codes = limits.codes;
    batch.scales = limits.scales;
    for (size_t b = 0; b < n_blocks; b += most) {
        const size_t count = n_blocks - b < most ? n_blocks - b : most;
        turn_sub_blocks<Super::sub_blocks>(rows, b, count, batch.x);
        turn_weights<Super::sub_blocks>(rows, b, count, batch.weights);
        store_fit(search_affine<Offset::not_positive>(limits.codes, effort.steps, batch.x, batch.weights), batch);
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
inline void encode_affine(const RowsOfBlocks& rows, const AffineLimits& limits, const Pack& pack) {
    if (rows.imatrix) {
        encode_affine_weighted<Super, Importance<Super::sub_values>>(rows, limits, limits.weighted_effort, pack);
    } else {
        encode_affine_weighted<Super, EqualWeights>(rows, limits, limits.effort, pack);
    }
}

}  // namespace
}  // namespace quantmill
