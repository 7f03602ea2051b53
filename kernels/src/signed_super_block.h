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
template <typename Super>
struct SignedBatch {
    static constexpr int n = Super::sub_values;

    Floats x[n], weights[n];
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
template <typename Super>
inline void store_scales(const Floats& scales, SignedBatch<Super>& batch) {
    float each[lanes], d[lanes];
    store(scales, each);
    for (int first = 0; first < lanes; first += Super::sub_blocks) {
        float largest = 0.0f;
        for (int lane = first; lane < first + Super::sub_blocks; ++lane) {
            if (std::fabs(each[lane]) > std::fabs(largest)) largest = each[lane];
        }
        for (int lane = first; lane < first + Super::sub_blocks; ++lane) d[lane] = largest / -batch.scales;
    }
    batch.d = as_half(load(d));
    batch.scale = batch.storable(scales * inverse_of(batch.d));
    batch.error = batch.error_of(batch.d * batch.scale);
}

template <typename Super>
inline void try_neighbours(SignedBatch<Super>& batch) {
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
template <typename Super>
inline void refit(SignedBatch<Super>& batch) {
    const Floats inverse = inverse_of(batch.d * batch.scale);
    Floats xq{}, qq{};
    for (int i = 0; i < Super::sub_values; ++i) {
        const Floats code = Super::CodeBook::entry(batch.x[i] * inverse), weighted = batch.weights[i] * code;
        xq += weighted * batch.x[i];
        qq += weighted * code;
    }
    const auto numerators = sums_of_groups<Super::sub_blocks>(batch.scale * xq);
    const auto denominators = sums_of_groups<Super::sub_blocks>(batch.scale * batch.scale * qq);
    float d[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        const double fitted = numerators.of_lane[lane] / denominators.of_lane[lane];
        d[lane] = denominators.of_lane[lane] > 0.0 ? static_cast<float>(fitted) : 0.0f;
    }
    const Floats fitted_d = as_half(load(d)), error = batch.error_of(fitted_d * batch.scale);
    const Mask falls = falls_in_groups<Super::sub_blocks>(batch.error, error);
    batch.d = select(falls, fitted_d, batch.d);
    batch.error = select(falls, error, batch.error);
}

// Super-block `s` of the batch, from its values.
template <typename Super>
inline void take(const SignedBatch<Super>& batch, int s, const float* values, Super& super) {
    constexpr int n = Super::sub_values;
    float d[lanes], scale[lanes];
    store(batch.d, d);
    store(batch.scale, scale);
    super.d = to_half(d[s * Super::sub_blocks]);
    for (int j = 0; j < Super::sub_blocks; ++j) {
        const int lane = s * Super::sub_blocks + j;
        super.scales[j] = static_cast<int8_t>(scale[lane]);
        const float inverse = inverse_of(d[lane] * scale[lane]);
        for (int i = n * j; i < n * (j + 1); i += lanes) {
            store(bytes_of(Super::CodeBook::code(load(values + i) * inverse)), super.codes + i);
        }
    }
}

// Calls `pack(b, super_block)` for each block b of `rows`.
template <typename Super, typename Pack>
inline void encode_signed(const RowsOfBlocks& rows, const SignedLimits& limits, const Pack& pack) {
    constexpr size_t most = lanes / Super::sub_blocks;
    const Effort& effort = rows.imatrix ? limits.weighted_effort : limits.effort;
    const size_t n_blocks = blocks_of(rows);
    SignedBatch<Super> batch;
    batch.scales = limits.scales;
    for (size_t b = 0; b < n_blocks; b += most) {
        const size_t count = n_blocks - b < most ? n_blocks - b : most;
        turn_sub_blocks<Super::sub_blocks>(rows, b, count, batch.x, batch.weights);
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

}  // namespace
}  // namespace quantmill
