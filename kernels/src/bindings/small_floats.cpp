#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/families.h"
#include "bindings/checked_weights.h"
#include "fp8.h"
#include "microscaling.h"
#include "precision.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

constexpr std::array<Choice<Fp8Strategy>, 3> strategies = {
    {{"tensor", Fp8Strategy::tensor}, {"channel", Fp8Strategy::channel}, {"block", Fp8Strategy::block}}};
constexpr std::array<Choice<Source>, 3> dtypes = {
    {{"float32", Source::float32}, {"float16", Source::float16}, {"bfloat16", Source::bfloat16}}};

// One dimension for a tensor, as the consumers of such checkpoints expect; else (scale_rows, scale_cols).
template <typename Scalar>
nb::ndarray<nb::numpy, Scalar> new_scales(Fp8Strategy strategy, const Fp8Grid& grid) {
    if (strategy == Fp8Strategy::tensor) return new_array<Scalar>({1});
    return new_array<Scalar>({grid.scale_rows, grid.scale_cols});
}

std::string shape_of(const Array& array) {
    std::string shape;
    for (size_t d = 0; d < array.ndim(); ++d) shape += text(d == 0 ? "" : ", ", array.shape(d));
    return text("(", shape, array.ndim() == 1 ? ",)" : ")");
}

// A copy, because a view of a file may stand at any address.
std::vector<float> checked_scales(nb::handle scale, Fp8Strategy strategy, const Fp8Grid& grid) {
    const bool flat = strategy == Fp8Strategy::tensor;
    const Array array = checked_array_of<float>(scale, "scale", flat ? 1 : 2, "float32");
    const bool fits = flat ? array.shape(0) == 1
                           : array.shape(0) == grid.scale_rows && array.shape(1) == grid.scale_cols;
    if (!fits) {
        const std::string needed = flat ? "(1,)" : text("(", grid.scale_rows, ", ", grid.scale_cols, ")");
        refuse(text("scale must have the shape ", needed, ", got ", shape_of(array)));
    }
    std::vector<float> scales(array.size());
    if (!scales.empty()) std::memcpy(scales.data(), array.data(), scales.size() * sizeof(float));
    return scales;
}

void round_given_scales(std::vector<float>& scales, Source dtype) {
    for (size_t i = 0; i < scales.size(); ++i) {
        const float stored = std::isfinite(scales[i]) ? rounded(dtype, scales[i]) : scales[i];
        if (!(stored > 0.0f) || !std::isfinite(stored)) {
            refuse(text("scale must be finite and positive in its dtype, entry ", i, " is ", text_of(scales[i])));
        }
        scales[i] = stored;
    }
}

nb::tuple encode_fp8_array(nb::handle values, const std::string& strategy_name, const std::string& scale_dtype,
                           nb::handle scale, int64_t threads) {
    const Fp8Strategy strategy = chosen(strategies, "strategy", strategy_name);
    const Source dtype = chosen(dtypes, "scale_dtype", scale_dtype);
    const size_t n_threads = checked_threads(threads);
    const CheckedWeights checked(values);
    const Weights& weights = checked.weights;
    const Fp8Grid grid = fp8_grid(strategy, weights.rows, weights.cols);
    const auto scales = new_scales<float>(strategy, grid);
    const bool given = !scale.is_none();
    if (given) {
        std::vector<float> stored = checked_scales(scale, strategy, grid);
        round_given_scales(stored, dtype);
        std::copy(stored.begin(), stored.end(), scales.data());
    }
    const Matrix<uint8_t> codes(new_array<uint8_t>({weights.rows, weights.cols}));
    std::optional<RefusedWeight> refused;
    {
        const GilReleased others_run;
        refused = encode_fp8(weights, strategy, dtype, given, scales.data(), codes.data(), n_threads);
    }
    refuse_if(refused);
    return nb::make_tuple(codes, scales);
}

Matrix<float> decode_fp8_array(nb::handle codes, nb::handle scale, const std::string& strategy_name, int64_t threads) {
    const Fp8Strategy strategy = chosen(strategies, "strategy", strategy_name);
    const size_t n_threads = checked_threads(threads);
    const Array array = checked_array_of<uint8_t>(codes, "codes", 2, "uint8");
    const size_t rows = array.shape(0), cols = array.shape(1);
    const std::vector<float> scales = checked_scales(scale, strategy, fp8_grid(strategy, rows, cols));
    const Matrix<float> values(new_array<float>({rows, cols}));
    {
        const GilReleased others_run;
        decode_fp8(static_cast<const uint8_t*>(array.data()), scales.data(), strategy, rows, cols, values.data(),
                   n_threads);
    }
    return values;
}

