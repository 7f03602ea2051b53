#include "microscaling.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>

#include "dispatch.h"
#include "precision.h"
#include "small_floats/fp8_tile.h"
#include "threads.h"

namespace quantmill {
namespace {

const MicroscaledKernels& kernels() {
    return on(isa_in_use(), []<Isa isa>() -> const MicroscaledKernels& { return microscaled_kernels<isa>(); });
}

float absmax_of(const WeightTile& tile) {
    return on(isa_in_use(), []<Isa isa>() -> const Fp8Kernels& { return fp8_kernels<isa>(); }).absmax(tile);
}

// Calls encode(first value, its position, how many) for ranges of rows.
template <typename Encode>
std::optional<RefusedWeight> for_finite_rows(const Weights& weights, size_t threads, const Encode& encode) {
    std::atomic<bool> finite{true};
    for_rows(weights.rows, rows_per_range(weights.cols), threads, [&](size_t first, size_t last) {
        const WeightTile tile = tile_of(weights, first, 0, last - first, weights.cols);
        if (!std::isfinite(absmax_of(tile))) return finite = false;
        encode(tile.values, first * weights.cols, (last - first) * weights.cols);
        return true;
    });
    return finite ? std::nullopt : first_not_finite(weights);
}

// Calls decode(position of the first value, how many) for ranges of rows.
template <typename Decode>
void for_ranges(size_t rows, size_t cols, size_t threads, const Decode& decode) {
    for_rows(rows, rows_per_range(cols), threads, [&](size_t first, size_t last) {
        decode(first * cols, (last - first) * cols);
        return true;
    });
}

}  // namespace

float nvfp4_global_scale(float absmax, Source dtype) {
    constexpr float largest = 448.0f * 6.0f;
    const float smallest = std::max(absmax, FLT_MIN), inverse = 1.0f / smallest;
    const float scale = inverse * largest;
    if (!std::isfinite(scale)) return 1.0f;
    const float stored = rounded(dtype, rounded(dtype, inverse) * largest);
    return std::isfinite(stored) ? stored : scale;
}

std::optional<RefusedWeight> encode_nvfp4(const Weights& weights, float global_scale, uint8_t* packed, uint8_t* scales,
                                          size_t threads) {
    return for_finite_rows(weights, threads, [&](const void* values, size_t first, size_t n) {
        kernels().encode_nvfp4(weights.source, values, n, global_scale, packed + first / 2,
                               scales + first / nvfp4_group);
    });
}

std::optional<RefusedWeight> encode_mxfp4(const Weights& weights, uint8_t* packed, uint8_t* exponents, size_t threads) {
    return for_finite_rows(weights, threads, [&](const void* values, size_t first, size_t n) {
        kernels().encode_mxfp4(weights.source, values, n, packed + first / 2, exponents + first / mx_group);
    });
}

std::optional<RefusedWeight> encode_mxfp8(const Weights& weights, uint8_t* codes, uint8_t* exponents, size_t threads) {
    return for_finite_rows(weights, threads, [&](const void* values, size_t first, size_t n) {
        kernels().encode_mxfp8(weights.source, values, n, codes + first, exponents + first / mx_group);
    });
}

void decode_nvfp4(const uint8_t* packed, const uint8_t* scales, float global_scale, size_t rows, size_t cols,
                  float* values, size_t threads) {
    for_ranges(rows, cols, threads, [&](size_t first, size_t n) {
        kernels().decode_nvfp4(packed + first / 2, scales + first / nvfp4_group, global_scale, n, values + first);
    });
}

void decode_mxfp4(const uint8_t* packed, const uint8_t* exponents, size_t rows, size_t cols, float* values,
                  size_t threads) {
    for_ranges(rows, cols, threads, [&](size_t first, size_t n) {
        kernels().decode_mxfp4(packed + first / 2, exponents + first / mx_group, n, values + first);
    });
}

void decode_mxfp8(const uint8_t* codes, const uint8_t* exponents, size_t rows, size_t cols, float* values,
                  size_t threads) {
    for_ranges(rows, cols, threads, [&](size_t first, size_t n) {
        kernels().decode_mxfp8(codes + first, exponents + first / mx_group, n, values + first);
    });
}

}  // namespace quantmill
