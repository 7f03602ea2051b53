#include "span.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../stored.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr size_t width = 16;
constexpr size_t piece = 512;  // source values widened at a time, in the first cache

using Eight = float __attribute__((vector_size(32)));
using Doubles = double __attribute__((vector_size(64)));
using Bits = int32_t __attribute__((vector_size(32)));

Eight magnitude_of(const Eight& value) {
    return reinterpret_cast<Eight>(reinterpret_cast<Bits>(value) & 0x7FFFFFFF);
}

Eight larger_of(const Eight& a, const Eight& b) { return a > b ? a : b; }

Eight eight_at(const float* values) {
    Eight loaded;
    std::memcpy(&loaded, values, sizeof loaded);
    return loaded;
}

double sum_of(const Doubles& even, const Doubles& odd) {
    const Doubles both = even + odd;
    return ((both[0] + both[4]) + (both[2] + both[6])) + ((both[1] + both[5]) + (both[3] + both[7]));
}

float largest_of(const Eight& a, const Eight& b) {
    const Eight both = larger_of(a, b);
    float largest = both[0];
    for (int lane = 1; lane < 8; ++lane) largest = both[lane] > largest ? both[lane] : largest;
    return largest;
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
        const Doubles wide = __builtin_convertvector(difference, Doubles), source = __builtin_convertvector(wanted, Doubles);
        block.error[half] += wide * wide;
        sums.source[half] += source * source;
        sums.product[half] += wide * source;
        block.peak[half] = larger_of(magnitude_of(wanted), block.peak[half]);
        sums.largest[half] = larger_of(magnitude_of(difference), sums.largest[half]);
    }
}

// Less than sixteen of them: the rest of the lanes is zero, which adds to nothing.
void add_rest(const float* values, const float* sources, size_t n, Sums& sums, BlockSums& block) {
    float padded_values[width] = {}, padded_sources[width] = {};
    std::memcpy(padded_values, values, n * sizeof(float));
    std::memcpy(padded_sources, sources, n * sizeof(float));
    add(padded_values, padded_sources, sums, block);
}

template <Source source>
const uint8_t* at(const void* sources, size_t i) {
    return static_cast<const uint8_t*>(sources) + i * size_of(source);
}

template <Source source>
void add_block(const float* values, const void* sources, size_t start, size_t n, Sums& sums, BlockSums& block) {
    float widened[piece];
    for (size_t first = 0; first < n; first += piece) {
        const size_t some = n - first < piece ? n - first : piece;
        const float* const of_block = values + start + first;
        widen<source>(at<source>(sources, start + first), some, widened);
        size_t i = 0;
        for (; i + width <= some; i += width) add(of_block + i, widened + i, sums, block);
        if (i < some) add_rest(of_block + i, widened + i, some - i, sums, block);
    }
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