float checked_absmax(float absmax) {
    if (!(absmax >= 0.0f) || !std::isfinite(absmax)) {
        refuse(text("absmax must be finite and not negative, got ", text_of(absmax)));
    }
    return absmax;
}

float fp8_scale_of(float absmax, const std::string& scale_dtype) {
    return fp8_scale(checked_absmax(absmax), chosen(dtypes, "scale_dtype", scale_dtype));
}

float nvfp4_global_scale_of(float absmax, const std::string& dtype) {
    return nvfp4_global_scale(checked_absmax(absmax), chosen(dtypes, "dtype", dtype));
}

float absmax_of(nb::handle values, int64_t threads) {
    const size_t n_threads = checked_threads(threads);
    const CheckedWeights checked(values);
    float largest;
    std::optional<RefusedWeight> refused;
    {
        const GilReleased others_run;
        largest = absmax(checked.weights, n_threads);
        if (!std::isfinite(largest)) refused = first_not_finite(checked.weights);
    }
    refuse_if(refused);
    return largest;
}

void require_groups(const char* format, size_t cols, size_t group) {
    if (cols % group != 0) {
        refuse(text(format, " has groups of ", group, " values, ", cols, " columns are not a multiple of that"));
    }
}

// Codes and scales of `values`: encode(weights, codes, scales, threads) fills them.
template <typename Encode>
std::pair<Matrix<uint8_t>, Matrix<uint8_t>> encode_groups(const Weights& weights, size_t group, size_t codes_per_byte,
                                                          int64_t threads, const Encode& encode) {
    const size_t n_threads = checked_threads(threads);
    const Matrix<uint8_t> codes(new_array<uint8_t>({weights.rows, weights.cols / codes_per_byte}));
    const Matrix<uint8_t> scales(new_array<uint8_t>({weights.rows, weights.cols / group}));
    std::optional<RefusedWeight> refused;
    {
        const GilReleased others_run;
        refused = encode(weights, codes.data(), scales.data(), n_threads);
    }
    refuse_if(refused);
    return {codes, scales};
}

template <typename Decode>
Matrix<float> decode_groups(nb::handle codes, const char* codes_name, size_t codes_per_byte, nb::handle scales,
                            const char* scales_name, size_t group, int64_t threads, const Decode& decode) {
    const size_t n_threads = checked_threads(threads);
    const Array code_array = checked_array_of<uint8_t>(codes, codes_name, 2, "uint8");
    const Array scale_array = checked_array_of<uint8_t>(scales, scales_name, 2, "uint8");
    const size_t rows = code_array.shape(0), cols = code_array.shape(1) * codes_per_byte;
    if (cols % group != 0 || scale_array.shape(0) != rows || scale_array.shape(1) != cols / group) {
        refuse(text(scales_name, " must have one entry for each group of ", group, " of the ", rows, " x ", cols,
                    " codes, got ", shape_of(scale_array)));
    }
    const Matrix<float> values(new_array<float>({rows, cols}));
    {
        const GilReleased others_run;
        decode(static_cast<const uint8_t*>(code_array.data()), static_cast<const uint8_t*>(scale_array.data()), rows,
               cols, values.data(), n_threads);
    }
    return values;
}

float checked_global_scale(float global_scale) {
    if (!(global_scale > 0.0f) || !std::isfinite(global_scale)) {
        refuse(text("global_scale must be finite and positive, got ", text_of(global_scale)));
    }
    return global_scale;
}

nb::tuple encode_nvfp4_array(nb::handle values, std::optional<float> global_scale, int64_t threads) {
    const CheckedWeights checked(values);
    require_groups("NVFP4", checked.weights.cols, nvfp4_group);
    const float scale = global_scale ? checked_global_scale(*global_scale)
                                     : nvfp4_global_scale(absmax_of(values, threads), checked.weights.source);
    const auto [packed, scales] = encode_groups(
        checked.weights, nvfp4_group, 2, threads,
        [scale](const Weights& weights, uint8_t* codes, uint8_t* group_scales, size_t n_threads) {
            return encode_nvfp4(weights, scale, codes, group_scales, n_threads);
        });
    return nb::make_tuple(packed, scales, scale);
}

