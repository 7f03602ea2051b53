#include "weights.h"

#include <algorithm>
#include <cfloat>
#include <vector>

#include "dispatch.h"

namespace quantmill {

std::optional<RefusedWeight> first_not_finite(const Weights& weights) {
    const SourceReader& reader =
        on(isa_in_use(), []<Isa isa>() -> const SourceReader& { return source_reader<isa>(); });
    std::vector<float> row(weights.cols);
    for (size_t r = 0; r < weights.rows; ++r) {
        reader.widen(weights.source, at(weights, r, 0), weights.cols, row.data());
        const size_t col = reader.first_unstorable(row.data(), weights.cols, FLT_MAX);
        if (col < weights.cols) return RefusedWeight{r, col, row[col]};
    }
    return std::nullopt;
}

size_t rows_per_range(size_t cols) { return std::max<size_t>(1, 16384 / std::max<size_t>(1, cols)); }

}  // namespace quantmill
