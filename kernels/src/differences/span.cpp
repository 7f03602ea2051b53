#include "span.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../stored.h"
#include "../unit.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace quantmill {
namespace {

constexpr size_t width = 16;

using Eight = float __attribute__((vector_size(32)));
using Doubles = double __attribute__((vector_size(64)));
using Bits = int32_t __attribute__((vector_size(32)));

Eight magnitude_of(const Eight& value) {
    return reinterpret_cast<Eight>(reinterpret_cast<Bits>(value) & 0x7FFFFFFF);
}

// GCC makes two instructions of this comparison, and three of the conversion below.
Eight larger_of(const Eight& a, const Eight& b) {
#if defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

Doubles doubles_of(const Eight& values) {
#if defined(__AVX512F__)
    return _mm512_cvtps_pd(values);
#else
    return __builtin_convertvector(values, Doubles);
#endif
}

Eight eight_at(const float* values) {
    Eight loaded;
    std::memcpy(&loaded, values, sizeof loaded);
    return loaded;
}

// The products of two floats are exact in float64, so that adding them at once rounds as two steps do.
void add_product(const Doubles& a, const Doubles& b, Doubles& sum) {
#if defined(__AVX512F__)
    sum = _mm512_fmadd_pd(a, b, sum);
#else
    sum += a * b;
#endif
}

double sum_of(const Doubles& even, const Doubles& odd) {
    const Doubles both = even + odd;
    const Doubles fours = both + __builtin_shufflevector(both, both, 4, 5, 6, 7, 0, 1, 2, 3);
    const Doubles pairs = fours + __builtin_shufflevector(fours, fours, 2, 3, 0, 1, 6, 7, 4, 5);
    return pairs[0] + pairs[1];
}

float largest_of(const Eight& a, const Eight& b) {
    const Eight both = larger_of(a, b);
    const Eight fours = larger_of(both, __builtin_shufflevector(both, both, 4, 5, 6, 7, 0, 1, 2, 3));
    const Eight pairs = larger_of(fours, __builtin_shufflevector(fours, fours, 2, 3, 0, 1, 6, 7, 4, 5));
    return pairs[0] > pairs[1] ? pairs[0] : pairs[1];
}

// Sums in two halves of eight lanes; those of the whole span, and those of the block at hand.
struct Sums {
    Doubles source[2] = {}, product[2] = {};
    Eight largest[2] = {};
};

struct BlockSums {
    Doubles error[2] = {};
    Eight peak[2] = {};
};

void add(const float* values, const float* sources, Sums& sums, BlockSums& block) {
    for (int half = 0; half < 2; ++half) {
        const Eight value = eight_at(values + 8 * half), wanted = eight_at(sources + 8 * half);
        const Eight difference = value - wanted;
        const Doubles wide = doubles_of(difference), source = doubles_of(wanted);
        add_product(wide, wide, block.error[half]);
        add_product(source, source, sums.source[half]);
        add_product(wide, source, sums.product[half]);
        block.peak[half] = larger_of(magnitude_of(wanted), block.peak[half]);
        sums.largest[half] = larger_of(magnitude_of(difference), sums.largest[half]);
    }
}

template <Source source>
const uint8_t* at(const void* sources, size_t i) {
    return static_cast<const uint8_t*>(sources) + i * size_of(source);
}

// Less than sixteen of them: the rest of the lanes is zero, which adds to nothing.
template <Source source>
void add_rest(const float* values, const uint8_t* sources, size_t n, Sums& sums, BlockSums& block) {
    float padded_values[width] = {}, padded_sources[width] = {};
    std::memcpy(padded_values, values, n * sizeof(float));
    widen<source>(sources, n, padded_sources);
    add(padded_values, padded_sources, sums, block);
}

template <Source source>
void add_block(const float* values, const void* sources, size_t start, size_t n, Sums& sums, BlockSums& block) {
    size_t i = 0;
    for (; i + width <= n; i += width) {
        float widened[width];
        widen<source>(at<source>(sources, start + i), width, widened);
        add(values + start + i, widened, sums, block);
    }
    if (i < n) add_rest<source>(values + start + i, at<source>(sources, start + i), n - i, sums, block);
}

size_t not_finite(const float* values, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) count += !std::isfinite(values[i]);
    return count;
}

// Whether a share of squares over allowed^2 is larger than another's, without dividing by an `allowed` of zero.
bool is_worse(const WorstBlock& block, const WorstBlock& than) {
    return block.squares * (than.allowed * than.allowed) > than.squares * (block.allowed * block.allowed);
}

template <Source source>
Differences span_from(const float* values, const void* sources, size_t n, const DifferenceBound& bound) {
    Sums sums;
    Differences found = {};
    double squared_error = 0.0;
    for (size_t group = 0; group < n; group += bound.group) {
        const size_t end = n - group < bound.group ? n : group + bound.group;
        const bool has_share = bound.group_relative > 0.0;
        const float group_peak = has_share ? largest_magnitude<source>(at<source>(sources, group), end - group) : 0.0f;
        for (size_t start = group; start < end; start += bound.block) {
            BlockSums block;
            add_block<source>(values, sources, start, end - start < bound.block ? end - start : bound.block, sums, block);
            const double squares = sum_of(block.error[0], block.error[1]);
            squared_error += squares;
            const double allowed = bound.relative * largest_of(block.peak[0], block.peak[1]) +
                                   bound.group_relative * group_peak + bound.floor;
            const WorstBlock here = {start, squares, allowed};
            if (squares > 0.0 && (found.worst.squares == 0.0 || is_worse(here, found.worst))) found.worst = here;
        }
    }
    found.squared_error = squared_error;
    found.squared_source = sum_of(sums.source[0], sums.source[1]);
    found.product = sum_of(sums.product[0], sums.product[1]) + found.squared_source;
    found.largest = largest_of(sums.largest[0], sums.largest[1]);
    return found;
}

Differences span(const float* values, Source source, const void* sources, size_t n, const DifferenceBound& bound) {
    Differences found = {};
    switch (source) {
        case Source::float32: found = span_from<Source::float32>(values, sources, n, bound); break;
        case Source::float16: found = span_from<Source::float16>(values, sources, n, bound); break;
        case Source::bfloat16: found = span_from<Source::bfloat16>(values, sources, n, bound); break;
    }
    if (std::isfinite(found.squared_error)) return found;
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    return {none, none, none, std::numeric_limits<float>::quiet_NaN(), not_finite(values, n), {}};
}

constexpr DifferenceKernels kernels = {span};

}  // namespace

template <>
const DifferenceKernels& difference_kernels<unit>() {
    return kernels;
}

}  // namespace quantmill
