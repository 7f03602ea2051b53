#include "solvers/gptq_strips.h"

#include <cmath>
#include <cstring>

#include "lanes.h"
#include "unit.h"

namespace quantmill {
namespace {

// As many sums as the registers hold: of `columns_at_once` columns in two registers each.
#if defined(__AVX512F__)
using Register = Floats;
constexpr int columns_at_once = 8;
#elif defined(__AVX2__)
using Register = Floats8;
constexpr int columns_at_once = 4;
#elif defined(__aarch64__)
using Register = Floats4;
constexpr int columns_at_once = 8;
#else
using Register = Floats4;
constexpr int columns_at_once = 4;
#endif
constexpr size_t vectors_per_strip = strip_rows / lanes;
static_assert(strip_columns % columns_at_once == 0);

constexpr size_t depth_at_once = least_panel;  // columns whose errors are subtracted while they are in the L1 cache

inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

// ---- what leads from weights to codes ----

inline float highest_code(int bits) { return static_cast<float>((1 << bits) - 1); }

// Codes of weights: the nearest that the grid has, from 0.
inline Floats codes_of(const Floats& weights, const Floats& scale, const Floats& zero, float highest) {
    const Floats steps = weights / scale;
    return nearest(smaller(larger(steps, -zero), all(highest) - zero)) + zero;
}

// As the scale will be stored, never zero.
inline Floats as_stored(const Floats& scale, Source precision) {
    switch (precision) {
        case Source::float32: return larger(scale, all(0x1p-149f));
        case Source::float16: return larger(as_half(scale), all(0x1p-24f));
        case Source::bfloat16: break;
    }
    float each[lanes];
    store(scale, each);
    for (float& one : each) one = to_float(to_bfloat(one));
    return larger(load(each), all(0x1p-133f));
}

struct ScaleAndZero {
    Floats scale, zero;
};

// Of weights between `low` <= 0 and `high` >= 0.
inline ScaleAndZero of_range(const GptqGrid& grid, const Floats& low, const Floats& high) {
    const float highest = highest_code(grid.bits);
    const Floats scale = as_stored((high - low) / highest, grid.precision);
    if (grid.symmetric) return {scale, all((highest + 1.0f) / 2)};
    return {scale, nearest_code(-low / scale, 0.0f, highest)};
}

// x^power for x >= 0, within some units of the last place; the same operations on every instruction set.
inline Floats power_of(const Floats& x, float power) {
    float each[lanes];
    store(x, each);
    for (float& one : each) {
        uint32_t bits;
        std::memcpy(&bits, &one, sizeof bits);
        const uint32_t above = bits - 0x3F3504F3u;  // the mantissa comes to lie between sqrt(1/2) and sqrt(2)
        const auto exponent = static_cast<float>(static_cast<int32_t>(above) >> 23);
        const uint32_t mantissa_bits = (above & 0x007FFFFFu) + 0x3F3504F3u;
        float mantissa;
        std::memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
        const float t = (mantissa - 1.0f) / (mantissa + 1.0f), t2 = t * t;  // log2 m = 2 / ln 2 * artanh t
        const float series = 2.885390082f + t2 * (0.961796694f + t2 * (0.577078016f + t2 * 0.412198583f));
        const float exponent_of_power = power * (exponent + t * series);
        const float clamped = exponent_of_power > -126.0f ? exponent_of_power < 127.0f ? exponent_of_power : 127.0f
                                                          : -126.0f;
        const float whole = (clamped + rounder) - rounder, part = clamped - whole;
        const float fraction =
            1.0f + part * (0.693147181f + part * (0.240226507f + part * (0.0555041087f + part * (0.00961812911f +
                   part * 0.00133335581f))));
        const uint32_t scale_bits = static_cast<uint32_t>(static_cast<int32_t>(whole) + 127) << 23;
        float scale;
        std::memcpy(&scale, &scale_bits, sizeof scale);
        one = one > 0.0f ? fraction * scale : 0.0f;
    }
    return load(each);
}

constexpr int range_steps = 100, smallest_range = 20;  // of a hundred

// Sum of |error|^norm, no further than until it exceeds `best` in every lane.
inline Floats error_of(const GptqGrid& grid, const ScaleAndZero& candidate, const float* columns, size_t n,
                       const Floats& best) {
    const float highest = highest_code(grid.bits);
    Floats sum = all(0.0f);
    for (size_t c = 0; c < n; ++c) {
        const Floats weights = load(columns + c * strip_rows);
        const Floats codes = codes_of(weights, candidate.scale, candidate.zero, highest);
        sum += power_of(absolute(candidate.scale * (codes - candidate.zero) - weights), grid.norm);
        if (c % 16 == 15 && largest_lane(select(sum < best, all(1.0f), all(0.0f))) == 0.0f) break;
    }
    return sum;
}

// Of sixteen rows. The range of their weights and zero, or the part of it that gives the least error.
inline ScaleAndZero scale_of(const GptqGrid& grid, const float* columns, size_t n) {
    Floats low = all(0.0f), high = all(0.0f);
    for (size_t c = 0; c < n; ++c) {
        const Floats weights = load(columns + c * strip_rows);
        low = smaller(weights, low);
        high = larger(weights, high);
    }
    if (grid.symmetric) {
        high = larger(high, -low);
        low = -high;
    }
    const Mask ranges = high - low > all(0.0f);  // elsewhere -1 to 1
    low = select(ranges, low, all(-1.0f));
    high = select(ranges, high, all(1.0f));
    ScaleAndZero best = of_range(grid, low, high);
    if (grid.norm == 0.0f) return best;
    Floats least_error = error_of(grid, best, columns, n, all(INFINITY));
    for (int step = range_steps - 1; step > smallest_range; --step) {
        const float part = static_cast<float>(step) / range_steps;
        const ScaleAndZero candidate = of_range(grid, low * part, high * part);
        const Floats error = error_of(grid, candidate, columns, n, least_error);
        const Mask smaller_error = error < least_error;
        best = {select(smaller_error, candidate.scale, best.scale), select(smaller_error, candidate.zero, best.zero)};
        least_error = select(smaller_error, error, least_error);
    }
    return best;
}

void find_group(const GptqGrid& grid, const GptqStrip& strip, size_t group, size_t first, size_t n) {
    for (size_t v = 0; v < vectors_per_strip; ++v) {
        const auto [scale, zero] = scale_of(grid, strip.columns + first * strip_rows + v * lanes, n);
        store(scale, strip.scales + group * strip_rows + v * lanes);
        store(zero, strip.zeros + group * strip_rows + v * lanes);
    }
}

void find_scales(const GptqGrid& grid, const GptqStrip& strip, size_t group_columns, size_t groups) {
    for (size_t group = 0; group < groups; ++group) {
        find_group(grid, strip, group, group * group_columns, group_columns);
    }
}

// ---- errors on their way to later columns ----

constexpr size_t rows_at_once = 2 * sizeof(Register) / sizeof(float);

// Of rows_at_once rows, n columns -= their part of the factor times the errors of `depth` columns, one after the other.
template <int n>
inline void subtract(const float* errors, const float* factor, size_t depth, float* columns) {
    constexpr size_t half = rows_at_once / 2;
    Register low[n], high[n];
    for (int c = 0; c < n; ++c) {
        low[c] = load<Register>(columns + c * strip_rows);
        high[c] = load<Register>(columns + c * strip_rows + half);
    }
    for (size_t k = 0; k < depth; ++k, errors += strip_rows, factor += n) {
        const auto low_error = load<Register>(errors), high_error = load<Register>(errors + half);
        for (int c = 0; c < n; ++c) {
            low[c] = low[c] - low_error * factor[c];
            high[c] = high[c] - high_error * factor[c];
        }
    }
    for (int c = 0; c < n; ++c) {
        store(low[c], columns + c * strip_rows);
        store(high[c], columns + c * strip_rows + half);
    }
}

// Part of the factor, n columns after n columns: factor[k][c] at [c / n][k][c % n]. Columns beyond the last are zero.
template <int n>
struct Packed {
    const float* values;
    size_t first_row, rows, first_col;

