#include "gptq.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "dispatch.h"
#include "laws.h"

namespace quantmill {
namespace {

std::vector<float> factor_of(std::mt19937& random, size_t cols) {
    std::vector<float> factor = noise(random, cols * cols, 0.05f);
    for (size_t i = 0; i < cols; ++i) factor[i * cols + i] = 1.0f + std::fabs(factor[i * cols + i]);
    return factor;
}

// A strip with exactly the room that it is to have.
struct Strip {
    std::vector<float> columns, scales, zeros, losses;
    std::vector<uint8_t> codes;

    Strip(size_t cols, size_t groups)
        : columns((cols + strip_columns - 1) / strip_columns * strip_columns * strip_rows),
          scales(groups * strip_rows),
          zeros(groups * strip_rows),
          losses(strip_rows),
          codes(cols * strip_rows) {}
    GptqStrip parts() { return {columns.data(), scales.data(), zeros.data(), codes.data(), losses.data()}; }
    bool operator==(const Strip&) const = default;
};

Strip solved(Isa isa, const GptqProblem& problem, const std::vector<float>& weights, size_t rows) {
    const GptqSolver& solver = on(isa, []<Isa one>() -> const GptqSolver& { return gptq_solver<one>(); });
    Strip strip(problem.cols, problem.cols / problem.group_columns);
    solver.load(weights.data(), rows, problem.cols, problem.cols, strip.columns.data());
    const GptqStrip parts = strip.parts();
    std::vector<float> scratch(solver_scratch(problem));
    solver.solve(problem, &parts, 1, scratch.data());
    return strip;
}

void test_strips() {
    std::mt19937 random(31);
    for (const auto& [cols, group] : {std::pair<size_t, size_t>{160, 32}, {136, 8}, {60, 20}, {320, 160}}) {
        const std::vector<float> factor = factor_of(random, cols), weights = noise(random, 21 * cols, 0.02f);
        for (const bool symmetric : {false, true}) {
            for (const float norm : {0.0f, 2.4f}) {
                for (const Source precision : {Source::float32, Source::float16, Source::bfloat16}) {
                    const GptqGrid grid = {3, symmetric, norm, precision};
                    const GptqProblem problem = {factor.data(), cols, group, nullptr, true, grid};
                    const Strip expected = solved(Isa::scalar, problem, weights, 21);
                    for (const Isa isa : runnable_isas()) {
                        if (isa == Isa::scalar) continue;
                        const bool equal = solved(isa, problem, weights, 21) == expected;
                        expect(equal, std::string("GPTQ solves as scalar does on ") + name(isa));
                    }
                }
            }
        }
    }
}

void test_matrices() {
    std::mt19937 random(32);
    const size_t rows = 70, cols = 100, group = 25;
    const std::vector<float> factor = factor_of(random, cols);
    std::vector<float> values = noise(random, rows * cols, 0.02f);
    const Weights weights = {Source::float32, values.data(), rows, cols};
    const GptqGrid grid = {4, false, 0.0f, Source::float32};
    std::vector<float> scales(rows * 4), again_scales(rows * 4), losses(rows), again_losses(rows);
    std::vector<uint8_t> zeros(rows * 4), again_zeros(rows * 4), codes(rows * cols), again(rows * cols);
    expect(!first_bad_factor(factor.data(), cols, 2), "a good factor is taken");

    const GptqProblem finding = {factor.data(), cols, group, nullptr, true, grid};
    const GptqScales found = {scales.data(), zeros.data(), 4}, other = {again_scales.data(), again_zeros.data(), 4};
    expect(!solve_gptq(finding, weights, found, codes.data(), losses.data(), 3), "GPTQ solves");
    expect(!solve_gptq(finding, weights, other, again.data(), again_losses.data(), 1), "GPTQ solves on one thread");
    expect(codes == again && losses == again_losses && scales == again_scales, "GPTQ does not depend on threads");

    std::vector<int32_t> group_of(cols);
    for (size_t col = 0; col < cols; ++col) group_of[col] = static_cast<int32_t>(col % 4);
    const GptqProblem given = {factor.data(), cols, group, group_of.data(), false, grid};
    expect(!solve_gptq(given, weights, found, codes.data(), losses.data(), 3), "GPTQ solves with given scales");

    values[50 * cols + 99] = std::numeric_limits<float>::infinity();
    const auto refused = solve_gptq(finding, weights, found, codes.data(), losses.data(), 3);
    expect(refused && refused->row == 50 && refused->col == 99, "GPTQ names the first bad position");
}

}  // namespace

void gptq_laws() {
    test_strips();
    test_matrices();
}

}  // namespace quantmill
