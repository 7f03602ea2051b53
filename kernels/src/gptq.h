// GPTQ on whole matrices: widening of the source, checks, rows spread over threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "rows.h"
#include "solvers/gptq_strips.h"
#include "weights.h"

namespace quantmill {

// A value of greater magnitude is refused: the differences and updates of larger ones overflow.
constexpr float gptq_largest = 0x1p120f;

// One row of each a row of weights; `groups` scales and zeros in a row.
struct GptqScales {
    float* scales;
    uint8_t* zeros;
    size_t groups;
};

// Scale and zero point of each group of `group_columns` columns as the weights are.
std::optional<Refused> find_gptq_scales(const GptqGrid& grid, const Weights& weights, size_t group_columns,
                                        const GptqScales& found, size_t threads);

// `scales` is read, or written where the problem says that scales are to be found. `losses` is one per row.
std::optional<Refused> solve_gptq(const GptqProblem& problem, const Weights& weights, const GptqScales& scales,
                                  uint8_t* codes, float* losses, size_t threads);

// The first value of the upper triangle that is not finite, or not positive on the diagonal.
std::optional<Refused> first_bad_factor(const float* factor, size_t cols, size_t threads);

}  // namespace quantmill
