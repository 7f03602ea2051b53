#include "gptq.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/families.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

Source precision_of(const std::string& dtype) {
    if (dtype == "float32") return Source::float32;
    if (dtype == "float16") return Source::float16;
    if (dtype == "bfloat16") return Source::bfloat16;
    refuse(text("scale_dtype must be float32, float16 or bfloat16, got '", dtype, "'"));
}

GptqGrid checked_grid(int64_t bits, bool symmetric, float mse, const std::string& scale_dtype) {
    if (bits < 2 || bits > 8) refuse(text("bits must be 2 to 8, got ", bits));
    if (!(mse >= 0.0f && mse <= 8.0f)) refuse(text("mse must be 0 to 8, got ", text_of(mse)));
    return {static_cast<int>(bits), symmetric, mse, precision_of(scale_dtype)};
}

size_t checked_group(int64_t group_size, size_t cols) {
    if (group_size == -1) return cols;
    if (group_size >= 1 && cols % size_t(group_size) == 0) return size_t(group_size);
    refuse(text("group_size must be -1 or divide the ", cols, " columns, got ", group_size));
}

Weights checked_weights(nb::handle weights, const Array& array) {
    const Weights checked = {source_of(weights, array), array.data(), array.shape(0), array.shape(1)};
    if (checked.cols == 0) refuse("weights have no columns");
    return checked;
}

// A copy, because a view of a file may stand at any address.
template <typename Scalar>
std::vector<Scalar> copied(const Array& array) {
    std::vector<Scalar> values(array.size());
    if (!values.empty()) std::memcpy(values.data(), array.data(), values.size() * sizeof(Scalar));
    return values;
}

[[noreturn]] void refuse_value(const Refused& refused, const std::string& scale_dtype) {
    const std::string place = text("row ", refused.row, ", column ", refused.col);
    switch (refused.reason) {
        case Refusal::not_finite:
            refuse(text(place, " is ", text_of(refused.value), ", only finite values can be quantized"));
        case Refusal::too_large:
            refuse(text(place, " is ", text_of(refused.value), ", the largest magnitude is ", text_of(gptq_largest)));
        case Refusal::scale_overflow: break;
    }
    refuse(text(place, ": the group from there on needs a scale that ", scale_dtype, " cannot hold"));
}

const float* checked_factor(const Array& factor, size_t cols) {
    if (factor.shape(0) != cols || factor.shape(1) != cols) {
        refuse(text("factor must be ", cols, " x ", cols, " like the columns of the weights, got ", factor.shape(0),
                    " x ", factor.shape(1)));
    }
    if (reinterpret_cast<uintptr_t>(factor.data()) % alignof(float) != 0) refuse("factor must be aligned");
    return static_cast<const float*>(factor.data());
}

void require_factor(const float* factor, size_t cols, size_t threads) {
    std::optional<Refused> bad;
    {
        const GilReleased others_run;
        bad = first_bad_factor(factor, cols, threads);
    }
    if (!bad) return;
    refuse(text("factor must be finite and positive on the diagonal, row ", bad->row, ", column ", bad->col, " is ",
                text_of(bad->value)));
}

struct Found {
    Matrix<float> scales;
    Matrix<uint8_t> zeros;

    Found(size_t rows, size_t groups)
        : scales(new_array<float>({rows, groups})), zeros(new_array<uint8_t>({rows, groups})) {}
    GptqScales view() { return {scales.data(), zeros.data(), scales.shape(1)}; }
};

void require_shape(const Array& array, const char* what, size_t rows, size_t groups) {
    if (array.shape(0) == rows && array.shape(1) == groups) return;
    refuse(text(what, " must be ", rows, " x ", groups, ", got ", array.shape(0), " x ", array.shape(1)));
}

