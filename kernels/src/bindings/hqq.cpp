#include "hqq.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/families.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

// ---- the solver ----

constexpr int64_t known_nbits[] = {1, 2, 3, 4, 5, 6, 8};
constexpr int64_t most_iters = 1000;

int checked_nbits(int64_t nbits) {
    for (const int64_t known : known_nbits) {
        if (nbits == known) return static_cast<int>(nbits);
    }
    refuse(text("nbits must be 1, 2, 3, 4, 5, 6 or 8, got ", nbits));
}

int checked_axis(int64_t axis) {
    if (axis != 0 && axis != 1) refuse(text("axis must be 0 or 1, got ", axis));
    return static_cast<int>(axis);
}

int checked_iters(int64_t iters) {
    if (iters < 0 || iters > most_iters) refuse(text("iters must be 0 to ", most_iters, ", got ", iters));
    return static_cast<int>(iters);
}

float checked_lp_norm(double lp_norm) {
    const float rounded = static_cast<float>(lp_norm);
    if (!(rounded > 0.0f && rounded <= 1.0f)) {
        refuse(text("lp_norm must be above 0 and at most 1, got ", text_of(rounded)));
    }
    return rounded;
}

float checked_positive(const char* what, double value) {
    const float rounded = static_cast<float>(value);
    if (!(rounded >= 1e-30f && rounded <= 1e30f)) {
        refuse(text(what, " must be 1e-30 to 1e30, got ", text_of(rounded)));
    }
    return rounded;
}

Source checked_compute_dtype(const std::string& name) {
    if (name == "float32") return Source::float32;
    if (name == "float16") return Source::float16;
    if (name == "bfloat16") return Source::bfloat16;
    refuse(text("compute_dtype must be float32, float16 or bfloat16, got '", name, "'"));
}

HqqGroups checked_groups(nb::handle values, std::optional<int64_t> group_size, int axis) {
    const Array array = checked_array(values, "values", 2);
    const size_t rows = array.shape(0), cols = array.shape(1), n = rows * cols;
    HqqGroups groups{source_of(values, array), array.data(), rows, cols, axis};
    if (!group_size) {
        if (axis == 0) std::swap(groups.count, groups.size);
        return groups;
    }
    if (*group_size < 8 || *group_size % 8 != 0) {
        refuse(text("group_size must be a positive multiple of 8, got ", *group_size));
    }
    groups.size = static_cast<size_t>(*group_size);
    if (n % groups.size != 0) {
        refuse(text(rows, " rows of ", cols, " columns are ", n, " values, not a multiple of group_size ", groups.size));
    }
    groups.count = n / groups.size;
    return groups;
}

std::string sentence(const HqqRefused& refused, size_t cols, Source compute_dtype) {
    const std::string place = text("row ", refused.index / cols, ", column ", refused.index % cols);
    if (!std::isfinite(refused.value)) {
        return text(place, " is ", text_of(refused.value), ", only finite values can be quantized");
    }
    return text(place, " is ", text_of(refused.value), ", the largest magnitude that can be quantized is ",
                text_of(largest_hqq_value(compute_dtype)));
}

nb::tuple solve(nb::handle values, int64_t nbits, std::optional<int64_t> group_size, int64_t axis, double lp_norm,
                double beta, double kappa, int64_t iters, bool integer_zero, const std::string& compute_dtype,
                int64_t threads) {
    const HqqSettings settings{checked_nbits(nbits),
                               checked_lp_norm(lp_norm),
                               checked_positive("beta", beta),
                               checked_positive("kappa", kappa),
                               checked_iters(iters),
                               integer_zero,
                               checked_compute_dtype(compute_dtype)};
    const size_t n_threads = checked_threads(threads);
    const HqqGroups groups = checked_groups(values, group_size, checked_axis(axis));
    const bool in_rows = groups.axis == 1;
    const size_t lines = in_rows ? groups.count : groups.size, length = in_rows ? groups.size : groups.count;
    const auto codes = new_array<uint8_t>({lines, length});
    const auto scale = new_array<float>({in_rows ? lines : 1, in_rows ? 1 : length});
    const auto zero = new_array<float>({in_rows ? lines : 1, in_rows ? 1 : length});
    std::optional<HqqRefused> refused;
    {
        const GilReleased unlocked;
        refused = solve_hqq(groups, settings, {codes.data(), scale.data(), zero.data()}, n_threads);
    }
    const size_t cols = nb::cast<size_t>(values.attr("shape")[nb::int_(1)]);
    if (refused) refuse(sentence(*refused, cols, settings.compute_dtype));
    return nb::make_tuple(codes, scale, zero);
}

// ---- codes to values ----

// A copy, because a view of a file may stand at any address.
std::vector<float> copied(const Array& array) {
    std::vector<float> values(array.size());
    if (!values.empty()) std::memcpy(values.data(), array.data(), values.size() * sizeof(float));
    return values;
}

