#include "nested_absmax.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace quantmill {
namespace {

constexpr int decades = 7;

// Point i of n + 1 evenly spaced ones from 0.1 to 1, as torch.linspace has it: from the nearer end, rounded once.
double point(int i, int n) {
    const double step = (1.0f - 0.1f) / static_cast<float>(n);
    return static_cast<float>(2 * i < n + 1 ? double{0.1f} + step * i : 1.0 - step * (n - i));
}

std::array<float, 256> make_dynamic_map() {
    constexpr float powers[decades] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    std::array<float, 256> map = {0.0f, 1.0f};
    size_t filled = 2;
    for (int decade = 0; decade < decades; ++decade) {
        const int steps = 1 << decade;
        for (int i = 0; i < steps; ++i) {
            const float low = static_cast<float>(point(i, steps)), high = static_cast<float>(point(i + 1, steps));
            const float middle = powers[decade] * ((low + high) / 2.0f);
            map[filled++] = middle;
            map[filled++] = -middle;
        }
    }
    std::ranges::sort(map);
    return map;
}

constexpr int grid_steps = 65535;

// The code nearest to each step of the grid from -1 to 1; halfway between two it is the lower one.
std::array<uint8_t, grid_steps + 1> make_codes_of_steps() {
    const std::array<float, 256>& map = dynamic_map();
    std::array<uint8_t, grid_steps + 1> codes;
    size_t code = 0;
    for (int step = 0; step <= grid_steps; ++step) {
        const float value = static_cast<float>(2 * step) / static_cast<float>(grid_steps) - 1.0f;
        while (code < 255 && 0.5f * (map[code] + map[code + 1]) < value) ++code;
        codes[static_cast<size_t>(step)] = static_cast<uint8_t>(code);
    }
    return codes;
}

// A fused multiply-add in float32: in a double the product and the sum are exact, and rounded once after.
int32_t step_of(float scaled) {
    const float clamped = scaled < -1.0f ? -1.0f : scaled > 1.0f ? 1.0f : scaled;
    const double share = (clamped + 1.0f) * 0.5f;
    const float step = static_cast<float>(share * grid_steps + 0.5);
    return step >= 0.0f ? static_cast<int32_t>(step) : 0;  // NaN gives 0
}

// A block of values that are all zero has the code 0.
void encode_block(const float* values, size_t n, float largest, uint8_t* codes) {
    static const std::array<uint8_t, grid_steps + 1> codes_of_steps = make_codes_of_steps();
    if (!(largest > 0.0f)) {
        std::fill_n(codes, n, uint8_t{0});
        return;
    }
    const float inverse = 1.0f / largest;
    constexpr size_t side_by_side = 64;
    for (size_t first = 0; first < n; first += side_by_side) {
        const size_t taken = std::min(n - first, side_by_side);
        int32_t steps[side_by_side];
        for (size_t i = 0; i < taken; ++i) steps[i] = step_of(values[first + i] * inverse);
        for (size_t i = 0; i < taken; ++i) codes[first + i] = codes_of_steps[static_cast<size_t>(steps[i])];
    }
}

// ---- torch's sum: rows of 4 x 8 values are added up side by side, in a cascade of four levels ----

constexpr size_t columns = 4, levels = 4;

template <size_t width>
struct Accumulator {
    float sums[columns][width] = {};

    void add(const float* values) {
        for (size_t i = 0; i < columns * width; ++i) sums[i / width][i % width] += values[i];
    }
    void add(const Accumulator& other) {
        for (size_t column = 0; column < columns; ++column) {
            for (size_t lane = 0; lane < width; ++lane) sums[column][lane] += other.sums[column][lane];
        }
    }
};

template <size_t width>
Accumulator<width> cascade(const float* values, size_t rows) {
    const size_t level_power = std::max<size_t>(4, rows < 2 ? 0 : std::bit_width(rows - 1) / levels);
    const size_t level_step = size_t{1} << level_power;
    Accumulator<width> sums[levels];
    size_t row = 0;
    while (row + level_step <= rows) {
        for (const size_t end = row + level_step; row < end; ++row) sums[0].add(values + row * columns * width);
        for (size_t level = 1; level < levels; ++level) {
            sums[level].add(sums[level - 1]);
            sums[level - 1] = {};
            if ((row & (level_step - 1) << (level * level_power)) != 0) break;
        }
    }
    for (; row < rows; ++row) sums[0].add(values + row * columns * width);
    for (size_t level = 1; level < levels; ++level) sums[0].add(sums[level]);
    return sums[0];
}

template <size_t width>
float sum_of(const float* values, size_t n) {
    const size_t vectors = n / width, rows = vectors / columns;
    Accumulator<width> total = cascade<width>(values, rows);
    for (size_t i = rows * columns; i < vectors; ++i) {
        for (size_t lane = 0; lane < width; ++lane) total.sums[0][lane] += values[i * width + lane];
    }
    for (size_t column = 1; column < columns; ++column) {
        for (size_t lane = 0; lane < width; ++lane) total.sums[0][lane] += total.sums[column][lane];
    }
    float sum = 0.0f;
    for (size_t i = vectors * width; i < n; ++i) sum += values[i];
    for (const float lane : total.sums[0]) sum += lane;
    return sum;
}

}  // namespace

const std::array<float, 256>& dynamic_map() {
    static const std::array<float, 256> map = make_dynamic_map();
    return map;
}

float mean_of(const float* values, size_t n) {
    const float sum = n < 8 ? sum_of<1>(values, n) : sum_of<8>(values, n);
    return sum / static_cast<float>(n);
}

void encode_nested(const float* absmax, size_t n, size_t block_size, float offset, uint8_t* codes, float* nested) {
    std::vector<float> centered(std::min(n, block_size));
    for (size_t first = 0; first < n; first += block_size) {
        const size_t taken = std::min(n - first, block_size);
        for (size_t i = 0; i < taken; ++i) centered[i] = absmax[first + i] - offset;
        uint32_t largest = 0;
        for (size_t i = 0; i < taken; ++i) {
            largest = std::max(largest, std::bit_cast<uint32_t>(centered[i]) & 0x7FFFFFFFu);  // the magnitude
        }
        nested[first / block_size] = std::bit_cast<float>(largest);
        encode_block(centered.data(), taken, nested[first / block_size], codes + first);
    }
}

void decode_nested(const uint8_t* codes, const float* nested, size_t n, size_t block_size, float offset,
                   float* absmax) {
    const std::array<float, 256>& map = dynamic_map();
    for (size_t i = 0; i < n; ++i) absmax[i] = map[codes[i]] * nested[i / block_size] + offset;
}

}  // namespace quantmill
