#include "int8_affine.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <mutex>
#include <vector>

#include "dispatch.h"
#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t stripe = 128;  // columns that one thread walks down at a time

const Int8Kernels& kernels() {
    return on(isa_in_use(), []<Isa isa>() -> const Int8Kernels& { return int8_kernels<isa>(); });
}

bool is_finite(const OrderedRange& range) {
    constexpr int32_t largest = std::bit_cast<int32_t>(FLT_MAX), lowest = ordered(std::bit_cast<int32_t>(-FLT_MAX));
    return range.low >= lowest && range.high <= largest;
}

struct CodeRange {
    int lowest, highest;
};

CodeRange codes_for_scale(const Int8Rule& rule) {
    if (rule.reduce_range) return rule.is_signed ? CodeRange{-64, 64} : CodeRange{0, 127};
    if (!rule.is_signed) return {0, 255};
    return {rule.symmetric ? -127 : -128, 127};
}

// In double, as ONNX Runtime does. A range too small for a normal float32 scale, and one of no values, has the scale 1.
AffineScale scale_of(const OrderedRange& range, const Int8Rule& rule) {
    if (range.low > range.high) return {};
    float low = std::min(std::bit_cast<float>(ordered(range.low)), 0.0f);
    float high = std::max(std::bit_cast<float>(ordered(range.high)), 0.0f);
    if (rule.symmetric) {
        high = std::max(-low, high);
        low = -high;
    }
    const CodeRange codes = codes_for_scale(rule);
    const double scale = (double{high} - double{low}) / (codes.highest - codes.lowest);
    if (scale < double{FLT_MIN}) return {};
    const double zero_point =
        rule.symmetric ? (codes.lowest + codes.highest) / 2.0 : codes.lowest - double{low} / scale;
    return {static_cast<float>(scale), static_cast<float>(std::nearbyint(zero_point))};
}

using Encode = std::optional<RefusedWeight> (*)(const Weights&, const Int8Rule&, uint8_t*, AffineScale*, size_t);

std::optional<RefusedWeight> encode_tensor(const Weights& weights, const Int8Rule& rule, uint8_t* codes,
                                           AffineScale* scales, size_t threads) {
    OrderedRange whole;
    std::mutex guards_whole;
    const size_t grain = rows_per_range(weights.cols);
    for_rows(weights.rows, grain, threads, [&](size_t first, size_t last) {
        const OrderedRange range =
            kernels().range(weights.source, at(weights, first, 0), (last - first) * weights.cols);
        const std::lock_guard lock(guards_whole);
        whole = {std::min(whole.low, range.low), std::max(whole.high, range.high)};
        return true;
    });
    if (whole.low <= whole.high && !is_finite(whole)) return first_not_finite(weights);
    scales[0] = scale_of(whole, rule);
    for_rows(weights.rows, grain, threads, [&](size_t first, size_t last) {
        kernels().encode(weights.source, at(weights, first, 0), (last - first) * weights.cols, scales[0],
                         rule.is_signed, codes + first * weights.cols);
        return true;
    });
    return std::nullopt;
}

std::optional<RefusedWeight> encode_rows(const Weights& weights, const Int8Rule& rule, uint8_t* codes,
                                         AffineScale* scales, size_t threads) {
    std::atomic<bool> finite{true};
    for_rows(weights.rows, rows_per_range(weights.cols), threads, [&](size_t first, size_t last) {
        for (size_t row = first; row < last; ++row) {
            const void* const values = at(weights, row, 0);
            const OrderedRange range = kernels().range(weights.source, values, weights.cols);
            if (weights.cols > 0 && !is_finite(range)) return finite = false;
            scales[row] = scale_of(range, rule);
            kernels().encode(weights.source, values, weights.cols, scales[row], rule.is_signed,
                             codes + row * weights.cols);
        }
        return true;
    });
    return finite ? std::nullopt : first_not_finite(weights);
}

std::optional<RefusedWeight> encode_columns(const Weights& weights, const Int8Rule& rule, uint8_t* codes,
                                            AffineScale* scales, size_t threads) {
    std::atomic<bool> finite{true};
    for_rows(weights.cols, stripe, threads, [&](size_t first, size_t last) {
        const size_t n = last - first;
        std::vector<OrderedRange> ranges(n);
        for (size_t row = 0; row < weights.rows; ++row) {
            kernels().fold_ranges(weights.source, at(weights, row, first), n, ranges.data());
        }
        if (weights.rows > 0 && !std::ranges::all_of(ranges, is_finite)) return finite = false;
        for (size_t i = 0; i < n; ++i) scales[first + i] = scale_of(ranges[i], rule);
        for (size_t row = 0; row < weights.rows; ++row) {
            kernels().encode_each(weights.source, at(weights, row, first), n, scales + first, rule.is_signed,
                                  codes + row * weights.cols + first);
        }
        return true;
    });
    return finite ? std::nullopt : first_not_finite(weights);
}

}  // namespace

size_t affine_scales(AffineAxis axis, size_t rows, size_t cols) {
    switch (axis) {
        case AffineAxis::tensor: return 1;
        case AffineAxis::rows: return rows;
        case AffineAxis::columns: break;
    }
    return cols;
}

std::optional<RefusedWeight> encode_int8_affine(const Weights& weights, AffineAxis axis, const Int8Rule& rule,
                                                uint8_t* codes, AffineScale* scales, size_t threads) {
    constexpr Encode encoders[] = {encode_tensor, encode_rows, encode_columns};  // in the order of AffineAxis
    return encoders[static_cast<size_t>(axis)](weights, rule, codes, scales, threads);
}

void decode_int8_affine(const uint8_t* codes, const AffineScale* scales, AffineAxis axis, bool is_signed, size_t rows,
                        size_t cols, float* values, size_t threads) {
    for_rows(rows, rows_per_range(cols), threads, [&](size_t first, size_t last) {
        for (size_t row = first; row < last; ++row) {
            const uint8_t* const from = codes + row * cols;
            float* const to = values + row * cols;
            if (axis == AffineAxis::columns) {
                kernels().decode_each(from, cols, scales, is_signed, to);
            } else {
                kernels().decode(from, cols, scales[axis == AffineAxis::rows ? row : 0], is_signed, to);
            }
        }
        return true;
    });
}

}  // namespace quantmill
