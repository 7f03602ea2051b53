// GPTQ's column solver (Frantar et al., 2022) on rows of weights that stand side by side in the lanes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/source.h"
#include "isa.h"

namespace quantmill {

// Rows of a strip. A value of a strip is at [column or group][row].
constexpr size_t strip_rows = 32;
// A strip has room for a multiple of this many columns.
constexpr size_t strip_columns = 16;

// Columns that are solved before their errors reach the columns after them, unless a group has more.
constexpr size_t least_panel = 128;

// How the scale and the zero point of a group follow from its weights.
struct GptqGrid {
    int bits;
    bool symmetric;    // the range is as wide below zero as above, the zero point 2^(bits-1)
    float norm;        // of the errors that the search for a smaller range minimizes; 0: the whole range is taken
    Source precision;  // of the scale as it will be stored
};

struct GptqProblem {
    const float* factor;      // upper triangular U, U^T U the inverse of the Hessian, cols x cols, row-major
    size_t cols;
    size_t group_columns;     // columns that share a scale
    const int32_t* group_of;  // of each column; nullptr: column / group_columns
    bool find_scales;         // of each group when its first column is reached; otherwise they are given
    GptqGrid grid;
};

struct GptqStrip {
    float* columns;  // the weights; afterwards the error of each column over its diagonal value of U
    float* scales;   // per group
    float* zeros;    // per group, whole numbers
    uint8_t* codes;  // per column
    float* losses;   // one per row: half the sum of the squared errors
};

// How one instruction set does it. Every sum runs in the order of the columns.
struct GptqSolver {
    // `rows` (1 to 32) x `cols` row-major values, `stride` from one row to the next, to a strip; other rows are zero.
    void (*load)(const float* values, size_t rows, size_t cols, size_t stride, float* strip);
    // Scale and zero point of each group of `group_columns` columns.
    void (*find_scales)(const GptqGrid& grid, const GptqStrip& strip, size_t group_columns, size_t groups);
    // `scratch` is solver_scratch(problem) floats.
    void (*solve)(const GptqProblem& problem, const GptqStrip* strips, size_t n_strips, float* scratch);
};

// Columns of a panel: whole groups where scales are to be found.
size_t panel_columns(const GptqProblem& problem);
size_t solver_scratch(const GptqProblem& problem);

template <Isa> const GptqSolver& gptq_solver();

}  // namespace quantmill
