#include "fp8.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>

#include "dispatch.h"
#include "precision.h"
#include "small_floats/fp8_tile.h"
#include "threads.h"

namespace quantmill {
namespace {

constexpr float largest_code = 448.0f;

const Fp8Kernels& kernels() {
    return on(isa_in_use(), []<Isa isa>() -> const Fp8Kernels& { return fp8_kernels<isa>(); });
}

struct Span {
    size_t row, col, rows, cols, scale;
};

// Calls work(span) for the tiles, the rows of them spread over threads, until it returns false.
template <typename Work>
void for_tiles(const Fp8Grid& grid, size_t rows, size_t cols, size_t threads, const Work& work) {
    const size_t bands = (rows + grid.tile_rows - 1) / grid.tile_rows;
    const size_t grain = grid.tile_rows == 1 ? rows_per_range(cols) : 1;
    for_rows(bands, grain, threads, [&](size_t first, size_t last) {
        for (size_t band = first; band < last; ++band) {
            const size_t row = band * grid.tile_rows, scale_row = std::min(band, grid.scale_rows - 1);
            for (size_t tile = 0; tile < grid.scale_cols; ++tile) {
                const size_t col = tile * grid.tile_cols;
                const Span span = {row, col, std::min(grid.tile_rows, rows - row), std::min(grid.tile_cols, cols - col),
                                   scale_row * grid.scale_cols + tile};
                if (!work(span)) return false;
            }
        }
        return true;
    });
}

}  // namespace

Fp8Grid fp8_grid(Fp8Strategy strategy, size_t rows, size_t cols) {
    switch (strategy) {
        case Fp8Strategy::tensor: return {1, cols, 1, 1};
        case Fp8Strategy::channel: return {1, cols, rows, 1};
        case Fp8Strategy::block: break;
    }
    return {fp8_block, fp8_block, (rows + fp8_block - 1) / fp8_block, (cols + fp8_block - 1) / fp8_block};
}

float fp8_scale(float absmax, Source dtype) {
    constexpr float epsilon[] = {FLT_EPSILON, 0x1p-10f, 0x1p-7f};  // of float32, float16, bfloat16
    constexpr float largest[] = {FLT_MAX, 65504.0f, FLT_MAX};
    const float scale = std::min(rounded(dtype, absmax / largest_code), largest[static_cast<size_t>(dtype)]);
    return scale > 0.0f ? scale : epsilon[static_cast<size_t>(dtype)];
}

float absmax(const Weights& weights, size_t threads) {
    std::atomic<int32_t> largest{0};  // as bits: magnitudes compare as integers, NaN above all others
    for_rows(weights.rows, rows_per_range(weights.cols), threads, [&](size_t first, size_t last) {
        const float of_rows = kernels().absmax(tile_of(weights, first, 0, last - first, weights.cols));
        const int32_t bits = std::bit_cast<int32_t>(of_rows);
        for (int32_t seen = largest; bits > seen && !largest.compare_exchange_weak(seen, bits);) {}
        return std::isfinite(of_rows);
    });
    return std::bit_cast<float>(largest.load());
}

std::optional<RefusedWeight> encode_fp8(const Weights& weights, Fp8Strategy strategy, Source scale_dtype, bool given,
                                        float* scales, uint8_t* codes, size_t threads) {
    if (strategy == Fp8Strategy::tensor && !given) {
        const float largest = absmax(weights, threads);
        if (!std::isfinite(largest)) return first_not_finite(weights);
        scales[0] = fp8_scale(largest, scale_dtype);
        given = true;
    }
    const Source precision = scale_dtype == weights.source ? weights.source : Source::float32;
    std::atomic<bool> finite{true};
    const Fp8Grid grid = fp8_grid(strategy, weights.rows, weights.cols);
    for_tiles(grid, weights.rows, weights.cols, threads, [&](const Span& span) {
        const WeightTile tile = tile_of(weights, span.row, span.col, span.rows, span.cols);
        const float largest = kernels().absmax(tile);
        if (!std::isfinite(largest)) return finite = false;
        if (!given) scales[span.scale] = fp8_scale(largest, scale_dtype);
        kernels().encode(tile, scales[span.scale], precision, codes + span.row * weights.cols + span.col);
        return true;
    });
    return finite ? std::nullopt : first_not_finite(weights);
}

void decode_fp8(const uint8_t* codes, const float* scales, Fp8Strategy strategy, size_t rows, size_t cols,
                float* values, size_t threads) {
    const Fp8Grid grid = fp8_grid(strategy, rows, cols);
    for_rows(rows, rows_per_range(cols), threads, [&](size_t begin, size_t end) {
        for (size_t row = begin; row < end; ++row) {
            const size_t scale_row = std::min(row / grid.tile_rows, grid.scale_rows - 1);
            const float* const of_row = scales + scale_row * grid.scale_cols;
            for (size_t tile = 0; tile < grid.scale_cols; ++tile) {
                const size_t col = tile * grid.tile_cols, first = row * cols + col;
                kernels().decode(codes + first, std::min(grid.tile_cols, cols - col), of_row[tile], values + first);
            }
        }
        return true;
    });
}

}  // namespace quantmill