Matrix<float> decode_nvfp4_array(nb::handle packed, nb::handle scale, float global_scale, int64_t threads) {
    const float divisor = checked_global_scale(global_scale);
    return decode_groups(packed, "packed", 2, scale, "scale", nvfp4_group, threads,
                         [divisor](const uint8_t* codes, const uint8_t* scales, size_t rows, size_t cols, float* values,
                                   size_t n_threads) {
                             decode_nvfp4(codes, scales, divisor, rows, cols, values, n_threads);
                         });
}

nb::tuple encode_mxfp4_array(nb::handle values, int64_t threads) {
    const CheckedWeights checked(values);
    require_groups("MXFP4", checked.weights.cols, mx_group);
    const auto [packed, exponents] = encode_groups(checked.weights, mx_group, 2, threads, encode_mxfp4);
    return nb::make_tuple(packed, exponents);
}

nb::tuple encode_mxfp8_array(nb::handle values, int64_t threads) {
    const CheckedWeights checked(values);
    require_groups("MXFP8", checked.weights.cols, mx_group);
    const auto [codes, exponents] = encode_groups(checked.weights, mx_group, 1, threads, encode_mxfp8);
    return nb::make_tuple(codes, exponents);
}

Matrix<float> decode_mxfp4_array(nb::handle packed, nb::handle exponents, int64_t threads) {
    return decode_groups(packed, "packed", 2, exponents, "exponents", mx_group, threads, decode_mxfp4);
}

Matrix<float> decode_mxfp8_array(nb::handle codes, nb::handle exponents, int64_t threads) {
    return decode_groups(codes, "codes", 1, exponents, "exponents", mx_group, threads, decode_mxfp8);
}

#define VALUES "values: numpy.typing.NDArray[typing.Any]"
#define BYTES "numpy.typing.NDArray[numpy.uint8]"
#define FLOATS "numpy.typing.NDArray[numpy.float32]"

void add_fp8(nb::module_& m) {
    m.def("encode_fp8", encode_fp8_array, "values"_a, nb::kw_only(), "strategy"_a = "channel",
          "scale_dtype"_a = "float32", "scale"_a = nb::none(), "threads"_a = 1,
          nb::sig("def encode_fp8(" VALUES ", *, strategy: str = 'channel', scale_dtype: str = 'float32', "
                  "scale: " FLOATS " | None = None, threads: int = 1) -> tuple[" BYTES ", " FLOATS "]"),
          R"(Quantize a matrix to FP8 E4M3FN: codes uint8 (rows, cols) and scales float32, value = scale * code.

`strategy` says what shares a scale: "tensor", scale (1,); "channel", a row, scale (rows, 1); "block", 128 x 128 values,
fewer at the edges, scale (ceil(rows / 128), ceil(cols / 128)). A scale is absmax / 448 rounded to `scale_dtype`
("float32", "float16" or "bfloat16"), whose machine epsilon stands for 0. A `scale` that is given, of these shapes, is
rounded to `scale_dtype` and used instead: to share one between tensors, or, with ones, to cast.

Codes are those of torch and compressed-tensors: (values / scale).clamp(-448, 448) rounded half to even, after the
quotient was rounded to the dtype of both where values and scale have the same, else to float32. -0.0 keeps its sign.

`values` is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous, finite. The bytes do
not depend on `threads`.

Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.)");
    m.def("decode_fp8", decode_fp8_array, "codes"_a, "scale"_a, nb::kw_only(), "strategy"_a = "channel",
          "threads"_a = 1,
          nb::sig("def decode_fp8(codes: " BYTES ", scale: " FLOATS ", *, strategy: str = 'channel', "
                  "threads: int = 1) -> " FLOATS),
          R"(Values of FP8 E4M3FN codes: uint8 (rows, cols), C-contiguous, to scale * code, float32 (rows, cols).

`scale` has the shape that encode_fp8 gives for the `strategy`. The codes 0x7F and 0xFF are NaN.

Raises ValueError for a shape or a name that does not fit, TypeError for a dtype.)");
    m.def("fp8_scale", fp8_scale_of, "absmax"_a, nb::kw_only(), "scale_dtype"_a = "float32",
          R"(The scale that encode_fp8 gives values of this largest magnitude, to share it between tensors.

Raises ValueError where absmax is negative or not finite.)");
    m.def("absmax", absmax_of, "values"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def absmax(" VALUES ", *, threads: int = 1) -> float"),
          R"(The largest magnitude of a matrix, (rows, cols) of the dtypes that encode_fp8 takes; 0 for an empty one.

Raises ValueError for a value that is not finite, naming its row and column, TypeError for a dtype.)");
}

