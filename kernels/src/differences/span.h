// Values beside those that they stand for: sums over all of them, and the block that is furthest off.
#pragma once

#include <cstddef>

#include "../formats/source.h"
#include "../isa.h"

namespace quantmill {

// rms(values - source) of `block` values may be relative * peak of the block + group_relative * peak of the `group`
// values around it + floor; a peak is the largest |source|. The block divides the group.
struct DifferenceBound {
    size_t block, group;
    double relative, group_relative, floor;
};

// The block with the largest share of what is allowed: its first value, the sum of its squared differences.
struct WorstBlock {
    size_t start;
    double squares, allowed;
};

struct Differences {
    double squared_error, squared_source, product;  // sums of (v - s)^2, s^2, v * s
    float largest;                                  // |v - s|
    size_t not_finite;                              // of the values; with one the sums are NaN
    WorstBlock worst;
};

struct DifferenceKernels {
    // `n` values; a last block or group may be shorter. Sums run over sixteen lanes, each in the order of the values.
    Differences (*span)(const float* values, Source source, const void* sources, size_t n, const DifferenceBound& bound);
};

template <Isa> const DifferenceKernels& difference_kernels();

}  // namespace quantmill