std::string shape_of(const Array& array) { return text("(", array.shape(0), ", ", array.shape(1), ")"); }

Matrix<float> decode(nb::handle codes, nb::handle scale, nb::handle zero, std::pair<int64_t, int64_t> shape,
                     int64_t threads) {
    const size_t n_threads = checked_threads(threads);
    const Array all_codes = checked_array_of<uint8_t>(codes, "codes", 2, "uint8");
    const Array scales = checked_array_of<float>(scale, "scale", 2, "float32");
    const Array zeros = checked_array_of<float>(zero, "zero", 2, "float32");
    const size_t lines = all_codes.shape(0), length = all_codes.shape(1);
    const bool in_rows = scales.shape(0) == lines && scales.shape(1) == 1;
    if (!in_rows && !(scales.shape(0) == 1 && scales.shape(1) == length)) {
        refuse(text("codes of shape ", shape_of(all_codes), " need a scale of shape (", lines, ", 1) or (1, ", length,
                    "), got ", shape_of(scales)));
    }
    if (zeros.shape(0) != scales.shape(0) || zeros.shape(1) != scales.shape(1)) {
        refuse(text("scale has shape ", shape_of(scales), ", zero has ", shape_of(zeros)));
    }
    const auto [rows, cols] = shape;
    const bool holds_all = rows >= 0 && cols >= 0 && (cols == 0 || size_t(rows) <= all_codes.size() / size_t(cols)) &&
                           size_t(rows) * size_t(cols) == all_codes.size();
    if (!holds_all) refuse(text("shape (", rows, ", ", cols, ") does not hold ", all_codes.size(), " codes"));
    const Matrix<float> values(new_array<float>({size_t(rows), size_t(cols)}));
    const uint8_t* const first_code = static_cast<const uint8_t*>(all_codes.data());
    const std::vector<float> one_scale_each = copied(scales), one_zero_each = copied(zeros);
    {
        const GilReleased unlocked;
        decode_hqq({first_code, one_scale_each.data(), one_zero_each.data()}, in_rows ? 1 : 0, lines, length,
                   values.data(), n_threads);
    }
    return values;
}

// ---- packing ----

const RowPacking& packing_named(const std::string& name) {
    if (const RowPacking* const packing = find_row_packing(name)) return *packing;
    std::string known;
    for (const RowPacking& packing : row_packings) known += text(known.empty() ? "" : ", ", packing.name);
    refuse(text("unknown packing '", name, "', the known ones are: ", known));
}

// Uninitialized words of the packing's dtype, and where they begin.
std::pair<nb::object, uint8_t*> new_words(const RowPacking& packing, size_t rows, size_t cols) {
    if (packing.word_bytes == 1) {
        const auto bytes = new_array<uint8_t>({rows, cols});
        return {nb::cast(bytes), bytes.data()};
    }
    const auto words = new_array<int32_t>({rows, cols});
    return {nb::cast(words), reinterpret_cast<uint8_t*>(words.data())};
}

nb::object pack(const std::string& packing, nb::handle codes, int64_t threads) {
    const RowPacking& named = packing_named(packing);
    const size_t n_threads = checked_threads(threads);
    const Array array = checked_array_of<uint8_t>(codes, "codes", 2, "uint8");
    const PackedRows shape = packed_rows_of(named, array.shape(0), array.shape(1));
    if (!named.padded && shape.rows % named.parts != 0) {
        refuse(text(named.name, " packs ", named.parts, " rows into one, ", shape.rows,
                    " rows are not a multiple of that"));
    }
    const auto [words, first] = new_words(named, shape.packed_rows, shape.cols);
    const uint8_t* const first_code = static_cast<const uint8_t*>(array.data());
    std::optional<size_t> refused;
    {
        const GilReleased unlocked;
        refused = pack_rows(shape, first_code, first, n_threads);
    }
    if (refused) {
        refuse(text("row ", *refused / shape.cols, ", column ", *refused % shape.cols, " is ", first_code[*refused],
                    ", the largest code of ", named.name, " is ", (1 << named.bits) - 1));
    }
    return words;
}

Array checked_words(const RowPacking& packing, nb::handle packed) {
    if (packing.word_bytes == 1) return checked_array_of<uint8_t>(packed, "packed", 2, "uint8");
    return checked_array_of<int32_t>(packed, "packed", 2, "int32");
}