void add_microscaling(nb::module_& m) {
    m.def("nvfp4_global_scale", nvfp4_global_scale_of, "absmax"_a, nb::kw_only(), "dtype"_a = "float32",
          R"(NVFP4's scale of a tensor, 448 * 6 / absmax in the dtype of its values, rounded as compressed-tensors does.

Tensors that a consumer fuses share that of their common absmax. 1 where it overflows float32; where it overflows float16
alone (absmax below 0.041) the float32 value is kept.

Raises ValueError where absmax is negative or not finite.)");
    m.def("encode_nvfp4", encode_nvfp4_array, "values"_a, nb::kw_only(), "global_scale"_a = nb::none(), "threads"_a = 1,
          nb::sig("def encode_nvfp4(" VALUES ", *, global_scale: float | None = None, threads: int = 1) "
                  "-> tuple[" BYTES ", " BYTES ", float]"),
          R"(Quantize a matrix to NVFP4: packed uint8 (rows, cols / 2), scale uint8 (rows, cols / 16), global scale.

Sixteen columns share a scale, stored as the bits of E4M3: global_scale * absmax / 6, and 0.125 where that rounds to 0.
value = code * scale / global_scale; codes are E2M1 (sign, then 0, 0.5, 1, 1.5, 2, 3, 4, 6), ties to the even code, the
even column in the low half of the byte. `global_scale` is nvfp4_global_scale of these values unless given. The bytes are
compressed-tensors' own, which divides absmax by 6 in the dtype of the values. `values` as in encode_fp8.

Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.)");
    m.def("decode_nvfp4", decode_nvfp4_array, "packed"_a, "scale"_a, "global_scale"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def decode_nvfp4(packed: " BYTES ", scale: " BYTES ", global_scale: float, *, threads: int = 1) "
                  "-> " FLOATS),
          R"(Values of NVFP4, code * (scale / global_scale): float32 (rows, cols), from what encode_nvfp4 gives.

Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.)");
    m.def("encode_mxfp4", encode_mxfp4_array, "values"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def encode_mxfp4(" VALUES ", *, threads: int = 1) -> tuple[" BYTES ", " BYTES "]"),
          R"(Quantize a matrix to MXFP4 as compressed-tensors stores it: packed (rows, cols / 2), exponents (rows, cols / 32).

value = code * 2^(exponent - 127). The exponent is that of the largest magnitude, one more from 1.75 times a power of two
on, less 2, at least 0. Codes are packed as in encode_nvfp4. GGML's MXFP4, encode("MXFP4", ...), rounds its exponent and
orders its codes otherwise. `values` as in encode_fp8.

Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.)");
    m.def("decode_mxfp4", decode_mxfp4_array, "packed"_a, "exponents"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def decode_mxfp4(packed: " BYTES ", exponents: " BYTES ", *, threads: int = 1) -> " FLOATS),
          R"(Values of MXFP4: float32 (rows, cols), from what encode_mxfp4 gives. The exponent 255 is NaN.

Raises ValueError for a shape that does not fit, TypeError for a dtype.)");
    m.def("encode_mxfp8", encode_mxfp8_array, "values"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def encode_mxfp8(" VALUES ", *, threads: int = 1) -> tuple[" BYTES ", " BYTES "]"),
          R"(Quantize a matrix to MXFP8: E4M3 codes (rows, cols), exponents (rows, cols / 32), both uint8.

value = code * 2^(exponent - 127), the exponent as in encode_mxfp4 but less 8. `values` as in encode_fp8.

Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.)");
    m.def("decode_mxfp8", decode_mxfp8_array, "codes"_a, "exponents"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def decode_mxfp8(codes: " BYTES ", exponents: " BYTES ", *, threads: int = 1) -> " FLOATS),
          R"(Values of MXFP8: float32 (rows, cols), from what encode_mxfp8 gives. The exponent 255 is NaN.

Raises ValueError for a shape that does not fit, TypeError for a dtype.)");
}

}  // namespace

void add_small_floats(nb::module_& m) {
    add_fp8(m);
    add_microscaling(m);
}

}  // namespace quantmill