    const float* at(size_t row, size_t col) const {
        return values + ((col - first_col) / n * rows + (row - first_row)) * n;
    }
};

template <int n>
Packed<n> pack(const GptqProblem& problem, size_t first_row, size_t rows, size_t first_col, size_t last_col,
               float* scratch) {
    for (size_t col = first_col; col < last_col; col += n) {
        const size_t width = least(n, last_col - col);
        for (size_t row = first_row; row < first_row + rows; ++row, scratch += n) {
            const float* const from = problem.factor + row * problem.cols + col;
            if (width == n) {
                std::memcpy(scratch, from, n * sizeof(float));
            } else {
                for (size_t c = 0; c < n; ++c) scratch[c] = c < width ? from[c] : 0.0f;
            }
        }
    }
    const size_t blocks = (last_col - first_col + n - 1) / n;
    return {scratch - blocks * rows * n, first_row, rows, first_col};
}

// Columns [first, last) -= the factor times the errors of `depth` columns from `row` on.
template <int n>
void apply(const Packed<n>& packed, size_t row, size_t depth, size_t first, size_t last, float* columns) {
    for (size_t row_of_strip = 0; row_of_strip < strip_rows; row_of_strip += rows_at_once) {
        float* const rows = columns + row_of_strip;
        for (size_t col = first; col < last; col += n) {
            subtract<n>(rows + row * strip_rows, packed.at(row, col), depth, rows + col * strip_rows);
        }
    }
}

// ---- columns one after the other ----

// The codes of n columns, of which `real` exist, and their errors, each subtracted from those after it.
template <int n>
inline void close_columns(const GptqProblem& problem, const Packed<n>& packed, const GptqStrip& strip, size_t first,
                          size_t real, size_t v) {
    const float highest = highest_code(problem.grid.bits);
    Floats weights[n];
    for (int c = 0; c < n; ++c) weights[c] = load(strip.columns + (first + c) * strip_rows + v * lanes);
    Floats loss = load(strip.losses + v * lanes);
    for (size_t i = 0; i < real; ++i) {
        const size_t col = first + i;
        const size_t group = problem.group_of ? size_t(problem.group_of[col]) : col / problem.group_columns;
        const Floats scale = load(strip.scales + group * strip_rows + v * lanes);
        const Floats zero = load(strip.zeros + group * strip_rows + v * lanes);
        const Floats codes = codes_of(weights[i], scale, zero, highest);
        const float* const factor = packed.at(col, first);
        const Floats error = (weights[i] - scale * (codes - zero)) / factor[i];
        loss += 0.5f * (error * error);
        for (size_t c = i + 1; c < n; ++c) weights[c] = weights[c] - error * factor[c];
        store(bytes_of(codes), strip.codes + col * strip_rows + v * lanes);
        store(error, strip.columns + col * strip_rows + v * lanes);
    }
    store(loss, strip.losses + v * lanes);
}

// Columns [first, last), which have the errors of all columns before `first` subtracted. Where scales are to be found
// they are whole groups.
template <int n>
void solve_panel(const GptqProblem& problem, const Packed<n>& packed, const GptqStrip& strip, size_t first,
                 size_t last) {
    const size_t span = problem.find_scales ? problem.group_columns : last - first;
    for (size_t begin = first; begin < last; begin += span) {
        const size_t end = least(last, begin + span);
        if (begin > first) apply(packed, first, begin - first, begin, end, strip.columns);
        if (problem.find_scales) find_group(problem.grid, strip, begin / span, begin, span);
        for (size_t col = begin; col < end; col += n) {
            if (col > begin) apply(packed, begin, col - begin, col, col + n, strip.columns);
            for (size_t v = 0; v < vectors_per_strip; ++v) {
                close_columns<n>(problem, packed, strip, col, least(n, end - col), v);
            }
        }
    }
}

template <int n>
void solve_by(const GptqProblem& problem, const GptqStrip* strips, size_t n_strips, float* scratch) {
    const size_t width = panel_columns(problem);
    for (size_t first = 0; first < problem.cols; first += width) {
        const size_t last = least(problem.cols, first + width);
        for (size_t row = 0; row < first; row += depth_at_once) {
            const size_t depth = least(depth_at_once, first - row);
            const Packed<n> packed = pack<n>(problem, row, depth, first, last, scratch);
            for (size_t s = 0; s < n_strips; ++s) apply(packed, row, depth, first, last, strips[s].columns);
        }
        const Packed<n> packed = pack<n>(problem, first, last - first, first, last, scratch);
        for (size_t s = 0; s < n_strips; ++s) solve_panel(problem, packed, strips[s], first, last);
    }
}

void solve(const GptqProblem& problem, const GptqStrip* strips, size_t n_strips, float* scratch) {
    // A span of columns ends where a group does, and is solved columns_at_once at a time if that divides it.
    const bool fits = !problem.find_scales || problem.group_columns % columns_at_once == 0;
    return fits ? solve_by<columns_at_once>(problem, strips, n_strips, scratch)
                : solve_by<1>(problem, strips, n_strips, scratch);
}

void load_strip(const float* values, size_t rows, size_t cols, size_t stride, float* strip) {
    static constexpr float nothing[strip_columns] = {};
    for (size_t v = 0; v < vectors_per_strip; ++v) {
        for (size_t col = 0; col < cols; col += strip_columns) {
            const size_t width = least(strip_columns, cols - col);
            float edge[lanes][strip_columns] = {};
            const float* sources[lanes];
            for (size_t lane = 0; lane < lanes; ++lane) {
                const size_t row = v * lanes + lane;
                sources[lane] = row < rows ? values + row * stride + col : nothing;
                if (width == strip_columns || row >= rows) continue;
                std::memcpy(edge[lane], sources[lane], width * sizeof(float));
                sources[lane] = edge[lane];
            }
            Floats turned[strip_columns];
            turn(sources, turned);
            for (size_t c = 0; c < strip_columns; ++c) store(turned[c], strip + (col + c) * strip_rows + v * lanes);
        }
    }
}

constexpr GptqSolver solver = {load_strip, find_scales, solve};

}  // namespace

template <>
const GptqSolver& gptq_solver<unit>() {
    return solver;
}

}  // namespace quantmill