Matrix<uint8_t> unpack(const std::string& packing, nb::handle packed, int64_t rows, int64_t threads) {
    const RowPacking& named = packing_named(packing);
    const size_t n_threads = checked_threads(threads);
    const Array array = checked_words(named, packed);
    const size_t packed_rows = array.shape(0), cols = array.shape(1), most = packed_rows * named.parts;
    const bool fits = rows >= 0 && size_t(rows) <= most && (named.padded ? most - size_t(rows) < named.parts
                                                                         : most == size_t(rows));
    if (!fits) refuse(text(packed_rows, " rows of ", named.name, " hold ", most, " rows of codes, not ", rows));
    const Matrix<uint8_t> codes(new_array<uint8_t>({size_t(rows), cols}));
    {
        const GilReleased unlocked;
        unpack_rows(packed_rows_of(named, size_t(rows), cols), static_cast<const uint8_t*>(array.data()), codes.data(),
                    n_threads);
    }
    return codes;
}

}  // namespace

void add_hqq(nb::module_& m) {
    m.def("solve_hqq", solve, "values"_a, nb::kw_only(), "nbits"_a, "group_size"_a = nb::none(), "axis"_a = 1,
          "lp_norm"_a = 0.7, "beta"_a = 10.0, "kappa"_a = 1.01, "iters"_a = 20, "integer_zero"_a = false,
          "compute_dtype"_a = "float32", "threads"_a = 1,
          nb::sig("def solve_hqq(values: numpy.typing.NDArray[typing.Any], *, nbits: int, "
                  "group_size: int | None = None, axis: int = 1, lp_norm: float = 0.7, beta: float = 10.0, "
                  "kappa: float = 1.01, iters: int = 20, integer_zero: bool = False, "
                  "compute_dtype: str = 'float32', threads: int = 1) "
                  "-> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32], "
                  "numpy.typing.NDArray[numpy.float32]]"),
          R"(Quantize a matrix by groups as hqq stores them: (codes, scale, zero) with value ~ (code - zero) * scale.

`values` is (rows, cols) float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous, finite.
It is grouped as in hqq 0.2.8: for axis 1 reshaped to (-1, group_size), with scale and zero (groups, 1); for axis 0 to
(group_size, -1), with scale and zero (1, groups). Without a group_size rows (axis 1) or columns (axis 0) are groups.
`codes` is uint8 in that shape, 0 .. 2**nbits - 1, not packed; nbits is 1, 2, 3, 4, 5, 6 or 8.

Scale and zero minimize the squared error, refitted for at most `iters` rounds. Where values lie further than
beta**(-1 / (2 - lp_norm)) from what stands for them, half-quadratic rounds follow, which lower sum |error|**lp_norm;
beta grows by kappa in each (Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models).

`scale` and `zero` are float32 arrays of numbers that `compute_dtype` (float32, float16, bfloat16) holds exactly, and
the codes are rounded for those. With `integer_zero` zeros are whole numbers in 0 .. 2**nbits - 1, as integer formats
need them, at a larger error. Nothing depends on `threads`.

Raises ValueError for a shape, an option or a value that does not fit, naming its row and column; TypeError for a dtype.)");
    m.def("decode_hqq", decode, "codes"_a, "scale"_a, "zero"_a, "shape"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def decode_hqq(codes: numpy.typing.NDArray[numpy.uint8], "
                  "scale: numpy.typing.NDArray[numpy.float32], zero: numpy.typing.NDArray[numpy.float32], "
                  "shape: tuple[int, int], *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]"),
          R"(Values of a group-wise quantized matrix: (code - zero) * scale in float32, reshaped to `shape`.

`codes`, `scale` and `zero` are as solve_hqq gives them; their shapes tell the axis.

Raises ValueError for shapes that do not fit each other, TypeError for a dtype.)");
    m.def("pack_hqq", pack, "packing"_a, "codes"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def pack_hqq(packing: str, codes: numpy.typing.NDArray[numpy.uint8], *, threads: int = 1) "
                  "-> numpy.typing.NDArray[typing.Any]"),
          R"(Pack the rows of a grouped matrix of codes (n, m) as hqq's BitPack does.

`packing` is 8bit_u8, 4bit_u8, 2bit_u8 or 1bit_u8: 1, 2, 4 or 8 rows in one of uint8, (n / rows, m); or 3bit_32: ten rows
in one of int32, (ceil(n / 10), m), missing rows being zeros. Part k of the rows stands below part k - 1 in the word.

Raises ValueError for a number of rows that does not fit, for a code that is too large, naming its row and column, or
for an unknown packing; TypeError for a dtype.)");
    m.def("unpack_hqq", unpack, "packing"_a, "packed"_a, "rows"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def unpack_hqq(packing: str, packed: numpy.typing.NDArray[typing.Any], rows: int, *, "
                  "threads: int = 1) -> numpy.typing.NDArray[numpy.uint8]"),
          R"(The (rows, m) codes that pack_hqq packed; any bits are accepted.

`packed` is uint8, or int32 for 3bit_32. Raises ValueError for a number of rows that the packed ones do not hold or an
unknown packing, TypeError for a dtype.)");
}

}  // namespace quantmill