// Scales and zero points that the caller gives, into arrays of our own, which are given back to him.
void give(nb::handle scales, nb::handle zeros, const GptqGrid& grid, Found& found) {
    const size_t rows = found.scales.shape(0), groups = found.scales.shape(1), n = rows * groups;
    const Array array = checked_array_of<float>(scales, "scales", 2, "float32");
    require_shape(array, "scales", rows, groups);
    if (n > 0) std::memcpy(found.scales.data(), array.data(), n * sizeof(float));
    const auto place = [groups](size_t i) { return text("row ", i / groups, ", group ", i % groups, " is "); };
    for (size_t i = 0; i < n; ++i) {
        const float scale = found.scales.data()[i];
        if (std::isfinite(scale) && scale > 0.0f) continue;
        refuse(text("scales must be finite and positive, ", place(i), text_of(scale)));
    }
    const int highest = (1 << grid.bits) - 1;
    if (zeros.is_none()) {
        if (!grid.symmetric) refuse("scales without zeros are for symmetric ranges");
        std::memset(found.zeros.data(), (highest + 1) / 2, n);
        return;
    }
    const Array points = checked_array_of<uint8_t>(zeros, "zeros", 2, "uint8");
    require_shape(points, "zeros", rows, groups);
    if (n > 0) std::memcpy(found.zeros.data(), points.data(), n);
    for (size_t i = 0; i < n; ++i) {
        const int zero = found.zeros.data()[i];
        if (zero > highest) refuse(text("zeros must be 0 to ", highest, ", ", place(i), zero));
    }
}

std::vector<int32_t> checked_group_index(nb::handle group_index, size_t cols, size_t groups) {
    const Array array = checked_array_of<int32_t>(group_index, "group_index", 1, "int32");
    if (array.shape(0) != cols) refuse(text("group_index has ", array.shape(0), " values for ", cols, " columns"));
    std::vector<int32_t> index = copied<int32_t>(array);
    for (size_t col = 0; col < cols; ++col) {
        if (index[col] >= 0 && size_t(index[col]) < groups) continue;
        refuse(text("group_index must be 0 to ", groups - 1, ", column ", col, " is ", index[col]));
    }
    return index;
}

nb::tuple solve(nb::handle weights, nb::handle factor, int64_t bits, int64_t group_size, bool symmetric,
                nb::handle scales, nb::handle zeros, nb::handle group_index, float mse, const std::string& scale_dtype,
                int64_t threads) {
    const size_t n_threads = checked_threads(threads);
    const GptqGrid grid = checked_grid(bits, symmetric, mse, scale_dtype);
    const Array array = checked_array(weights, "weights", 2);
    const Weights checked = checked_weights(weights, array);
    const Array factor_array = checked_array_of<float>(factor, "factor", 2, "float32");
    const float* const factor_values = checked_factor(factor_array, checked.cols);
    require_factor(factor_values, checked.cols, n_threads);
    const size_t group_columns = checked_group(group_size, checked.cols);

    Found found(checked.rows, checked.cols / group_columns);
    if (!scales.is_none()) give(scales, zeros, grid, found);
    if (scales.is_none() && !zeros.is_none()) refuse("zeros are given without scales");
    if (scales.is_none() && !group_index.is_none()) {
        refuse("group_index is given without scales: groups whose columns are not together have no first column");
    }
    std::vector<int32_t> index;
    if (!group_index.is_none()) index = checked_group_index(group_index, checked.cols, found.scales.shape(1));

    const GptqProblem problem = {factor_values, checked.cols, group_columns, index.empty() ? nullptr : index.data(),
                                 scales.is_none(), grid};
    const Matrix<uint8_t> codes(new_array<uint8_t>({checked.rows, checked.cols}));
    const Vector<float> losses(new_array<float>({checked.rows}));
    std::optional<Refused> refused;
    {
        const GilReleased others_run;
        refused = solve_gptq(problem, checked, found.view(), codes.data(), losses.data(), n_threads);
    }
    if (refused) refuse_value(*refused, scale_dtype);
    return nb::make_tuple(codes, found.scales, found.zeros, losses);
}

