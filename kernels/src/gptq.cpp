#include "gptq.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

#include "dispatch.h"
#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t rows_per_tile = 512;  // rows between which a packed part of the factor is shared

const GptqSolver& solver() {
    return on(isa_in_use(), []<Isa isa>() -> const GptqSolver& { return gptq_solver<isa>(); });
}

const SourceReader& reader() {
    return on(isa_in_use(), []<Isa isa>() -> const SourceReader& { return source_reader<isa>(); });
}

size_t rounded_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Memory of up to 32 rows, and what of it is which.
class Strip {
   public:
    Strip(size_t cols, size_t groups)
        : room_(rounded_up(cols, strip_columns)),
          floats_((room_ + 2 * groups + 1) * strip_rows),
          codes_(room_ * strip_rows) {
        float* const columns = floats_.data();
        float* const scales = columns + room_ * strip_rows;
        parts_ = {columns, scales, scales + groups * strip_rows, codes_.data(), scales + 2 * groups * strip_rows};
    }
    const GptqStrip& parts() const { return parts_; }

   private:
    size_t room_;
    std::vector<float> floats_;
    std::vector<uint8_t> codes_;
    GptqStrip parts_;
};

// Weights of `rows` rows from `row` on; the first that is refused.
std::optional<Refused> load(const Weights& weights, size_t row, size_t rows, const GptqStrip& strip,
                            std::vector<float>& widened) {
    const size_t n = rows * weights.cols;
    widened.resize(n);
    reader().widen(weights.source, at(weights, row, 0), n, widened.data());
    const size_t bad = reader().first_unstorable(widened.data(), n, gptq_largest);
    if (bad < n) {
        const Refusal reason = std::isfinite(widened[bad]) ? Refusal::too_large : Refusal::not_finite;
        return Refused{reason, row + bad / weights.cols, bad % weights.cols, widened[bad]};
    }
    solver().load(widened.data(), rows, weights.cols, weights.cols, strip.columns);
    return std::nullopt;
}

void give_scales(const GptqScales& given, size_t row, size_t rows, const GptqStrip& strip) {
    for (size_t group = 0; group < given.groups; ++group) {
        for (size_t r = 0; r < strip_rows; ++r) {
            const size_t from = (row + std::min(r, rows - 1)) * given.groups + group;  // rows that are none: like the last
            strip.scales[group * strip_rows + r] = given.scales[from];
            strip.zeros[group * strip_rows + r] = given.zeros[from];
        }
    }
}

// What the strip found; the first group whose scale its precision cannot hold.
std::optional<Refused> take_scales(const GptqStrip& strip, size_t row, size_t rows, size_t group_columns,
                                   const GptqScales& found) {
    for (size_t r = 0; r < rows; ++r) {
        for (size_t group = 0; group < found.groups; ++group) {
            const float scale = strip.scales[group * strip_rows + r];
            if (!std::isfinite(scale)) {
                return Refused{Refusal::scale_overflow, row + r, group * group_columns, scale};
            }
            found.scales[(row + r) * found.groups + group] = scale;
            found.zeros[(row + r) * found.groups + group] = static_cast<uint8_t>(strip.zeros[group * strip_rows + r]);
        }
    }
    return std::nullopt;
}

void take_codes(const GptqStrip& strip, size_t rows, size_t cols, uint8_t* codes) {
    constexpr size_t cols_at_once = 64;
    for (size_t first = 0; first < cols; first += cols_at_once) {
        const size_t last = std::min(cols, first + cols_at_once);
        for (size_t r = 0; r < rows; ++r) {
            for (size_t col = first; col < last; ++col) codes[r * cols + col] = strip.codes[col * strip_rows + r];
        }
    }
}

// Calls work(row, rows) for tiles of up to rows_per_tile rows; the first refusal in row-major order.
template <typename Work>
std::optional<Refused> for_tiles(size_t rows, size_t threads, const Work& work) {
    std::mutex guards_first;
    std::optional<Refused> first;
    const size_t share = rounded_up((rows + threads - 1) / threads, strip_rows);
    for_rows(rows, std::clamp<size_t>(share, strip_rows, rows_per_tile), threads, [&](size_t begin, size_t end) {
        const std::optional<Refused> refused = work(begin, end - begin);
        if (!refused) return true;
        const std::lock_guard lock(guards_first);
        if (!first || refused->row < first->row) first = refused;
        return false;
    });
    return first;
}

}  // namespace

size_t panel_columns(const GptqProblem& problem) {
    if (!problem.find_scales || problem.group_columns > least_panel) {
        return problem.find_scales ? problem.group_columns : least_panel;
    }
    return least_panel / problem.group_columns * problem.group_columns;
}

size_t solver_scratch(const GptqProblem& problem) {
    const size_t width = rounded_up(panel_columns(problem), strip_columns);
    return width * std::max(width, least_panel);
}

std::optional<Refused> find_gptq_scales(const GptqGrid& grid, const Weights& weights, size_t group_columns,
                                        const GptqScales& found, size_t threads) {
    return for_tiles(weights.rows, threads, [&](size_t begin, size_t n) -> std::optional<Refused> {
        const Strip strip(weights.cols, found.groups);
        std::vector<float> widened;
        for (size_t row = begin; row < begin + n; row += strip_rows) {
            const size_t rows = std::min(strip_rows, begin + n - row);
            if (const auto refused = load(weights, row, rows, strip.parts(), widened)) return refused;
            solver().find_scales(grid, strip.parts(), group_columns, found.groups);
            if (const auto refused = take_scales(strip.parts(), row, rows, group_columns, found)) return refused;
        }
        return std::nullopt;
    });
}

std::optional<Refused> solve_gptq(const GptqProblem& problem, const Weights& weights, const GptqScales& scales,
                                  uint8_t* codes, float* losses, size_t threads) {
    GptqProblem remaining = problem;
    const bool found_at_the_start = problem.find_scales && scales.groups == 1;
    if (found_at_the_start) remaining.find_scales = false;
    return for_tiles(weights.rows, threads, [&](size_t begin, size_t n) -> std::optional<Refused> {
        std::vector<float> widened, scratch(solver_scratch(remaining));
        std::vector<Strip> strips;
        std::vector<GptqStrip> parts;
        for (size_t row = begin; row < begin + n; row += strip_rows) {
            const size_t rows = std::min(strip_rows, begin + n - row);
            const GptqStrip& strip = strips.emplace_back(weights.cols, scales.groups).parts();
            parts.push_back(strip);
            if (const auto refused = load(weights, row, rows, strip, widened)) return refused;
            if (!problem.find_scales) give_scales(scales, row, rows, strip);
            if (found_at_the_start) solver().find_scales(problem.grid, strip, weights.cols, 1);
        }
        solver().solve(remaining, parts.data(), parts.size(), scratch.data());
        for (size_t s = 0; s < parts.size(); ++s) {
            const size_t row = begin + s * strip_rows, rows = std::min(strip_rows, begin + n - row);
            if (problem.find_scales) {
                const auto refused = take_scales(parts[s], row, rows, problem.group_columns, scales);
                if (refused) return refused;
            }
            take_codes(parts[s], rows, weights.cols, codes + row * weights.cols);
            std::copy_n(parts[s].losses, rows, losses + row);
        }
        return std::nullopt;
    });
}

std::optional<Refused> first_bad_factor(const float* factor, size_t cols, size_t threads) {
    return for_tiles(cols, threads, [&](size_t begin, size_t n) -> std::optional<Refused> {
        for (size_t row = begin; row < begin + n; ++row) {
            const float* const values = factor + row * cols;
            size_t bad = row + reader().first_unstorable(values + row, cols - row, gptq_largest);
            if (!(values[row] > 0.0f)) bad = row;
            if (bad < cols) return Refused{Refusal::not_finite, row, bad, values[bad]};
        }
        return std::nullopt;
    });
}

}  // namespace quantmill