nb::tuple find_scales(nb::handle weights, int64_t bits, int64_t group_size, bool symmetric, float mse,
                      const std::string& scale_dtype, int64_t threads) {
    const size_t n_threads = checked_threads(threads);
    const GptqGrid grid = checked_grid(bits, symmetric, mse, scale_dtype);
    const Array array = checked_array(weights, "weights", 2);
    const Weights checked = checked_weights(weights, array);
    const size_t group_columns = checked_group(group_size, checked.cols);
    Found found(checked.rows, checked.cols / group_columns);
    std::optional<Refused> refused;
    {
        const GilReleased others_run;
        refused = find_gptq_scales(grid, checked, group_columns, found.view(), n_threads);
    }
    if (refused) refuse_value(*refused, scale_dtype);
    return nb::make_tuple(found.scales, found.zeros);
}

}  // namespace

void add_gptq(nb::module_& m) {
    m.def("solve_gptq", solve, "weights"_a, "factor"_a, nb::kw_only(), "bits"_a, "group_size"_a = -1,
          "symmetric"_a = true, "scales"_a = nb::none(), "zeros"_a = nb::none(), "group_index"_a = nb::none(),
          "mse"_a = 0.0f, "scale_dtype"_a = "float32", "threads"_a = 1,
          nb::sig("def solve_gptq(weights: numpy.typing.NDArray[typing.Any], "
                  "factor: numpy.typing.NDArray[numpy.float32], *, bits: int, group_size: int = -1, "
                  "symmetric: bool = True, scales: numpy.typing.NDArray[numpy.float32] | None = None, "
                  "zeros: numpy.typing.NDArray[numpy.uint8] | None = None, "
                  "group_index: numpy.typing.NDArray[numpy.int32] | None = None, mse: float = 0.0, "
                  "scale_dtype: typing.Literal['float32', 'float16', 'bfloat16'] = 'float32', threads: int = 1) "
                  "-> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32], "
                  "numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32]]"),
          R"(GPTQ (Frantar et al., arXiv 2210.17323): codes (out, in) whose outputs are closest to those of `weights`.

Gives codes uint8 (out, in), scales float32 (out, groups), zeros uint8 (out, groups) and losses float32 (out,). A weight
is scale * (code - zero). A loss is half the sum over the columns of (error / factor's diagonal value) squared: half of
(W - Q) H (W - Q)^T.

`weights` is float32, float16 or bfloat16 (out, in), C-contiguous, columns in the order in which they are solved.
`factor` is float32 (in, in), C-contiguous, the upper triangular U with U^T U = H^-1 for the damped Hessian H of the
same order; what is below the diagonal is not read. Set columns that no input reaches to 0 in `weights`, and their
diagonal value of H to 1. `bits` is 2 to 8.

Groups are `group_size` columns that follow each other, or with -1 the row. Scale and zero are found when a group's
first column is reached, from the weights with all earlier errors subtracted: the range of the group and 0, with
`symmetric` as wide on both sides of 0 and zero 2^(bits-1). With `mse` p > 0 (2.4 is usual) 80 ranges down to 0.21 of
that are tried for the least sum of |error|^p. `scale_dtype` rounds a scale to what will be stored, before codes are
chosen for it. Or `scales` and, unless symmetric, `zeros` are given; then `group_index`, int32 (in,), may say the group
of each column.

The bits of the result are those of the plain algorithm, one column after the other in float32, on every instruction
set, and do not depend on `threads`.

Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.)");
    m.def("find_gptq_scales", find_scales, "weights"_a, nb::kw_only(), "bits"_a, "group_size"_a = -1,
          "symmetric"_a = true, "mse"_a = 0.0f, "scale_dtype"_a = "float32", "threads"_a = 1,
          nb::sig("def find_gptq_scales(weights: numpy.typing.NDArray[typing.Any], *, bits: int, group_size: int = -1, "
                  "symmetric: bool = True, mse: float = 0.0, "
                  "scale_dtype: typing.Literal['float32', 'float16', 'bfloat16'] = 'float32', threads: int = 1) "
                  "-> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint8]]"),
          R"(Scales float32 (out, groups) and zeros uint8 (out, groups) of weights as they are, by the rules of solve_gptq.

For static groups: found in the order of the checkpoint, given to solve_gptq with the columns in another one.

Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.)");
}

}  // namespace quantmill
